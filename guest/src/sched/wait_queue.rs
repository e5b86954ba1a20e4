//! Wait queues: tasks that sleep until a wake-up.
//!
//! Owns their order. Refuses to know the conditions that they wait for: those belong to waiters and
//! wakers. Called by tasks to sleep, and to wake them up from anywhere, interrupt handlers included, but
//! never from NMI.
//!
//! No wake-up is lost if the waker makes the condition true first and the waiter checks it last:
//! [`WaitQueue::prepare_to_wait`] puts the task into the queue as blocked, *then* the condition is
//! checked, and a wake-up in between makes [`schedule`] return at once. [`WaitQueue::wait_event`] does
//! that; [`WaitQueue::sleep_on`] does not, and can lose a wake-up.

use core::panic::Location;

use super::{Sched, current, schedule, task_fifo::TaskFifo, wake_up_task};
use crate::abi::{TASK_BLOCKED, TASK_RUNNING};
use crate::sync::{SpinLock, WaitFor, atomic::const_fn_unless_loom};

/// A queue of tasks that sleep until a wake-up.
#[derive(Debug)]
#[repr(C)]
pub struct WaitQueue<C> {
    waiters: SpinLock<TaskFifo, C>,
}

impl<C> WaitQueue<C> {
    const_fn_unless_loom! {
        /// Makes an empty wait queue.
        pub fn new() -> Self {
            Self { waiters: SpinLock::new(TaskFifo::new()) }
        }
    }

    /// Returns the queue's address, which is the member `on` of a [`Wait`](crate::sync::Wait) for it.
    pub fn address(&self) -> usize {
        (&raw const *self).addr()
    }
}

impl<C> Default for WaitQueue<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Sched> WaitQueue<C> {
    /// Sleeps until `condition` holds. It is checked before and after each sleep.
    ///
    /// # Panics
    /// Panics if the caller is a CPU's main loop and the condition does not hold at once.
    #[track_caller]
    pub fn wait_event(&self, mut condition: impl FnMut() -> bool) {
        if condition() {
            return;
        }
        loop {
            self.prepare_to_wait();
            if condition() {
                break;
            }
            schedule::<C>();
        }
        self.finish_wait();
    }

    /// Sleeps until the next wake-up. A caller that has checked a condition before may sleep past the
    /// wake-up for it: the mistake that [`WaitQueue::wait_event`] avoids.
    ///
    /// # Panics
    /// Panics if the caller is a CPU's main loop.
    #[track_caller]
    pub fn sleep_on(&self) {
        self.prepare_to_wait();
        schedule::<C>();
        self.finish_wait();
    }

    /// Puts this task into the queue, until [`WaitQueue::finish_wait`]. The next [`schedule`] sleeps unless
    /// there was a wake-up since. Must be called again before each further `schedule`.
    ///
    /// # Panics
    /// Panics if the caller is a CPU's main loop.
    #[track_caller]
    pub fn prepare_to_wait(&self) {
        let (_, task) = current::<C>();
        if !task.wait().is_waiting() {
            task.wait().begin(WaitFor::Queue(self.address()), Location::caller(), C::clock_ns());
        }
        self.enter();
    }

    /// Ends the wait and removes this task from the queue.
    ///
    /// # Panics
    /// Panics if the caller is a CPU's main loop.
    pub fn finish_wait(&self) {
        self.leave();
        let (_, task) = current::<C>();
        task.wait().end();
    }

    /// Does what [`WaitQueue::prepare_to_wait`] does, for a caller that records the wait itself.
    pub(super) fn enter(&self) {
        let (number, task) = current::<C>();
        let mut waiters = self.waiters.lock_irqsave();
        // Under the lock, as in `leave`: a waker finds this task blocked if it finds it at all.
        task.set_state(TASK_BLOCKED);
        waiters.push(number);
    }

    /// Does what [`WaitQueue::finish_wait`] does, for a caller that records the wait itself.
    pub(super) fn leave(&self) {
        let (number, task) = current::<C>();
        let mut waiters = self.waiters.lock_irqsave();
        task.set_state(TASK_RUNNING);
        waiters.remove(number);
    }

    /// Wakes up the task that has waited longest. Returns true if there was one.
    pub fn wake_up(&self) -> bool {
        let mut waiters = self.waiters.lock_irqsave();
        // Under the lock: the task cannot have moved on to sleep for something else.
        waiters.pop().is_some_and(wake_up_task::<C>)
    }

    /// Wakes up all tasks in the queue.
    pub fn wake_up_all(&self) {
        let mut waiters = self.waiters.lock_irqsave();
        while let Some(number) = waiters.pop() {
            wake_up_task::<C>(number);
        }
    }
}
