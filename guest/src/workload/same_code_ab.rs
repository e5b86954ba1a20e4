//! Hangs CPUs 0 and 1: each holds the lock that the other waits for. The code is that of `same-code-cd`,
//! the locks are others, and so it is another hang. The others idle.
//!
//! Expect: deadlock
//! Blamed: 0, 1
//! Locks: ALPHA_LOCK, BETA_LOCK
//! Cpus: 2..
//! Frames: 0: lock, transfer, cpu_main
//! Frames: 1: lock, transfer, cpu_main
//! Frames: others: cpu_main

use super::{Meeting, Next, Workload};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "same-code-ab", min_cpus: 2, step };

static ALPHA_LOCK: SpinLock<u64> = SpinLock::new(0);
static BETA_LOCK: SpinLock<u64> = SpinLock::new(0);

fn step(cpu: usize) -> Next {
    transfer_both_ways(cpu, &ALPHA_LOCK, &BETA_LOCK)
}

/// Transfers from `a` to `b` on CPU 0, and from `b` to `a` on CPU 1.
pub(super) fn transfer_both_ways(cpu: usize, a: &SpinLock<u64>, b: &SpinLock<u64>) -> Next {
    match cpu {
        0 => transfer(a, b),
        1 => transfer(b, a),
        _ => {}
    }
    Next::Wait
}

#[inline(never)]
fn transfer(from: &SpinLock<u64>, to: &SpinLock<u64>) {
    static BOTH_HAVE_ONE: Meeting = Meeting::new();
    let mut from = from.lock();
    BOTH_HAVE_ONE.meet(2);
    *from += *to.lock();
}
