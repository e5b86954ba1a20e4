//! What locks and waiters leave in memory for whoever looks from outside: who holds what since
//! when, taken where, and who waits for it.
//!
//! Owns these words. Refuses to decide anything by them: no code in the guest reads them to choose
//! what to do, so a stray write to one makes a wrong report and not a broken lock. That is also why
//! they are core's atomics even under loom. Written by the locks, the scheduler and the cross-CPU
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

/// The first member of every lock, so that the lock's address is its record's.
#[derive(Debug)]
#[repr(C)]
pub struct LockRecord {
    /// `LOCK_*` of [`abi`](crate::abi).
    kind: AtomicU32,
    /// 0: nobody. Of a mutex, the task's number plus one; of any other lock, the CPU's.
    holder: AtomicU32,
    /// The call that took the lock last; null if none ever did.
    taken_at: AtomicPtr<Location<'static>>,
    /// When that was, in nanoseconds of the guest's clock.
    taken_ns: AtomicU64,
}

impl LockRecord {
    /// Of a lock of that kind, which nobody has taken yet.
    pub const fn new(kind: u32) -> Self {
        Self {
            kind: AtomicU32::new(kind),
            holder: AtomicU32::new(0),
            taken_at: AtomicPtr::new(core::ptr::null_mut()),
            taken_ns: AtomicU64::new(0),
        }
    }

    /// By the new holder, as soon as it has the lock. The holder last: whoever reads one finds the
    /// place and time that belong to it.
    #[inline]
    pub fn taken(&self, holder: u32, at: &'static Location<'static>, now_ns: u64) {
        self.taken_at.store(as_word(at), Relaxed);
        self.taken_ns.store(now_ns, Relaxed);
        self.holder.store(holder, Release);
    }

    /// By the holder, right before it lets go.
    #[inline]
    pub fn released(&self) {
        self.holder.store(0, Relaxed);
    }

    /// Who holds the lock at this moment, as the host would see it.
    pub fn holder(&self) -> u32 {
        self.holder.load(Relaxed)
    }

    /// The call that took the lock last, as the host would see it.
    pub fn taken_at(&self) -> Option<&'static Location<'static>> {
        location(&self.taken_at)
    }

    /// What a [`Wait`] for this lock has in `on`.
    pub fn address(&self) -> usize {
        (&raw const *self).addr()
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// A lock, by its record's address.
    Lock(usize),
    /// A wake-up, by the wait queue's address.
    Queue(usize),
    /// An answer of that CPU to a cross-CPU call.
    CpuCall(usize),
    /// That CPU's coming up.
    CpuOnline(usize),
}

impl WaitFor {
    /// `kind`, `cpu` and `on`.
    fn words(self) -> (u32, u32, usize) {
        match self {
            Self::Lock(address) => (WAIT_LOCK, 0, address),
            Self::Queue(address) => (WAIT_QUEUE, 0, address),
            Self::CpuCall(cpu) => (WAIT_CPU_CALL, cpu as u32, 0),
            Self::CpuOnline(cpu) => (WAIT_CPU_ONLINE, cpu as u32, 0),
        }
    }
}

/// Who waits here, for what, since when. A CPU has one, and so has a task.
///
/// `kind` is written last when a wait begins, and first when it ends: while it is not 0, the rest
/// belongs to it. One writer; an interrupt handler on the same CPU that waits too puts back what
/// it has found, wherever it came in.
#[derive(Debug)]
#[repr(C)]
pub struct Wait {
    /// `WAIT_*` of [`abi`](crate::abi).
    kind: AtomicU32,
    /// The CPU waited for, where it is one.
    cpu: AtomicU32,
    /// The address of what is waited for, where it has one.
    on: AtomicUsize,
    /// The call that waits.
    at: AtomicPtr<Location<'static>>,
    /// Since when, in nanoseconds of the guest's clock.
    since_ns: AtomicU64,
}

/// A wait's words.
struct Saved {
    kind: u32,
    cpu: u32,
    on: usize,
    at: *mut Location<'static>,
    since_ns: u64,
}

impl Wait {
    /// Of one who waits for nothing; all its bytes are zero.
    pub const fn new() -> Self {
        Self {
            kind: AtomicU32::new(WAIT_NOTHING),
            cpu: AtomicU32::new(0),
            on: AtomicUsize::new(0),
            at: AtomicPtr::new(core::ptr::null_mut()),
            since_ns: AtomicU64::new(0),
        }
    }

    /// This CPU spins from here on, until the guard is dropped; the wait that it has interrupted,
    /// if any, then goes on.
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

    /// Writes what is waited for from here on.
    pub fn begin(&self, what: WaitFor, at: &'static Location<'static>, now_ns: u64) {
        let (kind, cpu, on) = what.words();
        self.write(&Saved { kind, cpu, on, at: as_word(at), since_ns: now_ns });
    }

    /// The wait is over.
    pub fn end(&self) {
        self.kind.store(WAIT_NOTHING, Relaxed);
    }

    /// Whether there is a wait.
    pub fn is_waiting(&self) -> bool {
        self.kind.load(Relaxed) != WAIT_NOTHING
    }

    /// What is waited for, as the host would see it.
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

    /// The call that waits, as the host would see it.
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

/// A CPU's wait; dropping it ends the wait.
#[must_use = "the wait ends as soon as this is dropped"]
pub struct WaitGuard<C> {
    wait: &'static Wait,
    outer: Saved,
    context: PhantomData<C>,
}

impl<C: Context> WaitGuard<C> {
    /// The wait is for another CPU now, and still the same wait.
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
    // SAFETY: `as_word` is the only source of what stands there besides null (`taken`, `begin`).
    unsafe { word.load(Relaxed).as_ref() }
}
