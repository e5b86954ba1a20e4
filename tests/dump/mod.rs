//! Dumps that QEMU wrote: of the bundled guest, in tests/offline/dumps, made by
//! tests/offline/make-dumps.sh. None of these takes QEMU or KVM, but for those in `live`.
//!
//! | module | holds the report of a dump against |
//! |---|---|
//! | `golden` | what was looked at and committed |
//! | `registers` | what QEMU's monitor said, and gdb says |
//! | `same` | a core of the same workload and image |
//! | `notes` | notes made by hand: fewer, damaged, in another order |
//! | `damage` | what is left of the file |
//! | `live` | a VM of ours, and QEMU's, at this moment |

mod damage;
mod golden;
mod live;
mod notes;
mod registers;
mod same;
pub mod support;
