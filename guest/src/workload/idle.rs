//! Healthy: every CPU halts, and wakes for its ticks.
//!
//! Expect: healthy
//! Frames: 0: cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload};

pub static WORKLOAD: Workload = Workload { name: "idle", min_cpus: 1, step };

fn step(_: usize) -> Next {
    Next::Wait
}
