//! Tasks: kernel threads that share a CPU cooperatively, and the queues and locks that they sleep on.
//!
//! Owns the logic of run queues, wait queues and mutexes. Refuses to know how stacks are switched and
//! tasks are created: that is the kernel's part, through [`Sched`]. Refuses to preempt a task, and to
//! migrate one to another CPU. Called by the kernel's `kthread.rs` and its
//! workloads.
//!
//! * `task.rs`: [`Task`], the part of a task that can be read from outside.
//! * `run_queue.rs`: [`RunQueue`], [`schedule`], [`wake_up_task`]: the choice of the next task.
//! * `wait_queue.rs`: [`WaitQueue`], in which no wake-up is lost.
//! * `mutex.rs`: [`Mutex`], a lock that tasks sleep for.
//! * `task_fifo.rs`: queues of tasks, first in, first out.
//!
//! A CPU's own main loop is no task: it runs each ready task for a slice, on the task's stack, until the
//! task returns to it by [`schedule`]. The main loop never sleeps.

mod mutex;
mod run_queue;
mod task;
mod task_fifo;
mod wait_queue;

pub use mutex::{Mutex, MutexGuard};
pub use run_queue::{RunQueue, schedule, take_next, wake_up_task, yield_now};
pub use task::{MAX_TASKS, Task};
pub use wait_queue::WaitQueue;

use crate::sync::Context;

/// The machine that the scheduler runs on.
///
/// Memory safety does not depend on an implementation: one that confuses its tasks only has tasks that
/// sleep for good.
pub trait Sched: Context + Sized {
    /// Returns the task with this number, which is less than [`MAX_TASKS`].
    fn task(number: usize) -> &'static Task;

    /// Returns the run queue of `cpu`.
    fn run_queue(cpu: usize) -> &'static RunQueue<Self>;

    /// Publishes the length of the run queue of `cpu` for the host: the per-CPU variable `nr_running`.
    /// Called with the queue's lock held.
    fn set_nr_running(cpu: usize, count: u32);

    /// Returns the number of the task that runs on this CPU, `None` in the CPU's main loop.
    fn current_task() -> Option<usize>;

    /// Switches from the task's stack to that of the CPU's main loop. Returns when the main loop has got the
    /// task from [`take_next`] and runs it again. Called by that task, with interrupts off.
    fn switch_from_task(number: usize);

    /// Makes another CPU's main loop check its run queue.
    fn send_reschedule_ipi(cpu: usize);
}

/// Returns the task that runs on this CPU, with its number.
///
/// # Panics
/// Panics if the CPU's main loop runs, which is no task and cannot sleep.
fn current<C: Sched>() -> (usize, &'static Task) {
    let Some(number) = C::current_task() else {
        panic!("the main loop of cpu{} is not a task and cannot sleep", C::cpu())
    };
    (number, C::task(number))
}
