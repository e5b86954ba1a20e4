//! Records of locks and waits, which the host reads: a lock's holder with the place and time at which it
//! was taken, and a waiter's reason with its place and time.
//!
//! Owns these words. Refuses to base any decision on them: no code in the guest depends on their values,
//! so a stray write to one makes a wrong report and not a broken lock. For the same reason they are
//! core's atomics even under loom. Written by the locks, the scheduler and the cross-CPU
//! calls; read by the hypervisor while the guest runs, by the names of their members.

use core::{
    marker::PhantomData,
    panic::Location,
    sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, Release},
    },
};

use super::Context;
use crate::abi::{WAIT_CPU_CALL, WAIT_CPU_ONLINE, WAIT_LOCK, WAIT_NOTHING, WAIT_QUEUE};

/// Record of a lock's holder. It is the first member of every lock, so that both have one address.
#[derive(Debug)]
#[repr(C)]
pub struct LockRecord {
    /// Kind of the lock: `LOCK_*` of [`abi`](crate::abi).
    kind: AtomicU32,
    /// Holder's number plus one: of a task for a mutex, of a CPU for any other lock. 0 if it is free.
    holder: AtomicU32,
    /// Source location of the call that took the lock last; null if none ever did.
    taken_at: AtomicPtr<Location<'static>>,
    /// Time of that call, in nanoseconds of the guest's clock.
    taken_ns: AtomicU64,
}

impl LockRecord {
    /// Makes the record of a lock of this kind that has never been taken.
    pub const fn new(kind: u32) -> Self {
        Self {
            kind: AtomicU32::new(kind),
            holder: AtomicU32::new(0),
            taken_at: AtomicPtr::new(core::ptr::null_mut()),
            taken_ns: AtomicU64::new(0),
        }
    }

    /// Records the new holder, which calls it right after taking the lock. The holder is written last: a
    /// reader that finds one also finds the place and time that belong to it.
    #[inline]
    pub fn taken(&self, holder: u32, at: &'static Location<'static>, now_ns: u64) {
        self.taken_at.store(as_word(at), Relaxed);
        self.taken_ns.store(now_ns, Relaxed);
        self.holder.store(holder, Release);
    }

    /// Records that the lock is free. The holder calls it right before freeing the lock.
    #[inline]
    pub fn released(&self) {
        self.holder.store(0, Relaxed);
    }

    /// Returns the holder as the host reads it: a number plus one, 0 if the lock is free.
    pub fn holder(&self) -> u32 {
        self.holder.load(Relaxed)
    }

    /// Returns the location of the call that took the lock last, as the host reads it.
    pub fn taken_at(&self) -> Option<&'static Location<'static>> {
        location(&self.taken_at)
    }

    /// Returns the record's address, which is the member `on` of a [`Wait`] for this lock.
    pub fn address(&self) -> usize {
        (&raw const *self).addr()
    }
}

/// Reason for a wait: what a CPU or a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// A lock to come free, by its record's address.
    Lock(usize),
    /// A wake-up on a wait queue, by the queue's address.
    Queue(usize),
    /// The answer of the CPU with this number to a cross-CPU call.
    CpuCall(usize),
    /// The CPU with this number to come online.
    CpuOnline(usize),
}

impl WaitFor {
    /// Returns the values of a wait's members `kind`, `cpu` and `on`.
    fn words(self) -> (u32, u32, usize) {
        match self {
            Self::Lock(address) => (WAIT_LOCK, 0, address),
            Self::Queue(address) => (WAIT_QUEUE, 0, address),
            Self::CpuCall(cpu) => (WAIT_CPU_CALL, cpu as u32, 0),
            Self::CpuOnline(cpu) => (WAIT_CPU_ONLINE, cpu as u32, 0),
        }
    }
}

/// Record of the wait of a CPU or a task: its reason, place and time.
///
/// `kind` is written last when a wait begins, and first when it ends: while it is not 0, the rest
/// belongs to it. There is one writer. An interrupt handler on the same CPU that waits too restores the
/// words that it has found, at whatever point it interrupted.
#[derive(Debug)]
#[repr(C)]
pub struct Wait {
    /// Kind of the wait: `WAIT_*` of [`abi`](crate::abi).
    kind: AtomicU32,
    /// Number of the CPU waited for, in a wait for a CPU.
    cpu: AtomicU32,
    /// Address of the lock's record or the wait queue, in a wait for one of these.
    on: AtomicUsize,
    /// Source location of the call that waits.
    at: AtomicPtr<Location<'static>>,
    /// Time at which the wait began, in nanoseconds of the guest's clock.
    since_ns: AtomicU64,
}

