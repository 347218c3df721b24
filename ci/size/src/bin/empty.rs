//! Nothing: what the others are compared with.

#![no_std]
#![no_main]

use size as _;
