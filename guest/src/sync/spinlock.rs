//! A test-and-test-and-set spin lock.
//!
//! Owns one word. Refuses to disable interrupts and to be fair: any waiter may get the lock next.
//! Called by `lock.rs` only; printk, the scheduler and the workloads use [`SpinLock`].
//!
//! For the debugger: `locked` is 0 or 1, and a CPU that waits is in `spin_until_free`, called
//! from (and usually inlined into) `lock`.

use super::{
    Lock, RawLock,
    atomic::{AtomicU32, Ordering, const_fn_unless_loom, spin_loop},
    lock::Guard,
};
use crate::abi::LOCK_SPIN;

const FREE: u32 = 0;
const LOCKED: u32 = 1;

/// A lock for short sections; see [`Lock`].
pub type SpinLock<T, C> = Lock<T, RawSpinLock, C>;

/// Guard of a [`SpinLock`]: the right to its data.
pub type SpinGuard<'a, T, C> = Guard<'a, T, RawSpinLock, C>;

/// The test-and-set word of a [`SpinLock`]. Any waiter may get it next.
#[derive(Debug)]
pub struct RawSpinLock {
    locked: AtomicU32,
}

impl<T, C> SpinLock<T, C> {
    const_fn_unless_loom! {
        /// Makes a free lock around `data`.
        pub fn new(data: T) -> Self {
            Self::with(RawSpinLock { locked: AtomicU32::new(FREE) }, data)
        }
    }
}

// SAFETY: the compare-exchange in `try_enter` is the only entry, and succeeds once until `leave`
// stores FREE; it acquires what that store releases.
unsafe impl RawLock for RawSpinLock {
    const KIND: u32 = LOCK_SPIN;

    type Turn = ();

    #[inline]
    fn enter(&self) -> Result<(), ()> {
        if self.try_enter() { Ok(()) } else { Err(()) }
    }

    #[inline]
    fn try_enter(&self) -> bool {
        // Acquire, so that this holder sees what the last one wrote.
        self.locked.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn wait(&self, (): ()) {
        loop {
            self.spin_until_free();
            if self.try_enter() {
                return;
            }
        }
    }

    #[inline]
    unsafe fn leave(&self) {
        // Release, so that the next holder sees everything this one wrote.
        self.locked.store(FREE, Ordering::Release);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed) != FREE
    }
}

impl RawSpinLock {
    /// Reads the word until it is free. A waiter that kept writing it would take the cache line from the
    /// holder.
    #[inline]
    fn spin_until_free(&self) {
        while self.is_locked() {
            spin_loop();
        }
    }
}
