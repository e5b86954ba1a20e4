//! The interface to the machine for architecture-neutral code: one small trait.
//!
//! Owns the contract. Refuses to own its implementation: the kernel has one for x86-64, and the
//! tests have theirs made of threads. Called by the locks, printk and the scheduler.

use super::Wait;

/// Access to the current CPU. Its functions have no `self`, so that a lock stores nothing for its machine.
///
/// Memory safety does not depend on an implementation: one that confuses its CPUs only gets confused
/// records.
pub trait Context: 'static {
    /// Returns the number of this CPU, counted from 0.
    fn cpu() -> usize;

    /// Returns the time in nanoseconds since boot. Called from NMI too.
    fn clock_ns() -> u64;

    /// Returns the record of this CPU's wait: the per-CPU variable `cpu_wait`. Only this CPU writes it.
    fn cpu_wait() -> &'static Wait;

    /// Disables interrupts on this CPU; returns the flags for [`Context::irq_restore`].
    fn irq_save() -> usize;

    /// Restores the interrupt flag to its value before [`Context::irq_save`].
    fn irq_restore(flags: usize);
}
