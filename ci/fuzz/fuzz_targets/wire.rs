//! Any bytes as frames, to the decoder and to a running node.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::wire::run(data));
