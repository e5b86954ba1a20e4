//! Healthy: all CPUs compute for a while, then stand still for `section_ms`, without so much as a tick,
//! and go on.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nmiscope_guest::sync::Context;

use super::{Next, SECTION_NS, Workload, compute_for};
use crate::machine::{self, X86};

pub static WORKLOAD: Workload = Workload { name: "pause-and-go", min_cpus: 1, step };

machine::percpu! {
    /// Whether its tick waits for the end of the pause.
    static pauses: AtomicU32 = AtomicU32::new(0);
}

fn step(_: usize) -> Next {
    const WORK_NS: u64 = 500_000_000;
    // The same on all CPUs: they have one clock.
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
