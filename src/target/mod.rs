//! Where a guest's memory comes from. Today from a VM that we run; a QEMU process and a core file are
//! to follow, behind the same [`memory::GuestRam`] and the traits of `nmiscope-machine`.
//!
//! Owns access to the bytes; what lies in them is the business of `kernel`.

pub mod memory;
