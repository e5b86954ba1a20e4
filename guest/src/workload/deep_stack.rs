//! Hangs CPU n/2 at the end of a recursion whose trace is longer than the NMI buffer: lines that do not
//! fit have to be counted. Interrupts are off. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: descend, descend
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "deep-stack", min_cpus: 1, step };

/// Levels of recursion. A line of the trace takes some 24 of the buffer's 4096 bytes, a level less than 48
/// bytes of the stack's 16 KiB.
const DEPTH: u32 = 250;

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::interrupts_off();
        black_box(descend(black_box(DEPTH)));
    }
    Next::Wait
}

#[inline(never)]
fn descend(levels: u32) -> u32 {
    if levels == 0 {
        spin_for_good(&WORKLOAD);
    }
    // The sum is used after the call, so that the call is no tail call.
    black_box(descend(levels - 1)) + levels
}
