//! Hangs CPUs 0 and 1 in the code of `same-code-ab`, with other locks. The others idle.
//!
//! Expect: deadlock
//! Blamed: 0, 1
//! Locks: DELTA_LOCK, GAMMA_LOCK
//! Cpus: 2..
//! Frames: 0: lock, transfer, cpu_main
//! Frames: 1: lock, transfer, cpu_main
//! Frames: others: cpu_main

use super::same_code_ab::transfer_both_ways;
use super::{Next, Workload};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "same-code-cd", min_cpus: 2, step };

static GAMMA_LOCK: SpinLock<u64> = SpinLock::new(0);
static DELTA_LOCK: SpinLock<u64> = SpinLock::new(0);

fn step(cpu: usize) -> Next {
    transfer_both_ways(cpu, &GAMMA_LOCK, &DELTA_LOCK)
}
