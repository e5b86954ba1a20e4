//! What there is to know of a task.
//!
//! Owns the words that the scheduler, the waiters and the host read. Refuses to own the stack, which
//! is the machine's. For the debugger: the registers of a task that does not run lie in the
//! `SwitchFrame` at `stack_pointer`, which is 0 while it runs.

use core::sync::atomic::{
    AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::abi::TASK_UNUSED;
use crate::sync::Wait;
use crate::sync::atomic::{AtomicU32, const_fn_unless_loom};

/// How many tasks there can be.
pub const MAX_TASKS: usize = 16;

/// A kernel thread.
#[derive(Debug)]
#[repr(C)]
pub struct Task {
    /// Padded with zeros.
    name: [AtomicU8; 16],
    /// Where it runs: it does not migrate.
    cpu: AtomicU32,
    /// `TASK_*` of [`abi`](crate::abi). The task itself may write it while it runs; otherwise it
    /// takes the lock of its CPU's run queue.
    state: AtomicU32,
    /// Where its registers are saved while it does not run; 0 while it does.
    stack_pointer: AtomicUsize,
    /// What it sleeps for.
    wait: Wait,
    /// How often it was switched to.
    switches: AtomicU64,
}

impl Task {
    const_fn_unless_loom! {
        /// One that does not exist yet; all its bytes are zero.
        pub fn new() -> Self {
            Self {
                name: [const { AtomicU8::new(0) }; 16],
                cpu: AtomicU32::new(0),
                state: AtomicU32::new(TASK_UNUSED),
                stack_pointer: AtomicUsize::new(0),
                wait: Wait::new(),
                switches: AtomicU64::new(0),
            }
        }
    }

    /// Makes it a task of `cpu` that is blocked until its first wake-up, and then runs from the
    /// registers at `stack_pointer`. A name that is too long is cut.
    pub fn create(&self, name: &str, cpu: usize, stack_pointer: usize) {
        for (to, from) in self.name.iter().zip(name.bytes()) {
            to.store(from, Relaxed);
        }
        self.cpu.store(cpu as u32, Relaxed);
        self.stack_pointer.store(stack_pointer, Relaxed);
        // Release: whoever sees that there is one sees the rest.
        self.state.store(crate::abi::TASK_BLOCKED, Release);
    }

    /// The CPU that it runs on.
    pub fn cpu(&self) -> usize {
        self.cpu.load(Relaxed) as usize
    }

    /// `TASK_*` of [`abi`](crate::abi).
    pub fn state(&self) -> u32 {
        self.state.load(Acquire)
    }

    /// Only as the member says who may.
    pub(super) fn set_state(&self, state: u32) {
        self.state.store(state, Relaxed);
    }

    /// The task runs and has come to its end: its next [`schedule`](super::schedule) is its last.
    pub fn end(&self) {
        self.state.store(crate::abi::TASK_ENDED, Relaxed);
    }

    /// Where its registers are saved, for those who switch stacks.
    pub const fn stack_pointer(&self) -> &AtomicUsize {
        &self.stack_pointer
    }

    /// What it sleeps for.
    pub const fn wait(&self) -> &Wait {
        &self.wait
    }

    /// Counts that it is switched to.
    pub(super) fn count_switch(&self) {
        self.switches.store(self.switches.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// How often it was switched to.
    pub fn switches(&self) -> u64 {
        self.switches.load(Relaxed)
    }
}

impl Default for Task {
    fn default() -> Self {
        Self::new()
    }
}
