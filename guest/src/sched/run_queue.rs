//! Run queues: the choice of the next task on a CPU, and wake-ups.
//!
//! Owns a queue of the ready tasks, and every change of a task's state but those that the task makes
//! itself while it runs. Refuses to wait for events: that is `wait_queue.rs`. Called by the kernel's main
//! loop, by tasks that give up their CPU, and, to wake up a task, from anywhere but NMI.
//!
//! The lock of a run queue is taken with interrupts off, and its holder waits for nothing. A wake-up may
//! race with a task that is about to sleep. That is harmless, because both decide under this lock:
//! [`schedule`] whether the task stops running, and the wake-up whether it still runs. After that the
//! task counts as asleep, although its registers are not saved yet; only its own CPU's main loop can run
//! it, and does so after they are.

use super::{Sched, Task, current, task_fifo::TaskFifo};
use crate::abi::{TASK_BLOCKED, TASK_READY, TASK_RUNNING};
use crate::sync::{SpinLock, atomic::const_fn_unless_loom};

/// A CPU's run queue: its ready tasks, in a lock.
#[derive(Debug)]
pub struct RunQueue<C> {
    ready: SpinLock<Ready, C>,
}

#[derive(Debug)]
struct Ready {
    /// The ready tasks, in the order in which they will run.
    queue: TaskFifo,
    /// Number of the running task; `None` while the main loop runs.
    running: Option<u8>,
}

impl<C> RunQueue<C> {
    const_fn_unless_loom! {
        /// Makes the run queue of a CPU without tasks.
        pub fn new() -> Self {
            Self { ready: SpinLock::new(Ready { queue: TaskFifo::new(), running: None }) }
        }
    }
}

impl<C> Default for RunQueue<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    fn push<C: Sched>(&mut self, number: usize, task: &Task) {
        task.set_state(TASK_READY);
        self.queue.push(number);
        C::set_nr_running(task.cpu(), self.queue.len() as u32);
    }
}

/// Takes the next task out of this CPU's queue and marks it as running. Called by the main loop, with
/// interrupts off.
pub fn take_next<C: Sched>() -> Option<usize> {
    let cpu = C::cpu();
    let mut ready = C::run_queue(cpu).ready.lock();
    let number = ready.queue.pop()?;
    ready.running = Some(number as u8);
    C::set_nr_running(cpu, ready.queue.len() as u32);
    let task = C::task(number);
    task.set_state(TASK_RUNNING);
    task.count_switch();
    Some(number)
}

/// Gives up the CPU. For a task that is about to sleep (see [`WaitQueue`](super::WaitQueue)), returns after
/// its wake-up; for a task that has ended, never. Any other task is ready again at once: returns after
/// the others have had their turn.
///
/// # Panics
/// Panics if the caller is a CPU's main loop.
pub fn schedule<C: Sched>() {
    let (number, task) = current::<C>();
    let flags = C::irq_save();
    let mut ready = C::run_queue(C::cpu()).ready.lock();
    ready.running = None;
    if task.state() == TASK_RUNNING {
        ready.push::<C>(number, task);
    }
    drop(ready);
    C::switch_from_task(number);
    C::irq_restore(flags);
}

/// Lets the other tasks of this CPU, and its main loop, have their turn.
pub fn yield_now<C: Sched>() {
    schedule::<C>();
}

/// Makes a blocked task ready, and its CPU check its run queue. Does nothing to a task in another state.
/// Returns true if the task was blocked.
pub fn wake_up_task<C: Sched>(number: usize) -> bool {
    let task = C::task(number);
    let cpu = task.cpu();
    let mut ready = C::run_queue(cpu).ready.lock_irqsave();
    if task.state() != TASK_BLOCKED {
        return false;
    }
    if ready.running == Some(number as u8) {
        // The task was about to sleep, and now does not.
        task.set_state(TASK_RUNNING);
        return true;
    }
    ready.push::<C>(number, task);
    drop(ready);
    if cpu != C::cpu() {
        C::send_reschedule_ipi(cpu);
    }
    true
}
