//! Resets the machine from CPU n/2: an exception without an interrupt descriptor table. The others idle.
//!
//! Expect: triple-fault
//! Blamed: n/2
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "triple-fault", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::cause_triple_fault();
    }
    Next::Wait
}
