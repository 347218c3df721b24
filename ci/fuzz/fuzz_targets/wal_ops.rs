//! Any sequence of operations of the flash log, with the power cut anywhere.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::wal_ops::run(data));
