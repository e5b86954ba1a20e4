//! A ticket lock: first come, first served.
//!
//! Owns two words. Refuses to disable interrupts. Called by `lock.rs` only; printk's console and the
//! workloads use [`TicketLock`].
//!
//! For the debugger: `next - serving` is the number of holders and waiters, and a CPU that waits is in
//! `spin_until_served`, called from (and usually inlined into) `lock`.

use super::{
    Lock, RawLock,
    atomic::{AtomicU32, Ordering, const_fn_unless_loom, spin_loop},
    lock::Guard,
};
use crate::abi::LOCK_TICKET;

/// A fair lock; see [`Lock`]. A wait that can be given up, [`lock_bounded`](Lock::lock_bounded), takes no
/// ticket and has no place in the queue.
pub type TicketLock<T, C> = Lock<T, RawTicketLock, C>;

/// Guard of a [`TicketLock`]: the right to its data.
pub type TicketGuard<'a, T, C> = Guard<'a, T, RawTicketLock, C>;

/// The ticket counters of a [`TicketLock`]. The holder has the ticket in `serving`. Both words wrap around.
#[derive(Debug)]
pub struct RawTicketLock {
    /// Ticket of the next CPU to arrive.
    next: AtomicU32,
    /// Ticket of the holder; equal to `next` while the lock is free.
    serving: AtomicU32,
}

impl<T, C> TicketLock<T, C> {
    const_fn_unless_loom! {
        /// Makes a free lock around `data`.
        pub fn new(data: T) -> Self {
            let raw = RawTicketLock { next: AtomicU32::new(0), serving: AtomicU32::new(0) };
            Self::with(raw, data)
        }
    }
}

impl<T, C> TicketLock<T, C> {
    /// Returns the number of waiters. The answer may be stale at once.
    pub fn waiters(&self) -> u32 {
        let RawTicketLock { next, serving } = self.raw();
        let in_line = next.load(Ordering::Relaxed).wrapping_sub(serving.load(Ordering::Relaxed));
        in_line.saturating_sub(1)
    }
}

impl<T, C> TicketGuard<'_, T, C> {
    /// Frees the lock twice, a bug that skips the next waiter, which then waits for good. For the workload
    /// that shows it.
    pub fn release_twice(self) {
        let raw = self.into_raw();
        let turn = raw.serving.load(Ordering::Relaxed);
        // In one step, not two: otherwise the next waiter might enter in between, and a second one after
        // that.
        raw.serving.store(turn.wrapping_add(2), Ordering::Release);
    }
}

// SAFETY: every ticket is given out once until the words have wrapped around, which takes four
// billion waiters; whoever enters has the one in `serving`, and only `leave` and `release_twice`
// move that on, each once for an entry, and never back. Each entry has read `serving` with an
// acquire, and both store it with a release.
unsafe impl RawLock for RawTicketLock {
    const KIND: u32 = LOCK_TICKET;

    /// The waiter's ticket, to compare with `serving`.
    type Turn = u32;

    #[inline]
    fn enter(&self) -> Result<(), u32> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        if self.serving.load(Ordering::Acquire) == turn { Ok(()) } else { Err(turn) }
    }

    #[inline]
    fn try_enter(&self) -> bool {
        // If this ticket is still free, it is also still the one served: only its holder advances
        // `serving`.
        let turn = self.serving.load(Ordering::Acquire);
        let taken = turn.wrapping_add(1);
        self.next.compare_exchange(turn, taken, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn wait(&self, turn: u32) {
        self.spin_until_served(turn);
    }

    #[inline]
    unsafe fn leave(&self) {
        // Only the holder writes `serving`.
        let turn = self.serving.load(Ordering::Relaxed);
        self.serving.store(turn.wrapping_add(1), Ordering::Release);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.serving.load(Ordering::Relaxed) != self.next.load(Ordering::Relaxed)
    }
}

impl RawTicketLock {
    #[inline]
    fn spin_until_served(&self, turn: u32) {
        while self.serving.load(Ordering::Acquire) != turn {
            spin_loop();
        }
    }
}
