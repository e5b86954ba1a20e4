//! How code that runs on any machine finds out where it runs: one small trait.
//!
//! Owns the contract. Refuses to own its implementation: the kernel has one for x86-64, and the
//! tests have theirs made of threads. Called by the locks, printk and the scheduler.

use super::Wait;

/// The CPU that this runs on. A type stands for a machine, so that a lock needs no word for it.
///
/// Memory safety does not hang on an implementation, only sense does: one that mixes up its CPUs
/// gets mixed-up records.
pub trait Context: 'static {
    /// The number of this CPU, counted from 0.
    fn cpu() -> usize;

    /// Nanoseconds since boot. Called from NMI too.
    fn clock_ns() -> u64;

    /// What this CPU waits for: the per-CPU variable `cpu_wait`. Only this CPU writes it.
    fn cpu_wait() -> &'static Wait;

    /// Disables interrupts on this CPU; returns what [`Context::irq_restore`] wants.
    fn irq_save() -> usize;

    /// Restores what [`Context::irq_save`] found.
    fn irq_restore(flags: usize);
}
