//! Calls from one CPU to others: a function that each of them runs in an interrupt handler, while
//! the caller waits.
//!
//! Owns the slots through which CPUs ask each other, and the wait. Refuses to know how one CPU
//! interrupts another: that is [`Calls`]. Refuses to give up: a CPU that takes no interrupts has its
//! callers wait for good, and they say in their `cpu_wait` for whom. Called by the kernel's `smp.rs`.
//!
//! A caller puts what it wants run into its own slot, sets its bit in the slot of each CPU it asks,
//! and waits until each has cleared it, which the CPU does when it has run the function. So a slot
//! holds one call at a time, and no address of anything that could be gone.

use core::panic::Location;

use super::{
    Context, Wait, WaitFor,
    atomic::{AtomicU32, AtomicU64, Ordering, UnsafeCell, const_fn_unless_loom, spin_loop},
};

/// CPUs that there can be at most: what a slot has bits for.
pub const MAX_CPUS: usize = if cfg!(loom) { 64 } else { 512 };

const WORDS: usize = MAX_CPUS / 64;

/// What a CPU is asked to run: with interrupts off, and not for long, since somebody waits.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Called once on each CPU.
    pub function: fn(usize),
    /// With this.
    pub argument: usize,
}

/// One CPU's part in the calls: the per-CPU variable `call_slot`.
#[derive(Debug)]
pub struct CallSlot {
    /// 1 while this CPU waits for its own call, so that there is no second one.
    calling: AtomicU32,
    /// What this CPU asks of others.
    call: UnsafeCell<Call>,
    /// By CPU number, a bit for each that asks this one, until it is answered.
    askers: [AtomicU64; WORDS],
}

// SAFETY: `call` is written by its CPU while it has `calling` and its bit is in no other CPU's
// `askers` (`smp_call_function_many`); it is read by those CPUs only whose `askers` have that bit
// (`answer_calls`), which the writer sets after it.
unsafe impl Sync for CallSlot {}

impl CallSlot {
    const_fn_unless_loom! {
        /// Of a CPU that asks nothing and is asked nothing.
        pub fn new() -> Self {
            fn nothing(_: usize) {}
            Self {
                calling: AtomicU32::new(0),
                call: UnsafeCell::new(Call { function: nothing, argument: 0 }),
                #[cfg(not(loom))]
                askers: [const { AtomicU64::new(0) }; WORDS],
                #[cfg(loom)]
                askers: std::array::from_fn(|_| AtomicU64::new(0)),
            }
        }
    }

    fn ask(&self, asker: usize) {
        // Release: the CPU that sees the bit sees the call.
        self.askers[asker / 64].fetch_or(1 << (asker % 64), Ordering::Release);
    }

    fn is_asked_by(&self, asker: usize) -> bool {
        // Acquire: what the function did comes before what its caller does then.
        self.askers[asker / 64].load(Ordering::Acquire) & 1 << (asker % 64) != 0
    }
}

impl Default for CallSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// How one CPU reaches another.
///
/// # Safety
/// [`Context::cpu`] tells CPUs apart, and [`Calls::call_slot`] gives each its own, always the same.
/// [`answer_calls`] is not interrupted by itself on the same CPU.
pub unsafe trait Calls: Context {
    /// The slot of `cpu`.
    fn call_slot(cpu: usize) -> &'static CallSlot;

    /// Has `cpu` call [`answer_calls`] once more than it has, as soon as it takes interrupts.
    fn send_call_ipi(cpu: usize);
}

/// Has every one of `targets` but this CPU run the call, and waits until they have, for as long as
/// that takes. Not from an interrupt handler, and never from NMI: the code that it has interrupted
/// may be in here.
///
/// # Panics
/// This CPU is waiting for another call of its own.
#[track_caller]
pub fn smp_call_function_many<C: Calls>(targets: impl Iterator<Item = usize> + Clone, call: Call) {
    let at = Location::caller();
    let this_cpu = C::cpu();
    let targets = targets.filter(|&cpu| cpu != this_cpu);
    let slot = C::call_slot(this_cpu);
    assert!(
        slot.calling.swap(1, Ordering::Relaxed) == 0,
        "a call inside of a call on cpu{this_cpu}"
    );
    // SAFETY: this CPU has no other call, as the line above has seen, and none of the CPUs that it
    // has asked before has its bit: it has waited for that below. So nobody reads.
    slot.call.with_mut(|place| unsafe { place.write(call) });
    for cpu in targets.clone() {
        C::call_slot(cpu).ask(this_cpu);
        C::send_call_ipi(cpu);
    }
    wait_for_answers::<C>(targets, this_cpu, at);
    slot.calling.store(0, Ordering::Relaxed);
}

/// Has `cpu` run the call, this CPU too, and waits until it has. Otherwise as
/// [`smp_call_function_many`].
#[track_caller]
pub fn smp_call_function_single<C: Calls>(cpu: usize, call: Call) {
    if cpu == C::cpu() {
        let flags = C::irq_save();
        (call.function)(call.argument);
        C::irq_restore(flags);
    } else {
        smp_call_function_many::<C>(core::iter::once(cpu), call);
    }
}

/// In their order: the wait is for the first one that has not answered.
fn wait_for_answers<C: Calls>(
    targets: impl Iterator<Item = usize>,
    this_cpu: usize,
    at: &'static Location<'static>,
) {
    let mut waiting = None;
    for cpu in targets {
        let slot = C::call_slot(cpu);
        if !slot.is_asked_by(this_cpu) {
            continue;
        }
        waiting
            .get_or_insert_with(|| Wait::begin_on_this_cpu::<C>(WaitFor::CpuCall(cpu), at))
            .now_for_cpu(cpu);
        while slot.is_asked_by(this_cpu) {
            spin_loop();
        }
    }
}

/// Runs what other CPUs ask of this one. From the interrupt that [`Calls::send_call_ipi`] sends,
/// with interrupts off.
pub fn answer_calls<C: Calls>() {
    let slot = C::call_slot(C::cpu());
    for (index, word) in slot.askers.iter().enumerate() {
        // Acquire: what the askers have written comes before what is read here.
        let mut asked = word.load(Ordering::Acquire);
        while asked != 0 {
            let bit = asked.trailing_zeros() as usize;
            asked &= asked - 1;
            // SAFETY: the asker's bit is here, so it has written its call and waits (see the
            // `Sync` of `CallSlot`); nobody but this CPU takes the bit away.
            let call = C::call_slot(64 * index + bit).call.with(|call| unsafe { call.read() });
            (call.function)(call.argument);
            // Release: the asker goes on after all that the function did.
            word.fetch_and(!(1 << bit), Ordering::Release);
        }
    }
}
