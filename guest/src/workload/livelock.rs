//! Hangs CPUs 0 and 1 in a livelock: each takes one lock, finds the other taken, frees its own, and tries
//! again, in step. The others idle.
//!
//! Expect: livelock
//! Blamed: 0, 1
//! Cpus: 2..
//! Frames: 0: cpu_main
//! Frames: 1: cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::Ordering::Relaxed;

use super::{Meeting, Next, Once, Workload};
use crate::sync::SpinLock;
use crate::{work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "livelock", min_cpus: 2, step };

static SOURCE_LOCK: SpinLock<u64> = SpinLock::new(1);
static TARGET_LOCK: SpinLock<u64> = SpinLock::new(0);

fn step(cpu: usize) -> Next {
    static STARTED: [Once; 2] = [const { Once::new() }; 2];
    let (first, second) = match cpu {
        0 => (&SOURCE_LOCK, &TARGET_LOCK),
        1 => (&TARGET_LOCK, &SOURCE_LOCK),
        _ => return Next::Wait,
    };
    if STARTED[cpu].first() {
        work_queued.this().fetch_add(1, Relaxed);
    }
    if move_one(first, second) {
        work_done.this().fetch_add(1, Relaxed);
    }
    Next::Again
}

/// Tries to take both locks and move an item. Gives up if the second is taken, in step with the other CPU.
#[inline(never)]
fn move_one(first: &SpinLock<u64>, second: &SpinLock<u64>) -> bool {
    static BOTH_HAVE_ONE: Meeting = Meeting::new();
    static BOTH_HAVE_TRIED: Meeting = Meeting::new();
    let Some(mut from) = first.try_lock() else { return false };
    BOTH_HAVE_ONE.meet(2);
    let moved = match second.try_lock() {
        Some(mut to) => {
            *to += core::mem::take(&mut *from);
            true
        }
        None => false,
    };
    BOTH_HAVE_TRIED.meet(2);
    moved
}
