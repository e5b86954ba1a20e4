//! A ticket lock: first come, first served.
//!
//! Owns two words. Refuses to disable interrupts. Called by `lock.rs` only; the workloads use
//! [`TicketLock`], which is for those that want to see a waiter starve behind one that never lets
//! go, or nobody starve.
//!
//! For the debugger: `next - serving` is how many hold it or wait, and a CPU that waits is in
//! `spin_until_served`, called from (and usually inlined into) `lock`.

use super::{
    Lock, RawLock,
    atomic::{AtomicU32, Ordering, const_fn_unless_loom, spin_loop},
    lock::Guard,
};
use crate::abi::LOCK_TICKET;

/// A lock that is fair; see [`Lock`]. A wait that can be given up,
/// [`lock_bounded`](Lock::lock_bounded), takes no ticket and has no place in the line.
pub type TicketLock<T, C> = Lock<T, RawTicketLock, C>;

/// The right to a [`TicketLock`]'s data.
pub type TicketGuard<'a, T, C> = Guard<'a, T, RawTicketLock, C>;

/// Who holds it is whose ticket is served. Both words wrap around.
#[derive(Debug)]
pub struct RawTicketLock {
    /// The ticket that the next one to come gets.
    next: AtomicU32,
    /// The ticket of the holder; of the next one to come, while there is none.
    serving: AtomicU32,
}

impl<T, C> TicketLock<T, C> {
    const_fn_unless_loom! {
        /// A free lock around `data`.
        pub fn new(data: T) -> Self {
            let raw = RawTicketLock { next: AtomicU32::new(0), serving: AtomicU32::new(0) };
            Self::with(raw, data)
        }
    }
}

impl<T, C> TicketLock<T, C> {
    /// How many wait for it at this moment. Stale by the time the caller looks at it.
    pub fn waiters(&self) -> u32 {
        let RawTicketLock { next, serving } = self.raw();
        let in_line = next.load(Ordering::Relaxed).wrapping_sub(serving.load(Ordering::Relaxed));
        in_line.saturating_sub(1)
    }
}

impl<T, C> TicketGuard<'_, T, C> {
    /// Gives the lock back as a holder does that gives it back twice: the next one in line is left
    /// out, and waits for good. For those that want to see that.
    pub fn release_twice(self) {
        let raw = self.into_raw();
        let turn = raw.serving.load(Ordering::Relaxed);
        // At once, and not one after the other: the one in line may be quick enough to get in
        // between, and a second one would after that.
        raw.serving.store(turn.wrapping_add(2), Ordering::Release);
    }
}

// SAFETY: every ticket is given out once until the words have wrapped around, which takes four
// billion waiters; whoever enters has the one in `serving`, and only `leave` and `release_twice`
// move that on, each once for an entry, and never back. Each entry has read `serving` with an
// acquire, and both store it with a release.
unsafe impl RawLock for RawTicketLock {
    const KIND: u32 = LOCK_TICKET;

    /// The ticket.
    type Turn = u32;

    #[inline]
    fn enter(&self) -> Result<(), u32> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        if self.serving.load(Ordering::Acquire) == turn { Ok(()) } else { Err(turn) }
    }

    #[inline]
    fn try_enter(&self) -> bool {
        // If the ticket is still to be had, it is still the one that is served: whoever moves
        // `serving` on has had it.
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
        // Only the holder writes it.
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
