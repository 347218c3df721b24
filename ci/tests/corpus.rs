//! The fuzz targets without a fuzzer: over the inputs that were kept, and over random ones.

use std::fs;
use std::path::Path;

/// Random inputs for each target.
const INPUTS: u64 = 300;

/// Numbers that are random enough, and the same every time (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        run(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

fn at_random(run: fn(&[u8])) {
    let mut state = 1;
    for _ in 0..INPUTS {
        let len = random(&mut state) % 600;
        let bytes: Vec<u8> = (0..len).map(|_| random(&mut state) as u8).collect();
        run(&bytes);
    }
}

#[test]
fn frames_that_were_kept_do_no_harm() {
    corpus("wire", quorate_fuzz::wire::run);
}

#[test]
fn random_frames_do_no_harm() {
    at_random(quorate_fuzz::wire::run);
}

#[test]
fn inputs_that_were_kept_do_no_harm() {
    corpus("node", quorate_fuzz::node::run);
}

#[test]
fn random_inputs_do_no_harm() {
    at_random(quorate_fuzz::node::run);
}

#[test]
fn images_that_were_kept_do_no_harm() {
    corpus("wal_image", quorate_fuzz::wal_image::run);
}

#[test]
fn random_images_do_no_harm() {
    at_random(quorate_fuzz::wal_image::run);
}

#[test]
fn operations_that_were_kept_do_no_harm() {
    corpus("wal_ops", quorate_fuzz::wal_ops::run);
}

#[test]
fn random_operations_do_no_harm() {
    at_random(quorate_fuzz::wal_ops::run);
}
