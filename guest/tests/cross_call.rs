//! Cross-CPU calls. A CPU is two threads here: one that calls, and one for its interrupt handler.
#![cfg(not(loom))]

mod common;

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use common::{CPUS, ThreadMachine, interrupts_are_off, on_cpu};
use nmiscope_guest::sync::{
    Call, CallSlot, Calls, Context, WaitFor, answer_calls, smp_call_function_many,
    smp_call_function_single,
};

static SLOTS: [CallSlot; CPUS] = [const { CallSlot::new() }; CPUS];
static INTERRUPTS: [AtomicBool; CPUS] = [const { AtomicBool::new(false) }; CPUS];

// SAFETY: threads declare which CPU they are, and one thread is a CPU's handler (`with_handlers`).
unsafe impl Calls for ThreadMachine {
    fn call_slot(cpu: usize) -> &'static CallSlot {
        &SLOTS[cpu]
    }

    fn send_call_ipi(cpu: usize) {
        INTERRUPTS[cpu].store(true, SeqCst);
    }
}

/// Count of calls to each CPU, and sum of their arguments.
static CALLED: [(AtomicUsize, AtomicUsize); CPUS] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; CPUS];

fn count(argument: usize) {
    let (calls, sum) = &CALLED[ThreadMachine::cpu()];
    calls.fetch_add(1, SeqCst);
    sum.fetch_add(argument, SeqCst);
}

fn called(cpu: usize) -> (usize, usize) {
    (CALLED[cpu].0.load(SeqCst), CALLED[cpu].1.load(SeqCst))
}

/// Locks the machine, whose CPUs are for one test at a time, and resets its counts.
fn the_machine() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (calls, sum) in &CALLED {
        calls.store(0, SeqCst);
        sum.store(0, SeqCst);
    }
    guard
}

/// Runs `test` while each CPU of `takes` takes its interrupts.
fn with_handlers<R>(takes: &[usize], test: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for &cpu in takes {
            let over = &over;
            scope.spawn(move || {
                on_cpu(cpu, || {
                    while !over.load(SeqCst) {
                        if INTERRUPTS[cpu].swap(false, SeqCst) {
                            answer_calls::<ThreadMachine>();
                        }
                        thread::yield_now();
                    }
                });
            });
        }
        let result = test();
        over.store(true, SeqCst);
        result
    })
}

#[test]
fn every_other_cpu_runs_the_function_once_before_the_call_returns() {
    let _machine = the_machine();
    with_handlers(&[0, 1, 2, 3], || {
        on_cpu(2, || {
            smp_call_function_many::<ThreadMachine>(0..CPUS, Call { function: count, argument: 7 });
        });
        assert_eq!([0, 1, 2, 3].map(called), [(1, 7), (1, 7), (0, 0), (1, 7)]);
    });
}

#[test]
fn a_call_to_the_same_cpu_runs_with_interrupts_off() {
    let _machine = the_machine();
    fn check(argument: usize) {
        assert!(interrupts_are_off());
        count(argument);
    }
    on_cpu(1, || {
        smp_call_function_single::<ThreadMachine>(1, Call { function: check, argument: 3 })
    });
    assert_eq!(called(1), (1, 3));
    assert!(!interrupts_are_off());
}

#[test]
fn simultaneous_calls_of_all_cpus_are_all_answered() {
    const ROUNDS: usize = 200;
    let _machine = the_machine();
    with_handlers(&[0, 1, 2, 3], || {
        thread::scope(|scope| {
            for cpu in 0..CPUS {
                scope.spawn(move || {
                    on_cpu(cpu, || {
                        for _ in 0..ROUNDS {
                            let call = Call { function: count, argument: cpu };
                            smp_call_function_many::<ThreadMachine>(0..CPUS, call);
                        }
                    });
                });
            }
        });
    });
    for cpu in 0..CPUS {
        let sum_of_others = (0..CPUS).sum::<usize>() - cpu;
        assert_eq!(called(cpu), (3 * ROUNDS, sum_of_others * ROUNDS));
    }
}

#[test]
fn a_caller_waits_for_the_first_cpu_without_an_answer() {
    let _machine = the_machine();
    let call = || {
        smp_call_function_many::<ThreadMachine>(1..CPUS, Call { function: count, argument: 0 });
    };
    // CPUs 2 and 3 take no interrupts at first.
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let caller = scope.spawn(move || {
            sender.send(ThreadMachine::cpu_wait()).unwrap();
            call();
            assert_eq!(ThreadMachine::cpu_wait().what(), None);
        });
        let wait = receiver.recv().unwrap();
        let becomes = |cpu| {
            while wait.what() != Some(WaitFor::CpuCall(cpu)) {
                assert!(!caller.is_finished());
                thread::yield_now();
            }
        };
        with_handlers(&[1], || becomes(2));
        assert!(wait.at().is_some_and(|at| at.file().ends_with("cross_call.rs")));
        with_handlers(&[2], || becomes(3));
        with_handlers(&[3], || caller.join().unwrap());
    });
}

#[test]
fn a_call_inside_of_a_call_is_refused() {
    let _machine = the_machine();
    fn call_again(_: usize) {
        // As CPU 0, which is waiting.
        let call =
            || smp_call_function_single::<ThreadMachine>(2, Call { function: count, argument: 0 });
        let refused = on_cpu(0, || std::panic::catch_unwind(call)).unwrap_err();
        let message = refused.downcast_ref::<String>().unwrap();
        assert!(message.contains("a call inside of a call on cpu0"), "{message}");
        count(1);
    }
    with_handlers(&[1], || {
        smp_call_function_single::<ThreadMachine>(1, Call { function: call_again, argument: 0 });
    });
    assert_eq!(called(1), (1, 1));
}
