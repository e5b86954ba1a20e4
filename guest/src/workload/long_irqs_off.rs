//! Healthy: each CPU computes with interrupts off for 0.6 s, again and again.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use super::{Next, Workload, compute_for};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "long-irqs-off", min_cpus: 1, step };

fn step(_: usize) -> Next {
    machine::interrupts_off();
    compute_for(600_000_000);
    machine::interrupts_on();
    Next::Wait
}