/// Saved words of a wait's record.
struct Saved {
    kind: u32,
    cpu: u32,
    on: usize,
    at: *mut Location<'static>,
    since_ns: u64,
}

impl Wait {
    /// Makes the record of no wait; all its bytes are zero.
    pub const fn new() -> Self {
        Self {
            kind: AtomicU32::new(WAIT_NOTHING),
            cpu: AtomicU32::new(0),
            on: AtomicUsize::new(0),
            at: AtomicPtr::new(core::ptr::null_mut()),
            since_ns: AtomicU64::new(0),
        }
    }

    /// Records that this CPU spins, until the guard is dropped; that restores the record of the wait that
    /// was interrupted, if any.
    pub fn begin_on_this_cpu<C: Context>(
        what: WaitFor,
        at: &'static Location<'static>,
    ) -> WaitGuard<C> {
        let wait = C::cpu_wait();
        let outer = Saved {
            kind: wait.kind.load(Relaxed),
            cpu: wait.cpu.load(Relaxed),
            on: wait.on.load(Relaxed),
            at: wait.at.load(Relaxed),
            since_ns: wait.since_ns.load(Relaxed),
        };
        wait.begin(what, at, C::clock_ns());
        WaitGuard { wait, outer, context: PhantomData }
    }

    /// Records a wait that begins now.
    pub fn begin(&self, what: WaitFor, at: &'static Location<'static>, now_ns: u64) {
        let (kind, cpu, on) = what.words();
        self.write(&Saved { kind, cpu, on, at: as_word(at), since_ns: now_ns });
    }

    /// Records the end of the wait.
    pub fn end(&self) {
        self.kind.store(WAIT_NOTHING, Relaxed);
    }

    /// Returns true if there is a wait.
    pub fn is_waiting(&self) -> bool {
        self.kind.load(Relaxed) != WAIT_NOTHING
    }

    /// Returns the reason for the wait as the host reads it, `None` without a wait.
    pub fn what(&self) -> Option<WaitFor> {
        let (cpu, on) = (self.cpu.load(Relaxed) as usize, self.on.load(Relaxed));
        match self.kind.load(Relaxed) {
            WAIT_LOCK => Some(WaitFor::Lock(on)),
            WAIT_QUEUE => Some(WaitFor::Queue(on)),
            WAIT_CPU_CALL => Some(WaitFor::CpuCall(cpu)),
            WAIT_CPU_ONLINE => Some(WaitFor::CpuOnline(cpu)),
            _ => None,
        }
    }

    /// Returns the location of the call that waits, as the host reads it.
    pub fn at(&self) -> Option<&'static Location<'static>> {
        location(&self.at)
    }

    fn write(&self, words: &Saved) {
        self.kind.store(WAIT_NOTHING, Relaxed);
        // Release, each: after the store above, and before the one below.
        self.cpu.store(words.cpu, Release);
        self.on.store(words.on, Release);
        self.at.store(words.at, Release);
        self.since_ns.store(words.since_ns, Release);
        self.kind.store(words.kind, Release);
    }
}

impl Default for Wait {
    fn default() -> Self {
        Self::new()
    }
}

/// Guard of a CPU's wait; dropping it ends the wait.
#[must_use = "the wait ends as soon as this is dropped"]
pub struct WaitGuard<C> {
    wait: &'static Wait,
    outer: Saved,
    context: PhantomData<C>,
}

impl<C: Context> WaitGuard<C> {
    /// Changes the CPU that is waited for; the wait's place and time stay the same.
    pub fn now_for_cpu(&self, cpu: usize) {
        self.wait.cpu.store(cpu as u32, Relaxed);
    }
}

impl<C> Drop for WaitGuard<C> {
    fn drop(&mut self) {
        self.wait.write(&self.outer);
    }
}

fn as_word(location: &'static Location<'static>) -> *mut Location<'static> {
    (&raw const *location).cast_mut()
}

fn location(word: &AtomicPtr<Location<'static>>) -> Option<&'static Location<'static>> {
    // SAFETY: the word is null or comes from `as_word` (`taken`, `begin`).
    unsafe { word.load(Relaxed).as_ref() }
}
