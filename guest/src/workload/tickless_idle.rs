//! Healthy: a tickless guest. All CPUs idle and have programmed their next tick for in five seconds.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use super::{Next, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "tickless-idle", min_cpus: 1, step };

fn step(_: usize) -> Next {
    machine::next_tick_in(5_000_000_000);
    Next::Wait
}
