//! Healthy: the kernel's debugger, on CPU n/2, stops all CPUs for four seconds and polls the console, again
//! and again. The kernel records that it does.
//!
//! Expect: healthy
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Next, Workload, compute_for, is_culprit};
use crate::{debugger, machine};

pub static WORKLOAD: Workload = Workload { name: "debugger-prompt", min_cpus: 1, step };

/// Number of CPUs that the debugger can stop.
static REGISTERED: AtomicU32 = AtomicU32::new(0);

machine::percpu! {
    /// 1 once this CPU can be stopped, else 0.
    static is_registered: AtomicU32 = AtomicU32::new(0);
}

fn step(cpu: usize) -> Next {
    const PROMPT_NS: u64 = 4_000_000_000;
    if is_registered.this().swap(1, Relaxed) == 0 {
        debugger::register_this_cpu();
        REGISTERED.fetch_add(1, Relaxed);
    }
    if is_culprit(cpu) && REGISTERED.load(Relaxed) as usize == machine::possible_cpus() {
        debugger::prompt(PROMPT_NS);
        compute_for(300_000_000);
    }
    Next::Wait
}
