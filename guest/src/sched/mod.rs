//! Tasks: kernel threads that share a CPU by giving it up, and what they sleep for.
//!
//! Owns the run queues' logic, wait queues and the lock that is slept for. Refuses to know how one
//! stack is left for another and where tasks come from: that is the kernel's, through [`Sched`].
//! Refuses to preempt and to move a task to another CPU. Called by the kernel's `kthread.rs` and its
//! workloads.
//!
//! * `task.rs`: [`Task`], what is known of one from outside.
//! * `run_queue.rs`: [`RunQueue`], [`schedule`], [`wake_up_task`]: who runs next.
//! * `wait_queue.rs`: [`WaitQueue`], in which no wake-up is lost.
//! * `mutex.rs`: [`Mutex`].
//! * `task_fifo.rs`: the order in which they come.
//!
//! A CPU's own main loop is no task: it runs each task that is ready for a slice, on the task's
//! stack, until the task comes back by [`schedule`]. It never sleeps.

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

/// The machine as the scheduler sees it.
///
/// Memory safety does not hang on an implementation, only sense does: one that mixes up its tasks
/// has some that sleep for good.
pub trait Sched: Context + Sized {
    /// The task of that number, which is less than [`MAX_TASKS`].
    fn task(number: usize) -> &'static Task;

    /// The run queue of `cpu`.
    fn run_queue(cpu: usize) -> &'static RunQueue<Self>;

    /// Says from outside how long the run queue of `cpu` is: the per-CPU variable `nr_running`.
    /// Called with the queue's lock held.
    fn set_nr_running(cpu: usize, count: u32);

    /// The number of the task that runs here; none in the CPU's main loop.
    fn current_task() -> Option<usize>;

    /// Leaves the task's stack for that of the CPU's main loop, and returns when the main loop has
    /// got the task from [`take_next`] and runs it again. By that task, with interrupts off.
    fn switch_from_task(number: usize);

    /// Has another CPU's main loop look at its run queue.
    fn send_reschedule_ipi(cpu: usize);
}

/// The task that runs here.
///
/// # Panics
/// There is none: a CPU's main loop cannot sleep.
fn current<C: Sched>() -> (usize, &'static Task) {
    let Some(number) = C::current_task() else {
        panic!("the main loop of cpu{} is not a task and cannot sleep", C::cpu())
    };
    (number, C::task(number))
}
