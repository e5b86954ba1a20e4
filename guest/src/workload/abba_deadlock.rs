//! Hangs CPUs 0 and 1: each holds the lock that the other waits for, with interrupts off. The others
//! idle.
//!
//! Expect: deadlock
//! Blamed: 0, 1
//! Locks: INODE_LOCK, JOURNAL_LOCK
//! Cpus: 2..
//! Frames: 0: lock, take_second, take_both, cpu_main
//! Frames: 1: lock, take_second, take_both, cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Next, Workload};
use crate::machine;
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "abba-deadlock", min_cpus: 2, step };

static INODE_LOCK: SpinLock<u64> = SpinLock::new(0);
static JOURNAL_LOCK: SpinLock<u64> = SpinLock::new(0);

/// Number of CPUs that hold their first lock, which each of them waits for to make the deadlock certain.
static HAVE_FIRST: AtomicU32 = AtomicU32::new(0);

fn step(cpu: usize) -> Next {
    match cpu {
        0 => take_both(&INODE_LOCK, &JOURNAL_LOCK),
        1 => take_both(&JOURNAL_LOCK, &INODE_LOCK),
        _ => {}
    }
    Next::Wait
}

#[inline(never)]
fn take_both(first: &SpinLock<u64>, second: &SpinLock<u64>) {
    machine::interrupts_off();
    let mut held = first.lock();
    HAVE_FIRST.fetch_add(1, Relaxed);
    while HAVE_FIRST.load(Relaxed) < 2 {
        core::hint::spin_loop();
    }
    *held += take_second(second);
}

#[inline(never)]
fn take_second(lock: &SpinLock<u64>) -> u64 {
    let mut held = lock.lock();
    *held += 1;
    *held
}
