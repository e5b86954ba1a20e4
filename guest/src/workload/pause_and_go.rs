//! Healthy: all CPUs compute for a while, then halt for `section_ms` without a tick, and compute again.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nmiscope_guest::sync::Context;

use super::{Next, SECTION_NS, Workload, compute_for};
use crate::machine::{self, X86};

pub static WORKLOAD: Workload = Workload { name: "pause-and-go", min_cpus: 1, step };

machine::percpu! {
    /// 1 while this CPU's next tick is set to the end of the pause, else 0.
    static pauses: AtomicU32 = AtomicU32::new(0);
}

fn step(_: usize) -> Next {
    const WORK_NS: u64 = 500_000_000;
    // The same phase on all CPUs, which have one clock.
    let period = WORK_NS + SECTION_NS.load(Relaxed);
    let phase = X86::clock_ns() % period;
    if phase < WORK_NS {
        if pauses.this().swap(0, Relaxed) != 0 {
            machine::start_tick(machine::possible_cpus());
        }
        compute_for(10_000_000);
        return Next::Again;
    }
    pauses.this().store(1, Relaxed);
    machine::next_tick_in(period - phase);
    Next::Wait
}
