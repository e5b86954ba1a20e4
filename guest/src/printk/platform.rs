//! Printk's interface to the machine: one small trait, and the per-CPU switch of printk's destination.
//!
//! Owns the contract. Refuses to own its implementation: the kernel has one for x86-64, and the
//! tests have one made of threads. Called by the rest of printk only.

use super::nmi_print_seq::NmiPrintSeq;
use crate::sync::{
    Context,
    atomic::{AtomicU32, Ordering, const_fn_unless_loom},
};

/// The machine that printk runs on: a [`Context`], and the per-CPU variables of printk.
///
/// Memory safety does not depend on an implementation: one that confuses its CPUs only gets confused
/// output.
pub trait Platform: Context + Sync {
    /// Returns the number of possible CPUs, the upper bound of [`Context::cpu`]. Each has its
    /// [`NmiPrintSeq`], started or not.
    fn possible_cpus(&self) -> usize;

    /// Returns the buffer that `cpu` prints into from NMI: the per-CPU variable `nmi_print_seq`.
    fn nmi_print_seq(&self, cpu: usize) -> &NmiPrintSeq;

    /// Returns the destination of `cpu`'s printk: the per-CPU variable `printk_func`. Only that CPU writes
    /// it.
    fn printk_func(&self, cpu: usize) -> &PrintkFuncCell;

    /// Writes to the console. Called with the console's lock held, except by a panic that could not take it.
    fn console_write(&self, bytes: &[u8]);
}

/// Value of `current` in [`PrintkFuncCell`] while printk goes to the log and the console.
pub const PRINTK_FUNC_DEFAULT: u32 = 0;

/// Value of `current` in [`PrintkFuncCell`] while printk goes to the CPU's `nmi_print_seq`.
pub const PRINTK_FUNC_NMI: u32 = 1;

/// Destination of a CPU's printk, and the destination to restore after a diversion.
///
/// The RFC has a function pointer here. A number does the same, can be read from outside without symbols,
/// and after a stray write does not make the CPU jump to an arbitrary address.
#[derive(Debug)]
pub struct PrintkFuncCell {
    current: AtomicU32,
    saved: AtomicU32,
}

impl PrintkFuncCell {
    const_fn_unless_loom! {
        /// Makes a cell that is not diverted; all its bytes are zero.
        pub fn new() -> Self {
            Self {
                current: AtomicU32::new(PRINTK_FUNC_DEFAULT),
                saved: AtomicU32::new(PRINTK_FUNC_DEFAULT),
            }
        }
    }

    // Relaxed throughout: a CPU and its own NMI are one thread, and no other CPU writes here.

    /// Returns true if the CPU is between begin and end. An unknown value counts as the default.
    #[inline]
    pub(super) fn is_diverted(&self) -> bool {
        self.current.load(Ordering::Relaxed) == PRINTK_FUNC_NMI
    }

    pub(super) fn divert(&self) {
        self.saved.store(self.current.load(Ordering::Relaxed), Ordering::Relaxed);
        self.current.store(PRINTK_FUNC_NMI, Ordering::Relaxed);
    }

    pub(super) fn restore(&self) {
        self.current.store(self.saved.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Default for PrintkFuncCell {
    fn default() -> Self {
        Self::new()
    }
}
