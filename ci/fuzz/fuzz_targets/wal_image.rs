//! Any bytes as a flash image, mounted twice.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::wal_image::run(data));
