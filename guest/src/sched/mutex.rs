//! A mutex: a lock that tasks sleep for.
//!
//! Owns the data, one word, a queue of waiters, and the record of the holder. Refuses to be taken by
//! anything but a task, to be recursive, and to be fair: a task that is running may take it before a
//! waiter that has been woken up for it. Called by the workloads.

use core::{
    fmt,
    ops::{Deref, DerefMut},
    panic::Location,
};

use super::{Sched, WaitQueue, current, schedule};
use crate::abi::LOCK_MUTEX;
use crate::sync::{
    LockRecord, WaitFor,
    atomic::{AtomicU32, Ordering, UnsafeCell, const_fn_unless_loom},
};

const FREE: u32 = 0;
const LOCKED: u32 = 1;

/// Data that one task at a time can access.
#[repr(C)]
pub struct Mutex<T, C> {
    record: LockRecord,
    locked: AtomicU32,
    waiters: WaitQueue<C>,
    data: UnsafeCell<T>,
}

// SAFETY: `data` is reached only through a `MutexGuard`, of which `locked` lets one exist at a time
// (`acquire`), so sharing the mutex only ever sends `T` from task to task.
unsafe impl<T: Send, C> Sync for Mutex<T, C> {}
// SAFETY: owning the mutex is owning the `T`; the words next to it have no owner of their own.
unsafe impl<T: Send, C> Send for Mutex<T, C> {}

impl<T, C> Mutex<T, C> {
    const_fn_unless_loom! {
        /// Makes a free mutex around `data`.
        pub fn new(data: T) -> Self {
            Self {
                record: LockRecord::new(LOCK_MUTEX),
                locked: AtomicU32::new(FREE),
                waiters: WaitQueue::new(),
                data: UnsafeCell::new(data),
            }
        }
    }

    /// Returns true if a task holds the mutex. The answer may be stale at once.
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed) != FREE
    }

    /// Returns the record of the holder, which the host reads.
    pub const fn record(&self) -> &LockRecord {
        &self.record
    }
}

impl<T, C: Sched> Mutex<T, C> {
    /// Takes the mutex. Sleeps until it is free, without a bound.
    ///
    /// # Panics
    /// Panics if the caller is a CPU's main loop.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T, C> {
        let at = Location::caller();
        let (number, task) = current::<C>();
        if !self.acquire() {
            task.wait().begin(WaitFor::Lock(self.record.address()), at, C::clock_ns());
            self.sleep_until_acquired();
            task.wait().end();
        }
        self.acquired(number, at)
    }

    /// Takes the mutex if it is free, and does not sleep.
    ///
    /// # Panics
    /// Panics if the caller is a CPU's main loop.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, C>> {
        let at = Location::caller();
        let (number, _) = current::<C>();
        self.acquire().then(|| self.acquired(number, at))
    }

    /// Sleeps until this task has taken the mutex. The holder frees the mutex before it wakes up a waiter,
    /// and this task enters the queue before it tries to take the mutex, so no wake-up is lost.
    fn sleep_until_acquired(&self) {
        loop {
            self.waiters.enter();
            if self.acquire() {
                break;
            }
            schedule::<C>();
        }
        self.waiters.leave();
    }

    fn acquire(&self) -> bool {
        // Acquire, so that this holder sees what the last one wrote.
        self.locked.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn acquired(&self, number: usize, at: &'static Location<'static>) -> MutexGuard<'_, T, C> {
        self.record.taken(number as u32 + 1, at, C::clock_ns());
        MutexGuard { mutex: self }
    }
}

impl<T, C> fmt::Debug for Mutex<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the data: reading it would take the lock.
        f.debug_struct("Mutex").field("locked", &self.is_locked()).finish_non_exhaustive()
    }
}

/// The right to the mutex's data; dropping it frees the mutex.
#[must_use = "the mutex is freed as soon as the guard is dropped"]
pub struct MutexGuard<'a, T, C: Sched> {
    mutex: &'a Mutex<T, C>,
}

// SAFETY: a shared guard gives out `&T` and nothing more.
unsafe impl<T: Sync, C: Sched> Sync for MutexGuard<'_, T, C> {}

impl<T, C: Sched> Deref for MutexGuard<'_, T, C> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard exists, so its task set `locked` (`acquire`), and no other guard exists
        // until this one is dropped. The reference cannot outlive `self`.
        self.mutex.data.with(|data| unsafe { &*data })
    }
}

impl<T, C: Sched> DerefMut for MutexGuard<'_, T, C> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` says that no reference from it is alive.
        self.mutex.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T, C: Sched> Drop for MutexGuard<'_, T, C> {
    fn drop(&mut self) {
        self.mutex.record.released();
        // Release, so that the next holder sees everything this one wrote.
        self.mutex.locked.store(FREE, Ordering::Release);
        self.mutex.waiters.wake_up();
    }
}
