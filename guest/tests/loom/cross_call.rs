//! Cross-CPU calls: each target runs the function once, and the call returns after that.
//!
//! Callers spin, and loom does not end for two that spin; `tests/cross_call.rs` has more callers.

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

/// State of a CPU that other CPUs access.
struct Cpu {
    slot: CallSlot,
    /// Count of interrupts that have been sent to it.
    interrupts: AtomicU32,
    /// Signal that an interrupt has been sent.
    interrupt: Notify,
    /// Sum that the functions leave on it. loom reports unordered accesses to it.
    called_with: UnsafeCell<usize>,
}

// SAFETY: `called_with` is written by the CPU's handler and read by a caller that has waited for it; if
// that is not enough, loom reports it.
unsafe impl Sync for Cpu {}

loom::lazy_static! {
    static ref MACHINE: [Cpu; CPUS] = std::array::from_fn(|_| Cpu {
        slot: CallSlot::new(),
        interrupts: AtomicU32::new(0),
        interrupt: Notify::new(),
        called_with: UnsafeCell::new(0),
    });
}

// SAFETY: each thread declares which CPU it is; a CPU's handlers are one thread.
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

/// Returns the sum that the functions have left on a CPU, for a caller that has waited for its answer.
fn sum_on(cpu: usize) -> usize {
    // SAFETY: see `Cpu`.
    MACHINE[cpu].called_with.with(|sum| unsafe { *sum })
}

/// Runs a CPU's handlers until `count` interrupts have been sent. Two pending interrupts become one.
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
