//! Healthy: CPU n/2 serves requests in an interrupt handler, for `section_ms` of its own time, and goes back
//! to its main loop, again and again. The others idle.
//!
//! Expect: healthy
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::Ordering::Relaxed;

use super::{Next, SECTION_NS, Workload, compute_for, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "long-softirq", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_reschedule_hook(serve);
        machine::send_reschedule(cpu);
    }
    Next::Wait
}

#[inline(never)]
fn serve() {
    compute_for(SECTION_NS.load(Relaxed));
}
