//! A task: its name, CPU, state and wait.
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

/// Most tasks that the kernel supports.
pub const MAX_TASKS: usize = 16;

/// A kernel thread, with all state but its stack.
#[derive(Debug)]
#[repr(C)]
pub struct Task {
    /// Name of the task, padded with zeros.
    name: [AtomicU8; 16],
    /// Number of the CPU that it runs on. A task does not migrate.
    cpu: AtomicU32,
    /// State: `TASK_*` of [`abi`](crate::abi). The task itself may write it while it runs; other writers
    /// must hold the lock of its CPU's run queue.
    state: AtomicU32,
    /// Address of its saved registers while it does not run; 0 while it runs.
    stack_pointer: AtomicUsize,
    /// Record of what the task sleeps for.
    wait: Wait,
    /// Count of switches to this task.
    switches: AtomicU64,
}

impl Task {
    const_fn_unless_loom! {
        /// Makes an entry for a task that does not exist yet; all its bytes are zero.
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

    /// Makes this entry a task of `cpu`. It is blocked until its first wake-up, and then runs with the
    /// registers saved at `stack_pointer`. A name that is too long is cut.
    pub fn create(&self, name: &str, cpu: usize, stack_pointer: usize) {
        for (to, from) in self.name.iter().zip(name.bytes()) {
            to.store(from, Relaxed);
        }
        self.cpu.store(cpu as u32, Relaxed);
        self.stack_pointer.store(stack_pointer, Relaxed);
        // Release: a reader that sees this state sees the rest.
        self.state.store(crate::abi::TASK_BLOCKED, Release);
    }

    /// Returns the number of the CPU that it runs on.
    pub fn cpu(&self) -> usize {
        self.cpu.load(Relaxed) as usize
    }

    /// Returns its state: `TASK_*` of [`abi`](crate::abi).
    pub fn state(&self) -> u32 {
        self.state.load(Acquire)
    }

    /// Sets the state. The member `state` says which callers may.
    pub(super) fn set_state(&self, state: u32) {
        self.state.store(state, Relaxed);
    }

    /// Marks the running task as ended: its next [`schedule`](super::schedule) does not return.
    pub fn end(&self) {
        self.state.store(crate::abi::TASK_ENDED, Relaxed);
    }

    /// Returns the word with the address of its saved registers, for the code that switches stacks.
    pub const fn stack_pointer(&self) -> &AtomicUsize {
        &self.stack_pointer
    }

    /// Returns the record of what it sleeps for.
    pub const fn wait(&self) -> &Wait {
        &self.wait
    }

    /// Adds one to the count of switches to this task.
    pub(super) fn count_switch(&self) {
        self.switches.store(self.switches.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Returns the count of switches to this task.
    pub fn switches(&self) -> u64 {
        self.switches.load(Relaxed)
    }
}

impl Default for Task {
    fn default() -> Self {
        Self::new()
    }
}
