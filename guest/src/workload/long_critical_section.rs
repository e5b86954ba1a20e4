//! Healthy: the CPUs take turns at a lock, and each keeps it for 0.45 s. With many of them that is a
//! long wait, so only the first two do; the others idle.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use super::{Next, Workload, compute_for};
use crate::sync::TicketLock;

pub static WORKLOAD: Workload = Workload { name: "long-critical-section", min_cpus: 1, step };

static LEDGER_LOCK: TicketLock<u64> = TicketLock::new(0);

fn step(cpu: usize) -> Next {
    if cpu < 2 {
        let mut ledger = LEDGER_LOCK.lock();
        compute_for(450_000_000);
        *ledger += 1;
    }
    Next::Wait
}
