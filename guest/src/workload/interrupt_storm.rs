//! Hangs CPU n/2 in an interrupt storm: the handler of an interrupt sends the next one, so that the
//! interrupted code makes no progress. The tick has a higher priority and continues. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: n/2
//! Frames: n/2: compute|ask_for_the_next, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "interrupt-storm", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_reschedule_hook(ask_for_the_next);
        ask_for_the_next();
        compute();
    }
    Next::Wait
}

/// Computes for a moment. A processor takes the next interrupt as soon as a handler returns; an emulator
/// may execute an instruction in between.
#[inline(never)]
fn compute() {
    for round in 0..1_000_000_u32 {
        core::hint::black_box(round);
    }
}

#[inline(never)]
fn ask_for_the_next() {
    machine::send_reschedule(machine::cpu_number());
}
