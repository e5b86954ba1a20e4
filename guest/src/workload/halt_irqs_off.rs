//! Hangs CPU n/2, which halts with interrupts off: nothing but an NMI wakes it. The others idle.
//!
//! Expect: dead-halt
//! Blamed: n/2
//! Frames: n/2: halt_forever, halt_with_interrupts_off, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "halt-irqs-off", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        halt_with_interrupts_off();
    }
    Next::Wait
}

#[inline(never)]
fn halt_with_interrupts_off() -> ! {
    machine::halt_forever()
}
