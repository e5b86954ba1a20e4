//! Build script: makes Cargo link the kernel again when its linker script changes, which no source file
//! names.

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
}
