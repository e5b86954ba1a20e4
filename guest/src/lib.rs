//! The architecture-neutral half of nmiscope's bundled guest kernel.
//!
//! Owns printk with its NMI backtrace protocol ([`printk`]), the locks under it ([`sync`]), tasks
//! ([`sched`]), and the interface between guest and hypervisor ([`abi`]). Refuses to know any processor:
//! the kernel in `main.rs` implements [`sync::Context`] and the traits on top of it for x86. Integers
//! only, no `std`, no allocation. Also built for the host, where its tests and loom models run.

#![cfg_attr(not(any(test, loom)), no_std)]

pub mod abi;
pub mod printk;
pub mod sched;
pub mod sync;
