//! Locks, and the atomics they and printk are made of.
//!
//! Owns mutual exclusion between CPUs. Refuses to own interrupts: who takes a lock that an
//! interrupt handler takes too disables interrupts first, as printk does through
//! [`Platform`](crate::printk::Platform). Called by printk and by the kernel's workloads.

pub mod atomic;
mod spinlock;

pub use spinlock::{SpinGuard, SpinLock};
