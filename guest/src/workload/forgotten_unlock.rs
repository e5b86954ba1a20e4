//! Hangs all CPUs but the culprit, CPU n/2: that one has taken a lock without freeing it, and idles.
//!
//! Expect: lock-wait
//! Blamed: n/2
//! Locks: DENTRY_LOCK
//! Victims: others
//! Cpus: 2..
//! Frames: n/2: cpu_main
//! Frames: others: lock, look_up, cpu_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Next, Workload, is_culprit};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "forgotten-unlock", min_cpus: 2, step };

static DENTRY_LOCK: SpinLock<u64> = SpinLock::new(0);
static HELD: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    if !is_culprit(cpu) {
        look_up();
    } else if !HELD.load(Relaxed) {
        core::mem::forget(DENTRY_LOCK.lock());
        HELD.store(true, Relaxed);
    }
    Next::Wait
}

#[inline(never)]
fn look_up() {
    while !HELD.load(Relaxed) {
        core::hint::spin_loop();
    }
    *DENTRY_LOCK.lock() += 1;
}
