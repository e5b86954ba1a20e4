//! Healthy: each CPU computes with interrupts off for `section_ms` of its own time, again and again.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use core::sync::atomic::Ordering::Relaxed;

use super::{Next, SECTION_NS, Workload, compute_for};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "long-irqs-off", min_cpus: 1, step };

fn step(_: usize) -> Next {
    machine::interrupts_off();
    compute_for(SECTION_NS.load(Relaxed));
    machine::interrupts_on();
    Next::Wait
}
