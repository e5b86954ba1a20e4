//! A lock that one CPU at a time holds and others spin for, with a record of who and where.
//!
//! Owns the data, the guard and the record. Refuses to decide who is next: that is a [`RawLock`]'s,
//! of which there are two, test-and-set (`spinlock.rs`) and tickets (`ticket_lock.rs`). Refuses to
//! be recursive: the kernel's workloads need a lock that deadlocks the way locks do. Called by
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

/// Who gets a lock when.
///
/// # Safety
/// Between an entry, which is [`RawLock::enter`] or [`RawLock::try_enter`] saying so or
/// [`RawLock::wait`] returning, and the next [`RawLock::leave`] there is no other entry; and an
/// entry sees all that came before the last leave.
pub unsafe trait RawLock {
    /// `LOCK_*` of [`abi`](crate::abi).
    const KIND: u32;

    /// What one who waits has in hand.
    type Turn;

    /// Enters, or gets in line.
    fn enter(&self) -> Result<(), Self::Turn>;

    /// Enters, if nobody is in at this moment or waits.
    fn try_enter(&self) -> bool;

    /// Waits for as long as it takes, and enters.
    fn wait(&self, turn: Self::Turn);

    /// Lets the next one in.
    ///
    /// # Safety
    /// The caller is the one who is in.
    unsafe fn leave(&self);

    /// Whether anyone is in at this moment.
    fn is_locked(&self) -> bool;
}

/// Data that one CPU at a time can reach.
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
        /// A free lock around `data`.
        pub(super) fn with(raw: R, data: T) -> Self {
            Self {
                record: LockRecord::new(R::KIND),
                raw,
                context: PhantomData,
                data: UnsafeCell::new(data),
            }
        }
    }

    /// Whether anyone holds the lock at this moment. Stale by the time the caller looks at it.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    pub(super) const fn raw(&self) -> &R {
        &self.raw
    }

    /// Who holds it, for whoever asks from outside.
    pub const fn record(&self) -> &LockRecord {
        &self.record
    }
}

impl<T, R: RawLock, C: Context> Lock<T, R, C> {
    /// Waits for as long as it takes. Never from NMI; see [`Lock::lock_bounded`].
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

    /// Takes the lock if it is free at this moment.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<Guard<'_, T, R, C>> {
        let at = Location::caller();
        self.raw.try_enter().then(|| self.entered(at))
    }

    /// Takes the lock, or gives up after looking `spins` times: for a panic, which must get its
    /// message out even if the holder never lets go.
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

    /// As [`Lock::lock`], with interrupts off for as long as the guard lives: for what an interrupt
    /// handler takes too.
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

    /// The raw lock has let this CPU in.
    #[inline]
    fn entered(&self, at: &'static Location<'static>) -> Guard<'_, T, R, C> {
        self.record.taken(C::cpu() as u32 + 1, at, C::clock_ns());
        Guard { lock: self }
    }
}

impl<T, R: RawLock, C> fmt::Debug for Lock<T, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the data: looking at it would take the lock.
        f.debug_struct("Lock").field("locked", &self.is_locked()).finish_non_exhaustive()
    }
}

/// The right to the lock's data; dropping it frees the lock.
#[must_use = "the lock is freed as soon as the guard is dropped"]
pub struct Guard<'a, T, R: RawLock, C> {
    lock: &'a Lock<T, R, C>,
}

impl<'a, T, R: RawLock, C> Guard<'a, T, R, C> {
    /// The data cannot be reached by this guard any more, and the raw lock is still to be left: for
    /// one who has a way of his own to do that.
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
    // In this order, which is the one that they are dropped in.
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

/// Interrupts are off until this is dropped, and then as they were.
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
