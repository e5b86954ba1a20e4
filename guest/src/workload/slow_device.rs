//! Healthy: a task on CPU n/2 has one item of work at a time, for which it sleeps until a slow device has
//! answered after four seconds. All CPUs idle.
//!
//! Expect: healthy
//! Sleeps: yes
//! Frames: others: cpu_main

use super::{Device, Next, Once, Workload, is_culprit};
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "slow-device", min_cpus: 1, step };

static DISK: Device = Device::new();

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if is_culprit(cpu) {
        if STARTED.first() {
            kthread::spawn("flusher", cpu, flush, 0);
        }
        DISK.poll();
    }
    Next::Wait
}

#[inline(never)]
fn flush(_: usize) {
    loop {
        work_queued.this().fetch_add(1, super::Relaxed);
        DISK.wait_for_answer(4_000_000_000);
        work_done.this().fetch_add(1, super::Relaxed);
    }
}
