//! The linker script is part of the kernel, though no source file names it: without this, a change
//! in it would not link the kernel anew.

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
}
