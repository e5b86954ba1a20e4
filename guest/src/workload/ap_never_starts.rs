//! Hangs the boot: no start-up IPI is sent to the last CPU, and the boot CPU waits for it without its
//! usual time limit. The others are online.
//!
//! Expect: boot-stall
//! Blamed: last
//! Victims: 0
//! Cpus: 2..
//! Frames: 0: start_others
//! Frames: last: none
//! Frames: others: cpu_main

use super::{Next, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "ap-never-starts", min_cpus: 2, step };

fn step(_: usize) -> Next {
    Next::Wait
}

/// Returns true if the workload is this one, which waits for every CPU without a limit.
pub fn is(workload: &Workload) -> bool {
    core::ptr::eq(workload, &WORKLOAD)
}

/// Returns true if a CPU is sent the IPIs that start it.
pub fn can_be_started(workload: &Workload, cpu: usize) -> bool {
    !(is(workload) && cpu == machine::possible_cpus() - 1)
}
