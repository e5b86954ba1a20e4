//! Calls between CPUs: each is run once by whom it is for, and the caller goes on after that.
//!
//! Callers spin, and loom takes two that spin for ever; `tests/cross_call.rs` has more of them.

use loom::{
    cell::UnsafeCell,
    sync::{
        Notify,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};
use nmiscope_guest::sync::{
    Call, CallSlot, Calls, Context, answer_calls, smp_call_function_many, smp_call_function_single,
};

use super::{CPUS, Machine, become_cpu, explore};

/// A CPU as the others see it.
struct Cpu {
    slot: CallSlot,
    /// How many interrupts have been sent to it, and that there is one.
    interrupts: AtomicU32,
    interrupt: Notify,
    /// What the functions leave behind on it; loom reports it if they do so at once, or unseen.
    called_with: UnsafeCell<usize>,
}

// SAFETY: `called_with` is written by the CPU's handler and read by who has waited for it; if that
// is not enough, loom says so.
unsafe impl Sync for Cpu {}

loom::lazy_static! {
    static ref MACHINE: [Cpu; CPUS] = std::array::from_fn(|_| Cpu {
        slot: CallSlot::new(),
        interrupts: AtomicU32::new(0),
        interrupt: Notify::new(),
        called_with: UnsafeCell::new(0),
    });
}

// SAFETY: each thread says which CPU it is; a CPU's handlers are one thread.
unsafe impl Calls for Machine {
    fn call_slot(cpu: usize) -> &'static CallSlot {
        &MACHINE[cpu].slot
    }

    fn send_call_ipi(cpu: usize) {
        MACHINE[cpu].interrupts.fetch_add(1, Ordering::Release);
        MACHINE[cpu].interrupt.notify();
    }
}

fn add(argument: usize) {
    let place = &MACHINE[Machine::cpu()].called_with;
    // SAFETY: see `Cpu`.
    place.with_mut(|sum| unsafe { *sum += argument });
}

/// What the functions have left on a CPU, for one who has waited for its answer.
fn sum_on(cpu: usize) -> usize {
    // SAFETY: see `Cpu`.
    MACHINE[cpu].called_with.with(|sum| unsafe { *sum })
}

/// A CPU's handlers, until so many interrupts have come. Two that are pending become one.
fn take_interrupts(cpu: usize, count: u32) {
    become_cpu(cpu);
    let mut seen = 0;
    while seen < count {
        MACHINE[cpu].interrupt.wait();
        seen = MACHINE[cpu].interrupts.load(Ordering::Acquire);
        answer_calls::<Machine>();
    }
}

#[test]
fn one_cpu_calls_two_and_sees_what_they_did() {
    explore(3, || {
        let others = [1, 2].map(|cpu| thread::spawn(move || take_interrupts(cpu, 1)));
        smp_call_function_many::<Machine>(0..CPUS, Call { function: add, argument: 5 });
        assert_eq!([1, 2].map(sum_on), [5, 5]);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(sum_on(0), 0, "a CPU does not call itself");
    });
}

#[test]
fn a_second_call_follows_the_first() {
    explore(4, || {
        let target = thread::spawn(|| take_interrupts(1, 2));
        for argument in [1, 10] {
            smp_call_function_single::<Machine>(1, Call { function: add, argument });
        }
        assert_eq!(sum_on(1), 11);
        target.join().unwrap();
    });
}
