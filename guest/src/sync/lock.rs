//! A lock that one CPU at a time holds and others spin for, with a record of its holder.
//!
//! Owns the data, the guard and the record. Refuses to choose the next holder: that is up to the
//! [`RawLock`], of which there are two, test-and-set (`spinlock.rs`) and tickets (`ticket_lock.rs`).
//! Refuses to be recursive: the kernel's workloads need a lock that deadlocks as real locks do. Called by
//! printk, the scheduler and the workloads. Nothing that an NMI can reach calls [`Lock::lock`]; a
//! panic uses [`Lock::lock_bounded`].

use core::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    panic::Location,
};

use super::{
    Context, LockRecord, Wait, WaitFor,
    atomic::{UnsafeCell, const_fn_unless_loom, spin_loop},
};

/// Mutual exclusion without data: the order in which CPUs get a lock.
///
/// # Safety
/// An entry is a successful [`RawLock::enter`] or [`RawLock::try_enter`], or a return of
/// [`RawLock::wait`]. There is no other entry between an entry and the next [`RawLock::leave`], and an
/// entry sees all writes made before the last leave.
pub unsafe trait RawLock {
    /// Kind of the lock: `LOCK_*` of [`abi`](crate::abi).
    const KIND: u32;

    /// Token of a waiter, such as its ticket.
    type Turn;

    /// Enters if the lock is free; else returns a token to wait with.
    fn enter(&self) -> Result<(), Self::Turn>;

    /// Enters if the lock is free and has no waiters; returns true if so.
    fn try_enter(&self) -> bool;

    /// Waits without a bound, and enters.
    fn wait(&self, turn: Self::Turn);

    /// Leaves, and lets the next waiter enter.
    ///
    /// # Safety
    /// The caller has entered and not left yet.
    unsafe fn leave(&self);

    /// Returns true if a CPU has entered and not left yet.
    fn is_locked(&self) -> bool;
}

/// Data that one CPU at a time can access.
#[repr(C)]
pub struct Lock<T, R, C> {
    record: LockRecord,
    raw: R,
    context: PhantomData<fn() -> C>,
    data: UnsafeCell<T>,
}

// SAFETY: `data` is reached only through a `Guard`, of which `raw` lets one exist at a time, so
// sharing the lock only ever sends `T` from CPU to CPU.
unsafe impl<T: Send, R: Sync, C> Sync for Lock<T, R, C> {}
// SAFETY: owning the lock is owning the `T`; the words next to it have no owner of their own.
unsafe impl<T: Send, R: Send, C> Send for Lock<T, R, C> {}

impl<T, R: RawLock, C> Lock<T, R, C> {
    const_fn_unless_loom! {
        /// Makes a free lock around `data`.
        pub(super) fn with(raw: R, data: T) -> Self {
            Self {
                record: LockRecord::new(R::KIND),
                raw,
                context: PhantomData,
                data: UnsafeCell::new(data),
            }
        }
    }

    /// Returns true if a CPU holds the lock. The answer may be stale at once.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    pub(super) const fn raw(&self) -> &R {
        &self.raw
    }

    /// Returns the record of the holder, which the host reads.
    pub const fn record(&self) -> &LockRecord {
        &self.record
    }
}

