//! Hangs CPUs 0, 1 and 2: each holds a lock and waits for the next one's, with interrupts on. The others
//! idle.
//!
//! Expect: deadlock
//! Blamed: 0, 1, 2
//! Locks: LEFT_FORK, MIDDLE_FORK, RIGHT_FORK
//! Cpus: 3..
//! Frames: 0: lock, dine, cpu_main
//! Frames: 1: lock, dine, cpu_main
//! Frames: 2: lock, dine, cpu_main
//! Frames: others: cpu_main

use super::{Meeting, Next, Workload};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "three-lock-cycle", min_cpus: 3, step };

static LEFT_FORK: SpinLock<u64> = SpinLock::new(0);
static MIDDLE_FORK: SpinLock<u64> = SpinLock::new(0);
static RIGHT_FORK: SpinLock<u64> = SpinLock::new(0);
static FORKS: [&SpinLock<u64>; 3] = [&LEFT_FORK, &MIDDLE_FORK, &RIGHT_FORK];

fn step(cpu: usize) -> Next {
    if cpu < FORKS.len() {
        dine(cpu);
    }
    Next::Wait
}

#[inline(never)]
fn dine(cpu: usize) {
    static ALL_HAVE_ONE: Meeting = Meeting::new();
    let mut left = FORKS[cpu].lock();
    ALL_HAVE_ONE.meet(FORKS.len());
    *left += *FORKS[(cpu + 1) % FORKS.len()].lock();
}
