//! How printk reaches the machine: one small trait, and the per-CPU switch that it hands out.
//!
//! Owns the contract. Refuses to own its implementation: the kernel has one for x86-64, and the
//! tests have one made of threads. Called by the rest of printk only.

use super::nmi_print_seq::NmiPrintSeq;
use crate::sync::{
    Context,
    atomic::{AtomicU32, Ordering, const_fn_unless_loom},
};

/// The machine as printk sees it: of its [`Context`], which CPU this is, and what belongs to each.
///
/// Memory safety does not hang on an implementation, only sense does: one that mixes up its CPUs
/// gets mixed-up output.
pub trait Platform: Context + Sync {
    /// How many CPUs there can ever be, which are those that [`Context::cpu`] can be: each has its
    /// [`NmiPrintSeq`], started or not.
    fn possible_cpus(&self) -> usize;

    /// The buffer that `cpu` prints into from NMI: the per-CPU variable `nmi_print_seq`.
    fn nmi_print_seq(&self, cpu: usize) -> &NmiPrintSeq;

    /// Where `cpu`'s printk goes: the per-CPU variable `printk_func`. Only that CPU writes it.
    fn printk_func(&self, cpu: usize) -> &PrintkFuncCell;

    /// Writes to the console. Called with the console lock held, except by a panic that could not
    /// get it.
    fn console_write(&self, bytes: &[u8]);
}

/// [`PrintkFuncCell`]'s `current` while printk goes to the log and the console.
pub const PRINTK_FUNC_DEFAULT: u32 = 0;

/// [`PrintkFuncCell`]'s `current` while printk goes to the CPU's `nmi_print_seq`.
pub const PRINTK_FUNC_NMI: u32 = 1;

/// One CPU's choice of where printk goes, and the choice it returns to.
///
/// The RFC has a function pointer here. A number does the same, is read from outside without
/// symbols, and does not send a CPU off to wherever a stray write points.
#[derive(Debug)]
pub struct PrintkFuncCell {
    current: AtomicU32,
    saved: AtomicU32,
}

impl PrintkFuncCell {
    const_fn_unless_loom! {
        /// Not diverted; all its bytes are zero.
        pub fn new() -> Self {
            Self {
                current: AtomicU32::new(PRINTK_FUNC_DEFAULT),
                saved: AtomicU32::new(PRINTK_FUNC_DEFAULT),
            }
        }
    }

    // Relaxed throughout: a CPU and its own NMI are one thread, and nobody else writes here.

    /// Whether the CPU is between begin and end. Any unknown value is the default.
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
