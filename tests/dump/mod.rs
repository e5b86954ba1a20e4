//! Tests of dumps that QEMU wrote: of the bundled guest, in tests/offline/dumps, made by
//! tests/offline/make-dumps.sh. Only those in `live` need QEMU or KVM.
//!
//! | module | compares the report of a dump with |
//! |---|---|
//! | `golden` | the committed report |
//! | `registers` | the registers that QEMU's monitor printed, and those that gdb reads |
//! | `same` | the report of a core of the same workload and image |
//! | `notes` | the notes of a dump that was changed by hand: fewer, damaged, in another order |
//! | `damage` | the rest of a file that was cut or changed |
//! | `live` | the report of a VM that nmiscope runs now |

mod damage;
mod golden;
mod live;
mod notes;
mod registers;
mod same;
pub mod support;
