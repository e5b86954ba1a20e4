//! Hangs CPU n/2 under interrupts: the handler of one asks for the next, so that nothing else gets to run
//! but the tick, which comes first. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: n/2
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "interrupt-storm", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_reschedule_hook(ask_for_the_next);
        ask_for_the_next();
    }
    Next::Wait
}

#[inline(never)]
fn ask_for_the_next() {
    machine::send_reschedule(machine::cpu_number());
}
