//! Healthy: all CPUs take the same two locks without a pause.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use core::sync::atomic::Ordering::Relaxed;

use super::{Next, Workload};
use crate::sync::{SpinLock, TicketLock};
use crate::{work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "lock-contention", min_cpus: 1, step };

static RUNQUEUE_LOCK: SpinLock<u64> = SpinLock::new(0);
static ZONE_LOCK: TicketLock<u64> = TicketLock::new(0);

fn step(_: usize) -> Next {
    work_queued.this().fetch_add(1, Relaxed);
    *RUNQUEUE_LOCK.lock() += 1;
    *ZONE_LOCK.lock() += 1;
    work_done.this().fetch_add(1, Relaxed);
    Next::Again
}
