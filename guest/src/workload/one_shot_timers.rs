//! Healthy: no CPU has a periodic tick. Each arms a one-shot timer before it idles, for two to five seconds.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Next, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "one-shot-timers", min_cpus: 1, step };

machine::percpu! {
    /// Number of timers that this CPU has armed.
    static armed: AtomicU64 = AtomicU64::new(0);
}

fn step(cpu: usize) -> Next {
    let seconds = 2 + (armed.this().fetch_add(1, Relaxed) + cpu as u64) % 4;
    machine::one_tick_in(seconds * 1_000_000_000);
    Next::Wait
}
