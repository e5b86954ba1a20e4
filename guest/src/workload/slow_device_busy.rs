//! Healthy: as `slow-device`, and another task of the same CPU computes meanwhile.
//!
//! Expect: healthy
//! Sleeps: yes
//! Frames: n/2: cpu_main|task_main
//! Frames: others: cpu_main

use nmiscope_guest::sched;

use super::{Device, Next, Once, Workload, compute_for, is_culprit};
use crate::machine::X86;
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "slow-device-busy", min_cpus: 1, step };

static DISK: Device = Device::new();

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if is_culprit(cpu) {
        if STARTED.first() {
            kthread::spawn("flusher", cpu, flush, 0);
            kthread::spawn("cruncher", cpu, crunch, 0);
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

#[inline(never)]
fn crunch(_: usize) {
    loop {
        compute_for(2_000_000);
        sched::yield_now::<X86>();
    }
}
