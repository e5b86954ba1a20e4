//! Hangs CPU n/2, where a task never yields. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: n/2
//! Frames: n/2: hog, task_main
//! Frames: others: cpu_main

use super::{Next, Once, Workload, is_culprit, spin_for_good};
use crate::kthread;

pub static WORKLOAD: Workload = Workload { name: "task-hog", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if is_culprit(cpu) && STARTED.first() {
        kthread::spawn("hog", cpu, hog, 0);
    }
    Next::Wait
}

#[inline(never)]
fn hog(_: usize) {
    spin_for_good(&WORKLOAD)
}
