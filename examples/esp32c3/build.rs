//! Hands the linker the maps of the chip, which esp-hal has.

fn main() {
    for script in ["-Tdefmt.x", "-Tlinkall.x"] {
        println!("cargo:rustc-link-arg-bins={script}");
    }
}
