//! Cross-CPU calls: a function that other CPUs run in an interrupt handler, while the caller waits.
//!
//! Owns the slots through which CPUs call each other, and the wait. Refuses to know how one CPU
//! interrupts another: that is [`Calls`]. Refuses to time out: callers of a CPU that takes no interrupts
//! wait for good, with that CPU in their `cpu_wait`. Called by the kernel's `smp.rs`.
//!
//! A caller puts the call into its own slot, sets its bit in the slot of each target CPU, and waits until
//! each target has cleared it, which it does after running the function. So a slot holds one call at a
//! time, and no address of memory that may be gone.

use core::panic::Location;

use super::{
    Context, Wait, WaitFor,
    atomic::{AtomicU32, AtomicU64, Ordering, UnsafeCell, const_fn_unless_loom, spin_loop},
};

/// Most CPUs that a machine may have: the number of bits in a slot.
pub const MAX_CPUS: usize = if cfg!(loom) { 64 } else { 512 };

const WORDS: usize = MAX_CPUS / 64;

/// A function for a CPU to run with interrupts off. It should be short: the caller waits for it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Function that each target CPU calls once.
    pub function: fn(usize),
    /// Argument that the function is called with.
    pub argument: usize,
}

/// A CPU's slot for calls from and to it: the per-CPU variable `call_slot`.
#[derive(Debug)]
pub struct CallSlot {
    /// 1 while this CPU waits for its own call, else 0. It may not make a second one meanwhile.
    calling: AtomicU32,
    /// Call that this CPU asks others to run.
    call: UnsafeCell<Call>,
    /// Bit set, by CPU number, of the CPUs whose call to this one is not answered yet.
    askers: [AtomicU64; WORDS],
}

// SAFETY: `call` is written by its CPU while it has `calling` and its bit is in no other CPU's
// `askers` (`smp_call_function_many`); it is read by those CPUs only whose `askers` have that bit
// (`answer_calls`), which the writer sets after it.
unsafe impl Sync for CallSlot {}

impl CallSlot {
    const_fn_unless_loom! {
        /// Makes the slot of a CPU without calls from or to it.
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
        // Release: the CPU that sees the bit also sees the call.
        self.askers[asker / 64].fetch_or(1 << (asker % 64), Ordering::Release);
    }

    fn is_asked_by(&self, asker: usize) -> bool {
        // Acquire: what the function did comes before what its caller does next.
        self.askers[asker / 64].load(Ordering::Acquire) & 1 << (asker % 64) != 0
    }
}

impl Default for CallSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// Access from one CPU to another, for cross-CPU calls.
///
/// # Safety
/// [`Context::cpu`] is different on each CPU, and [`Calls::call_slot`] returns each CPU's own slot, always
/// the same.
/// [`answer_calls`] is not interrupted by itself on the same CPU.
pub unsafe trait Calls: Context {
    /// Returns the slot of `cpu`.
    fn call_slot(cpu: usize) -> &'static CallSlot;

    /// Makes `cpu` call [`answer_calls`] once more, as soon as it takes interrupts.
    fn send_call_ipi(cpu: usize);
}

/// Runs the call on every CPU of `targets` but this one, and waits for them without a bound. Must not be
/// called from an interrupt handler or NMI: the interrupted code may be in this function.
///
/// # Panics
/// Panics if this CPU is waiting for another call of its own.
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
    // SAFETY: this CPU has no other call, as the line above has seen, and no CPU has its bit
    // from an earlier call: that call has waited for it below. So there is no reader.
    slot.call.with_mut(|place| unsafe { place.write(call) });
    for cpu in targets.clone() {
        C::call_slot(cpu).ask(this_cpu);
        C::send_call_ipi(cpu);
    }
    wait_for_answers::<C>(targets, this_cpu, at);
    slot.calling.store(0, Ordering::Relaxed);
}

/// Runs the call on `cpu`, which may be this CPU, and waits for it. Otherwise like
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

/// Waits for the targets' answers, in order, and records a wait for the first one that is missing.
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

/// Runs the calls that other CPUs make to this one. Called in the interrupt that [`Calls::send_call_ipi`]
/// sends, with interrupts off.
pub fn answer_calls<C: Calls>() {
    let slot = C::call_slot(C::cpu());
    for (index, word) in slot.askers.iter().enumerate() {
        // Acquire: the callers' writes come before the reads here.
        let mut asked = word.load(Ordering::Acquire);
        while asked != 0 {
            let bit = asked.trailing_zeros() as usize;
            asked &= asked - 1;
            // SAFETY: the asker's bit is here, so it has written its call and waits (see the
            // `Sync` of `CallSlot`); only this CPU clears the bit.
            let call = C::call_slot(64 * index + bit).call.with(|call| unsafe { call.read() });
            (call.function)(call.argument);
            // Release: all that the function did comes before what the caller does next.
            word.fetch_and(!(1 << bit), Ordering::Release);
        }
    }
}
