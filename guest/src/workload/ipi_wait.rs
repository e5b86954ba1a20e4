//! Hangs CPU 0, which waits for the last CPU to answer a cross-CPU call. The culprit is the last CPU, which
//! spins with interrupts off. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: last
//! Victims: 0
//! Cpus: 2..
//! Frames: 0: smp_call_function_single, call_the_last, cpu_main
//! Frames: last: hear_nothing, cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Next, Workload, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "ipi-wait", min_cpus: 2, step };

static DEAF: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    let last = machine::possible_cpus() - 1;
    if cpu == last {
        hear_nothing();
    } else if cpu == 0 {
        call_the_last(last);
    }
    Next::Wait
}

#[inline(never)]
fn hear_nothing() -> ! {
    machine::interrupts_off();
    DEAF.store(true, Relaxed);
    spin_for_good(&WORKLOAD)
}

#[inline(never)]
fn call_the_last(last: usize) {
    while !DEAF.load(Relaxed) {
        core::hint::spin_loop();
    }
    machine::smp_call_function_single(last, |_| {}, 0);
    // So that the call is no tail call, and this function is on the stack.
    core::hint::black_box(last);
}
