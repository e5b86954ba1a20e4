//! Hangs CPU n/2, whose timer has stopped: it halts with interrupts on, and none arrives. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "missed-timer", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::stop_tick();
    }
    Next::Wait
}
