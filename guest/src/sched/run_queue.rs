//! Who runs next on a CPU, and how a task becomes one of those who may.
//!
//! Owns a queue of the tasks that are ready, and every change of a task's state but the ones that
//! the task makes itself while it runs. Refuses to sleep for anything: that is `wait_queue.rs`.
//! Called by the kernel's main loop, by tasks that give up their CPU, and, to wake one up, from
//! anywhere but NMI.
//!
//! The lock of a run queue is taken with interrupts off, and whoever holds it waits for nothing.
//! What makes a wake-up race with a task that is on its way to sleep harmless: whether the task
//! still runs is decided under that lock ([`schedule`]), and so is what a wake-up does about it.
//! From then on the task counts as asleep, although its registers are yet to be saved; nobody but
//! its own CPU's main loop can run it, and that one comes after.

use super::{Sched, Task, current, task_fifo::TaskFifo};
use crate::abi::{TASK_BLOCKED, TASK_READY, TASK_RUNNING};
use crate::sync::{SpinLock, atomic::const_fn_unless_loom};

/// The tasks of a CPU that could run.
#[derive(Debug)]
pub struct RunQueue<C> {
    ready: SpinLock<Ready, C>,
}

#[derive(Debug)]
struct Ready {
    /// In the order in which they will.
    queue: TaskFifo,
    /// The one that does.
    running: Option<u8>,
}

impl<C> RunQueue<C> {
    const_fn_unless_loom! {
        /// Of a CPU without tasks.
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

/// Takes the task whose turn it is out of this CPU's queue, to run it. By the main loop, with
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

/// Gives up the CPU. A task that is about to sleep, as [`WaitQueue`](super::WaitQueue) has it,
/// returns when it has been woken up, and one that has ended does not; any other is ready again at
/// once, and returns when the others have had their turn.
///
/// # Panics
/// By a CPU's main loop.
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

/// Lets the other tasks of this CPU have their turn, and its main loop its own.
pub fn yield_now<C: Sched>() {
    schedule::<C>();
}

/// Makes a task ready that is blocked, and its CPU look; nothing happens to any other. Returns
/// whether it was blocked.
pub fn wake_up_task<C: Sched>(number: usize) -> bool {
    let task = C::task(number);
    let cpu = task.cpu();
    let mut ready = C::run_queue(cpu).ready.lock_irqsave();
    if task.state() != TASK_BLOCKED {
        return false;
    }
    if ready.running == Some(number as u8) {
        // On its way to sleep: it need not.
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
