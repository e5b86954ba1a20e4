//! Healthy: a task on CPU n/2 computes for four seconds with a mutex held, and yields now and then, again
//! and again. A task on CPU 0 sleeps for the mutex.
//!
//! Expect: healthy
//! Sleeps: yes
//! Frames: others: cpu_main|task_main

use nmiscope_guest::sched;
use nmiscope_guest::sync::Context;

use super::{Next, Once, Workload, compute_for, is_culprit};
use crate::kthread;
use crate::machine::X86;
use crate::sync::Mutex;

pub static WORKLOAD: Workload = Workload { name: "mutex-holder-computes", min_cpus: 1, step };

static TABLE_MUTEX: Mutex<u64> = Mutex::new(0);

fn step(cpu: usize) -> Next {
    static READER: Once = Once::new();
    static BUILDER: Once = Once::new();
    if is_culprit(cpu) && BUILDER.first() {
        kthread::spawn("builder", cpu, build, 0);
    }
    if cpu == 0 && READER.first() {
        kthread::spawn("reader", cpu, read, 0);
    }
    Next::Wait
}

#[inline(never)]
fn build(_: usize) {
    const BUILDS_FOR_NS: u64 = 4_000_000_000;
    loop {
        let mut table = TABLE_MUTEX.lock();
        let start = X86::clock_ns();
        while X86::clock_ns() - start < BUILDS_FOR_NS {
            compute_for(5_000_000);
            *table += 1;
            sched::yield_now::<X86>();
        }
        drop(table);
        sched::yield_now::<X86>();
    }
}

#[inline(never)]
fn read(_: usize) {
    loop {
        *TABLE_MUTEX.lock() += 1;
        sched::yield_now::<X86>();
    }
}
