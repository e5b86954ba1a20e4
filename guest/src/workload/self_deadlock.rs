//! Hangs CPU n/2, which waits for a lock that it holds itself. The others idle.
//!
//! Expect: deadlock
//! Blamed: n/2
//! Locks: INODE_LOCK
//! Frames: n/2: lock, update_size, write, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "self-deadlock", min_cpus: 1, step };

static INODE_LOCK: SpinLock<u64> = SpinLock::new(0);

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        write();
    }
    Next::Wait
}

#[inline(never)]
fn write() {
    let mut size = INODE_LOCK.lock();
    *size += update_size();
}

/// Takes the lock although its caller holds it.
#[inline(never)]
fn update_size() -> u64 {
    let mut size = INODE_LOCK.lock();
    *size += 1;
    *size
}
