//! The architecture-neutral half of nmiscope's bundled guest kernel.
//!
//! Owns printk with its NMI backtrace protocol ([`printk`]), the locks under it ([`sync`]), tasks
//! ([`sched`]), and what guest and hypervisor agree on beforehand ([`abi`]). Refuses to know any
//! processor: the kernel in `main.rs` brings x86 along through [`sync::Context`] and the traits on
//! top of it. Integer only, no `std`, no
//! allocation; built for the host too, where its tests and its loom models run.

#![cfg_attr(not(any(test, loom)), no_std)]

pub mod abi;
pub mod printk;
pub mod sched;
pub mod sync;
