//! Healthy: tasks on the first eight CPUs, one each, take the same mutex without a pause.
//!
//! Expect: healthy
//! Frames: others: cpu_main|task_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Workload};
use crate::machine::X86;
use crate::sync::Mutex;
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "mutex-contention", min_cpus: 1, step };

const TASKS: usize = 8;

static PAGE_MUTEX: Mutex<u64> = Mutex::new(0);

fn step(cpu: usize) -> Next {
    static STARTED: [AtomicBool; TASKS] = [const { AtomicBool::new(false) }; TASKS];
    if cpu < TASKS && !STARTED[cpu].swap(true, Relaxed) {
        kthread::spawn("contender", cpu, contend, 0);
    }
    Next::Wait
}

#[inline(never)]
fn contend(_: usize) {
    loop {
        work_queued.this().fetch_add(1, Relaxed);
        let mut page = PAGE_MUTEX.lock();
        *page += 1;
        // Yields with the mutex held, so that the others have to sleep.
        sched::yield_now::<X86>();
        drop(page);
        work_done.this().fetch_add(1, Relaxed);
        sched::yield_now::<X86>();
    }
}
