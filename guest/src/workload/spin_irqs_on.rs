//! Hangs CPU n/2, which spins with interrupts on: it takes its ticks, but its main loop makes no progress.
//! The others idle.
//!
//! Expect: soft-lockup
//! Blamed: n/2
//! Frames: n/2: spin_with_interrupts_on, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit, spin_for_good};

pub static WORKLOAD: Workload = Workload { name: "spin-irqs-on", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        spin_with_interrupts_on();
    }
    Next::Wait
}

#[inline(never)]
fn spin_with_interrupts_on() -> ! {
    spin_for_good(&WORKLOAD)
}
