//! Healthy: each CPU makes a cross-CPU call to the next one, then to all others, without a pause.
//!
//! Expect: healthy
//! Cpus: 2..
//! Frames: others: cpu_main

use core::sync::atomic::Ordering::Relaxed;

use super::{Next, Workload};
use crate::machine;
use crate::{work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "many-ipis", min_cpus: 2, step };

fn step(cpu: usize) -> Next {
    let next = (cpu + 1) % machine::possible_cpus();
    work_queued.this().fetch_add(1, Relaxed);
    machine::smp_call_function_single(next, |_| {}, 0);
    machine::smp_call_function(|_| {}, 0);
    work_done.this().fetch_add(1, Relaxed);
    Next::Again
}
