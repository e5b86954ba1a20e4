//! Hangs the boot: the last CPU comes online, and spins with interrupts off before it gets to where the
//! boot CPU waits for it. The others are there.
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

/// On each CPU, on its way to where all CPUs meet.
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
