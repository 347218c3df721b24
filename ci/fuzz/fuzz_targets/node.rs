//! Any sequence of inputs, to a node with flash that fails and power that is cut.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::node::run(data));
