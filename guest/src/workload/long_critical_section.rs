//! Healthy: CPU n/2 holds a lock for `section_ms` of its own time, again and again, and all others wait
//! for it meanwhile. It takes the lock again only after each of them has had its turn.
//!
//! Expect: healthy
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Next, SECTION_NS, Workload, compute_for, is_culprit};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "long-critical-section", min_cpus: 1, step };

static LEDGER_LOCK: SpinLock<u64> = SpinLock::new(0);
/// Number of CPUs that wait for the lock. It is not fair: a late waiter would wait for the next section too.
static IN_LINE: AtomicU32 = AtomicU32::new(0);

fn step(cpu: usize) -> Next {
    if !is_culprit(cpu) {
        IN_LINE.fetch_add(1, Relaxed);
        *LEDGER_LOCK.lock() += 1;
        IN_LINE.fetch_sub(1, Relaxed);
    } else if IN_LINE.load(Relaxed) == 0 {
        let mut ledger = LEDGER_LOCK.lock();
        compute_for(SECTION_NS.load(Relaxed));
        *ledger += 1;
    }
    Next::Wait
}
