//! Adapter of an unknown kernel: it has a reason, no state to read, and no buffers.
//!
//! Owns the answers of such an adapter; refuses to guess at any structure. Called by `kernel` where no
//! other adapter fits.

use nmiscope_machine::{PhysicalMemory, Registers};

use super::adapter::{KernelAdapter, LocateError, Located};
use super::vocabulary::{TraceEntry, Vocabulary};
use crate::targets::NoAnswer;

/// Kernel that no adapter recognises.
#[derive(Debug)]
pub(super) struct UnknownKernel {
    /// The reason why the kernel is unknown.
    pub(super) reason: String,
    pub(super) vocabulary: &'static dyn Vocabulary,
}

impl KernelAdapter for UnknownKernel {
    fn unknown_because(&self) -> Option<&str> {
        Some(&self.reason)
    }

    fn vocabulary(&self) -> &dyn Vocabulary {
        self.vocabulary
    }

    fn locate(
        &self,
        _memory: &dyn PhysicalMemory,
        _registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError> {
        Err(LocateError::UnknownKernel(self.reason.clone()))
    }
}

/// Functions of Linux in which all hangs end, by the start of their names, until it has an adapter of its
/// own.
const PLUMBING: [&str; 12] = [
    "_raw_",
    "__raw_",
    "native_queued_spin_lock_slowpath",
    "queued_spin_lock_slowpath",
    "do_raw_spin_lock",
    "mutex_lock",
    "__mutex_lock",
    "rwsem_down_",
    "schedule",
    "__schedule",
    "panic",
    "smp_call_function_",
];

/// Functions through which a CPU or a task of Linux comes to its work.
const START: [&str; 6] = [
    "start_secondary",
    "secondary_startup_64_no_verify",
    "rest_init",
    "start_kernel",
    "kthread",
    "ret_from_fork",
];

/// Entries of interrupts and NMIs of Linux, by the start of their names.
const INTERRUPTS: [&str; 3] = ["asm_sysvec_", "asm_common_interrupt", "asm_exc_nmi"];

/// Vocabulary of function names for any kernel; numbers and texts mean nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnyVocabulary<'a> {
    /// The vocabularies of the kernels that are known.
    pub(super) known: &'a [&'a dyn Vocabulary],
}

impl Vocabulary for AnyVocabulary<'_> {
    fn is_ready(&self, _post_code: u8) -> bool {
        false
    }

    fn is_panic(&self, _exit_code: u32) -> bool {
        false
    }

    fn panic_message(&self, _console: &[String]) -> Option<String> {
        None
    }

    fn call_trace(&self, _text: &str) -> Option<Vec<TraceEntry>> {
        None
    }

    fn is_plumbing(&self, function: &str) -> bool {
        PLUMBING.iter().any(|start| function.starts_with(start))
            || self.known.iter().any(|vocabulary| vocabulary.is_plumbing(function))
    }

    fn is_start(&self, function: &str) -> bool {
        START.contains(&function)
            || self.known.iter().any(|vocabulary| vocabulary.is_start(function))
    }

    fn serves_interrupts(&self, function: &str) -> bool {
        INTERRUPTS.iter().any(|start| function.starts_with(start))
            || self.known.iter().any(|vocabulary| vocabulary.serves_interrupts(function))
    }
}
