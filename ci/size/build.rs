//! Hands the linker the probe's map of the chip.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg-bins=-T{folder}/../probe/link.x");
    println!("cargo:rerun-if-changed=../probe/link.x");
}
