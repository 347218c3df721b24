#![no_std]
//! Draft.
