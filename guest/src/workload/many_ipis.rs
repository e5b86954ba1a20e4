//! Healthy: all CPUs call each other, without a pause.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use core::sync::atomic::Ordering::Relaxed;

use super::{Next, Workload};
use crate::machine;
use crate::{work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "many-ipis", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    let next = (cpu + 1) % machine::possible_cpus();
    if next == cpu {
        return Next::Wait;
    }
    work_queued.this().fetch_add(1, Relaxed);
    machine::smp_call_function_single(next, |_| {}, 0);
    work_done.this().fetch_add(1, Relaxed);
    Next::Again
}