impl<T, R: RawLock, C: Context> Lock<T, R, C> {
    /// Takes the lock. Spins until it is free, without a bound. Must not be called from NMI, where
    /// [`Lock::lock_bounded`] is allowed.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T, R, C> {
        let at = Location::caller();
        if let Err(turn) = self.raw.enter() {
            let _waiting = self.begin_wait(at);
            self.raw.wait(turn);
        }
        self.entered(at)
    }

    /// Takes the lock if it is free, and does not wait.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<Guard<'_, T, R, C>> {
        let at = Location::caller();
        self.raw.try_enter().then(|| self.entered(at))
    }

    /// Takes the lock, or gives up after checking it `spins` times: for a panic, which must print its
    /// message even if the holder never frees the lock.
    #[track_caller]
    pub fn lock_bounded(&self, spins: u32) -> Option<Guard<'_, T, R, C>> {
        let at = Location::caller();
        if self.raw.try_enter() {
            return Some(self.entered(at));
        }
        let waiting = self.begin_wait(at);
        for _ in 0..spins {
            if !self.raw.is_locked() && self.raw.try_enter() {
                drop(waiting);
                return Some(self.entered(at));
            }
            spin_loop();
        }
        None
    }

    /// Takes the lock as [`Lock::lock`] does, with interrupts off while the guard lives: for locks that an
    /// interrupt handler takes too.
    #[inline]
    #[track_caller]
    pub fn lock_irqsave(&self) -> IrqGuard<'_, T, R, C> {
        let interrupts = SavedInterrupts::off();
        IrqGuard { guard: self.lock(), _interrupts: interrupts }
    }

    #[cold]
    fn begin_wait(&self, at: &'static Location<'static>) -> super::WaitGuard<C> {
        Wait::begin_on_this_cpu(WaitFor::Lock(self.record.address()), at)
    }

    /// Makes the guard and the record of a CPU that has entered the raw lock.
    #[inline]
    fn entered(&self, at: &'static Location<'static>) -> Guard<'_, T, R, C> {
        self.record.taken(C::cpu() as u32 + 1, at, C::clock_ns());
        Guard { lock: self }
    }
}

impl<T, R: RawLock, C> fmt::Debug for Lock<T, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the data: reading it would take the lock.
        f.debug_struct("Lock").field("locked", &self.is_locked()).finish_non_exhaustive()
    }
}

/// The right to the lock's data; dropping it frees the lock.
#[must_use = "the lock is freed as soon as the guard is dropped"]
pub struct Guard<'a, T, R: RawLock, C> {
    lock: &'a Lock<T, R, C>,
}

impl<'a, T, R: RawLock, C> Guard<'a, T, R, C> {
    /// Gives up the access to the data without leaving the raw lock, for a caller that leaves it in its own
    /// way.
    pub(super) fn into_raw(self) -> &'a R {
        let lock = self.lock;
        core::mem::forget(self);
        lock.record.released();
        &lock.raw
    }
}

// SAFETY: a shared guard gives out `&T` and nothing more.
unsafe impl<T: Sync, R: RawLock, C> Sync for Guard<'_, T, R, C> {}

impl<T, R: RawLock, C> Deref for Guard<'_, T, R, C> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard exists, so the raw lock has let its CPU in (`entered`), and no other
        // guard exists until this one is dropped. The reference cannot outlive `self`.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T, R: RawLock, C> DerefMut for Guard<'_, T, R, C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` says that no reference from it is alive.
        self.lock.data.with_mut(|data| unsafe { &mut *data })
    }
}

impl<T: fmt::Debug, R: RawLock, C> fmt::Debug for Guard<'_, T, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, R: RawLock, C> Drop for Guard<'_, T, R, C> {
    #[inline]
    fn drop(&mut self) {
        self.lock.record.released();
        // SAFETY: this guard is the one that `entered` has made, and it is gone after this.
        unsafe { self.lock.raw.leave() };
    }
}

/// A [`Guard`] with interrupts off; dropping it frees the lock and puts them back as they were.
#[must_use = "the lock is freed as soon as the guard is dropped"]
pub struct IrqGuard<'a, T, R: RawLock, C: Context> {
    // In this order, in which they are dropped.
    guard: Guard<'a, T, R, C>,
    _interrupts: SavedInterrupts<C>,
}

impl<T, R: RawLock, C: Context> Deref for IrqGuard<'_, T, R, C> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, R: RawLock, C: Context> DerefMut for IrqGuard<'_, T, R, C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Guard that keeps interrupts off; dropping it restores the interrupt flag.
struct SavedInterrupts<C: Context> {
    flags: usize,
    context: PhantomData<C>,
}

impl<C: Context> SavedInterrupts<C> {
    #[inline]
    fn off() -> Self {
        Self { flags: C::irq_save(), context: PhantomData }
    }
}

impl<C: Context> Drop for SavedInterrupts<C> {
    #[inline]
    fn drop(&mut self) {
        C::irq_restore(self.flags);
    }
}
