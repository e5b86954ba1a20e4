//! Healthy: all CPUs do nothing for two seconds, then compute for half of one, again and again.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use nmiscope_guest::sync::Context;

use super::{Next, Workload, compute_for};
use crate::machine::X86;

pub static WORKLOAD: Workload = Workload { name: "pause-and-go", min_cpus: 1, step };

fn step(_: usize) -> Next {
    const PERIOD_NS: u64 = 2_500_000_000;
    const PAUSE_NS: u64 = 2_000_000_000;
    if X86::clock_ns() % PERIOD_NS >= PAUSE_NS {
        compute_for(10_000_000);
        return Next::Again;
    }
    Next::Wait
}
