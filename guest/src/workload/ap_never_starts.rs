//! Hangs the boot: no start-up IPI reaches the last CPU, and the boot CPU waits for it for as long as it
//! takes, as it does in no other case. The others are there.
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

/// Whether the workload is this one, and no CPU is given up.
pub fn is(workload: &Workload) -> bool {
    core::ptr::eq(workload, &WORKLOAD)
}

/// Whether a CPU gets the IPIs that start it.
pub fn can_be_started(workload: &Workload, cpu: usize) -> bool {
    !(is(workload) && cpu == machine::possible_cpus() - 1)
}
