//! Hangs a task of CPU n/2, whose main loop has taken it out of the run queue and has not run it: it could
//! run and never does. All CPUs idle.
//!
//! Expect: lost-wakeup
//! Blamed: task orphan
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use nmiscope_guest::sched;

use super::{Next, Once, Workload, is_culprit};
use crate::kthread;
use crate::machine::{self, X86};

pub static WORKLOAD: Workload = Workload { name: "ready-not-run", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if is_culprit(cpu) && STARTED.first() {
        kthread::spawn("orphan", cpu, compute, 0);
        forget_it();
    }
    Next::Wait
}

/// Takes the task out of the queue and does not run it.
#[inline(never)]
fn forget_it() {
    machine::interrupts_off();
    let _ = sched::take_next::<X86>();
    machine::interrupts_on();
}

#[inline(never)]
fn compute(_: usize) {
    core::hint::black_box(1);
}
