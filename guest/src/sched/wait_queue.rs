//! Tasks that sleep until somebody wakes them up.
//!
//! Owns their order. Refuses to know what they wait for: a condition is its waiters' and wakers'
//! own. Called by tasks to sleep; to wake them up, by anyone, an interrupt handler too, but never
//! from NMI.
//!
//! No wake-up is lost, if the waker makes the condition true first and the waiter looks at it last:
//! [`WaitQueue::prepare_to_wait`] puts the task into the queue as one that is blocked, *then* the
//! condition is looked at, and a wake-up in between makes [`schedule`] return at once.
//! [`WaitQueue::wait_event`] does just that; [`WaitQueue::sleep_on`] is how not to.

use core::panic::Location;

use super::{Sched, current, schedule, task_fifo::TaskFifo, wake_up_task};
use crate::abi::{TASK_BLOCKED, TASK_RUNNING};
use crate::sync::{SpinLock, WaitFor, atomic::const_fn_unless_loom};

/// Tasks that wait for something to happen.
#[derive(Debug)]
#[repr(C)]
pub struct WaitQueue<C> {
    waiters: SpinLock<TaskFifo, C>,
}

impl<C> WaitQueue<C> {
    const_fn_unless_loom! {
        /// With nobody in it.
        pub fn new() -> Self {
            Self { waiters: SpinLock::new(TaskFifo::new()) }
        }
    }

    /// What a [`Wait`](crate::sync::Wait) for this queue has in `on`.
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
    /// Sleeps until `condition` holds. It is looked at before and after each sleep.
    ///
    /// # Panics
    /// By a CPU's main loop, if the condition does not hold at once.
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

    /// Sleeps until the next wake-up. Whoever has looked at a condition before that may sleep past
    /// the wake-up that it was for: the mistake that [`WaitQueue::wait_event`] exists to avoid.
    ///
    /// # Panics
    /// By a CPU's main loop.
    #[track_caller]
    pub fn sleep_on(&self) {
        self.prepare_to_wait();
        schedule::<C>();
        self.finish_wait();
    }

    /// From here until [`WaitQueue::finish_wait`], a wake-up is for this task too, and the next
    /// [`schedule`] sleeps unless there was one. Called again before each further `schedule`.
    ///
    /// # Panics
    /// By a CPU's main loop.
    #[track_caller]
    pub fn prepare_to_wait(&self) {
        let (_, task) = current::<C>();
        if !task.wait().is_waiting() {
            task.wait().begin(WaitFor::Queue(self.address()), Location::caller(), C::clock_ns());
        }
        self.enter();
    }

    /// The wait is over.
    ///
    /// # Panics
    /// By a CPU's main loop.
    pub fn finish_wait(&self) {
        self.leave();
        let (_, task) = current::<C>();
        task.wait().end();
    }

    /// [`WaitQueue::prepare_to_wait`], for one who says himself what he waits for.
    pub(super) fn enter(&self) {
        let (number, task) = current::<C>();
        let mut waiters = self.waiters.lock_irqsave();
        // Under the lock, as in `leave`: a waker finds this task blocked if it finds it at all.
        task.set_state(TASK_BLOCKED);
        waiters.push(number);
    }

    /// [`WaitQueue::finish_wait`], likewise.
    pub(super) fn leave(&self) {
        let (number, task) = current::<C>();
        let mut waiters = self.waiters.lock_irqsave();
        task.set_state(TASK_RUNNING);
        waiters.remove(number);
    }

    /// Wakes up the task that has waited longest. Returns whether there was one.
    pub fn wake_up(&self) -> bool {
        let mut waiters = self.waiters.lock_irqsave();
        // Under the lock: the task cannot have moved on to sleep for something else.
        waiters.pop().is_some_and(wake_up_task::<C>)
    }

    /// Wakes up all that wait.
    pub fn wake_up_all(&self) {
        let mut waiters = self.waiters.lock_irqsave();
        while let Some(number) = waiters.pop() {
            wake_up_task::<C>(number);
        }
    }
}
