//! Two independent hangs: CPU 1 halts with interrupts off, CPU 2 spins with interrupts off. The others idle.
//!
//! Expect: dead-halt + hard-lockup
//! Blamed: 1 + 2
//! Cpus: 3..
//! Frames: 1: die_quietly, cpu_main
//! Frames: 2: spin_for_good|die_noisily, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "two-roots", min_cpus: 3, step };

fn step(cpu: usize) -> Next {
    match cpu {
        1 => die_quietly(),
        2 => die_noisily(),
        _ => {}
    }
    Next::Wait
}

#[inline(never)]
fn die_quietly() -> ! {
    // Otherwise the compiler merges it with functions of other workloads that do the same.
    core::hint::black_box(&WORKLOAD);
    machine::interrupts_off();
    machine::halt_forever()
}

#[inline(never)]
fn die_noisily() {
    machine::interrupts_off();
    spin_for_good(&WORKLOAD)
}
