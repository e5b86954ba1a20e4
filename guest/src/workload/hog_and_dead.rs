//! Two independent hangs: a task of CPU 0 never yields, and the last CPU has halted with interrupts off. The
//! others idle.
//!
//! Expect: dead-halt + soft-lockup
//! Blamed: last + 0
//! Cpus: 2..
//! Frames: 0: spin_for_good|hog, task_main
//! Frames: last: die, cpu_main
//! Frames: others: cpu_main

use super::{Next, Once, Workload, spin_for_good};
use crate::{kthread, machine};

pub static WORKLOAD: Workload = Workload { name: "hog-and-dead", min_cpus: 2, step };

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if cpu == 0 && STARTED.first() {
        kthread::spawn("hog", 0, hog, 0);
    }
    if cpu == machine::possible_cpus() - 1 {
        die();
    }
    Next::Wait
}

#[inline(never)]
fn hog(_: usize) {
    spin_for_good(&WORKLOAD)
}

#[inline(never)]
fn die() -> ! {
    // Otherwise the compiler merges it with functions of other workloads that do the same.
    core::hint::black_box(&WORKLOAD);
    machine::interrupts_off();
    machine::halt_forever()
}
