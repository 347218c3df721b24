//! The log in RAM.

#![no_std]
#![no_main]

size::keep_log!();
