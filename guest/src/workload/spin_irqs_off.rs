//! Hangs CPU n/2, which spins with interrupts off. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: spin_with_interrupts_off, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "spin-irqs-off", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        spin_with_interrupts_off();
    }
    Next::Wait
}

#[inline(never)]
fn spin_with_interrupts_off() -> ! {
    machine::interrupts_off();
    spin_for_good(&WORKLOAD)
}
