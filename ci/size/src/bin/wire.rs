//! The wire format: frames made and taken apart.

#![no_std]
#![no_main]

use quorate::wire::{decode, encode, seal};

size::keep![decode, encode, seal];
