//! A test-and-test-and-set spin lock.
//!
//! Owns one word and the data it protects. Refuses to disable interrupts, to be fair, and to be
//! recursive: the kernel's workloads need a lock that deadlocks the way locks do. Called by
//! printk and the workloads. Nothing that an NMI can reach calls [`SpinLock::lock`]; a panic uses
//! [`SpinLock::lock_bounded`].
//!
//! For the debugger: `locked` is 0 or 1, and a CPU that waits is in `spin_until_free`, called
//! from (and usually inlined into) `lock`.

use core::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::atomic::{AtomicU32, Ordering, UnsafeCell, const_fn_unless_loom, spin_loop};

const FREE: u32 = 0;
const LOCKED: u32 = 1;

/// Data that one CPU at a time can reach.
pub struct SpinLock<T> {
    locked: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: `data` is reached only through a `SpinGuard`, of which `locked` lets one exist at a
// time (`try_lock`), so sharing the lock only ever sends `T` from CPU to CPU.
unsafe impl<T: Send> Sync for SpinLock<T> {}
// SAFETY: owning the lock is owning the `T`; the word next to it has no owner of its own.
unsafe impl<T: Send> Send for SpinLock<T> {}

impl<T> SpinLock<T> {
    const_fn_unless_loom! {
        /// A free lock around `data`.
        pub fn new(data: T) -> Self {
            Self { locked: AtomicU32::new(FREE), data: UnsafeCell::new(data) }
        }
    }

    /// Waits for as long as it takes. Never from NMI; see [`SpinLock::lock_bounded`].
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            self.spin_until_free();
        }
    }

    /// Takes the lock if it is free at this moment.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        // Acquire, so that what the last holder wrote is seen by this one.
        self.locked
            .compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| SpinGuard { lock: self })
    }

    /// Takes the lock, or gives up after looking `spins` times: for a panic, which must get its
    /// message out even if the holder never lets go.
    pub fn lock_bounded(&self, spins: u32) -> Option<SpinGuard<'_, T>> {
        for _ in 0..spins {
            if !self.is_locked()
                && let Some(guard) = self.try_lock()
            {
                return Some(guard);
            }
            spin_loop();
        }
        self.try_lock()
    }

    /// Whether anyone holds the lock at this moment. Stale by the time the caller looks at it.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed) != FREE
    }

    /// Reads, and only reads, until the lock looks free: a waiter that kept writing would take
    /// the cache line from the holder.
    #[inline]
    fn spin_until_free(&self) {
        while self.is_locked() {
            spin_loop();
        }
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the data: looking at it would take the lock.
        f.debug_struct("SpinLock").field("locked", &self.is_locked()).finish_non_exhaustive()
    }
}

/// The right to the lock's data; dropping it frees the lock.
#[must_use = "the lock is freed as soon as the guard is dropped"]
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
}

// SAFETY: a shared guard gives out `&T` and nothing more.
unsafe impl<T: Sync> Sync for SpinGuard<'_, T> {}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard exists, so its CPU set `locked` (`try_lock`), and no other guard
        // exists until this one is dropped. The reference cannot outlive `self`.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` says that no reference from it is alive.
        self.lock.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T: fmt::Debug> fmt::Debug for SpinGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release, so that the next holder sees everything this one wrote.
        self.lock.locked.store(FREE, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_one_guard_exists_at_a_time() {
        let lock = SpinLock::new(1);
        let guard = lock.lock();
        assert!(lock.is_locked());
        assert!(lock.try_lock().is_none());
        assert!(lock.lock_bounded(100).is_none());
        drop(guard);
        assert!(!lock.is_locked());
        assert_eq!(lock.lock_bounded(0).map(|guard| *guard), Some(1));
    }

    #[test]
    fn no_increment_is_lost_between_threads() {
        let lock = SpinLock::new(0_u32);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| *lock.lock() += 1));
            }
        });
        assert_eq!(*lock.lock(), 4000);
    }
}
