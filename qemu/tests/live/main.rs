//! Real QEMUs: what this crate says of them beside what QEMU writes into dumps itself.
//!
//! `vm` starts them; `dump` reads QEMU's own word. The guest is the bundled one, as the stored cores of
//! `tests/offline` have it, or firmware.

#[path = "../common/mod.rs"]
mod common;
mod dump;
mod kill;
mod memory;
mod monitor;
mod registers;
mod times;
mod vm;

#[test]
fn guardian_process() {
    common::serve_as_guardian();
}
