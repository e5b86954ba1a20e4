//! Hangs the boot: the last CPU comes online, but spins with interrupts off before it reaches `cpu_main`,
//! where the boot CPU waits for it. The others reach it.
//!
//! Expect: boot-stall
//! Blamed: last
//! Victims: 0
//! Cpus: 2..
//! Frames: 0: cpu_main
//! Frames: last: never_arrive, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "ap-never-arrives", min_cpus: 2, step };

fn step(_: usize) -> Next {
    Next::Wait
}

/// Stalls the last CPU if this workload runs. Called on each CPU before it waits for the others.
pub fn stall_if_it_runs(workload: &Workload, cpu: usize) {
    if core::ptr::eq(workload, &WORKLOAD) && cpu == machine::possible_cpus() - 1 {
        never_arrive();
    }
}

#[inline(never)]
fn never_arrive() -> ! {
    machine::interrupts_off();
    spin_for_good(&WORKLOAD)
}
