//! Tests with real QEMUs: results of this crate are compared with QEMU's own dumps.
//!
//! `vm` starts QEMU, and `dump` reads its dumps. The guest is the bundled one, from the image beside the
//! stored cores in `tests/offline`, or only firmware.

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
