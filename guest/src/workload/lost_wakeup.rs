//! Hangs a worker task on CPU n/2, which sleeps although it has work: the worker checked for work, then the
//! producer added some and sent no wake-up because the worker was awake, then the worker went to sleep.
//! All CPUs idle.
//!
//! Expect: lost-wakeup
//! Blamed: task worker
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main
//! Frames: task worker: schedule, sleep_on, work, task_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Once, Workload, is_culprit};
use crate::machine::X86;
use crate::sync::WaitQueue;
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "lost-wakeup", min_cpus: 1, step };

static HAS_WORK: AtomicBool = AtomicBool::new(false);
static SLEEPS: AtomicBool = AtomicBool::new(false);
static MORE_WORK: WaitQueue = WaitQueue::new();

/// Progress of the worker and the producer, which makes the race certain.
static WORKER_HAS_LOOKED: AtomicBool = AtomicBool::new(false);
static PRODUCER_IS_DONE: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    static PRODUCED: Once = Once::new();
    if is_culprit(cpu) && STARTED.first() {
        kthread::spawn("worker", cpu, work, cpu);
        return Next::Again;
    }
    if is_culprit(cpu) && WORKER_HAS_LOOKED.load(Relaxed) && PRODUCED.first() {
        produce();
    }
    Next::Wait
}

fn produce() {
    work_queued.this().fetch_add(1, Relaxed);
    HAS_WORK.store(true, Relaxed);
    if SLEEPS.load(Relaxed) {
        MORE_WORK.wake_up();
    }
    PRODUCER_IS_DONE.store(true, Relaxed);
}

#[inline(never)]
fn work(_: usize) {
    loop {
        if HAS_WORK.swap(false, Relaxed) {
            work_done.this().fetch_add(1, Relaxed);
        } else {
            WORKER_HAS_LOOKED.store(true, Relaxed);
            while !PRODUCER_IS_DONE.load(Relaxed) {
                sched::yield_now::<X86>();
            }
            // Too late: it should be set before the check for work.
            SLEEPS.store(true, Relaxed);
            MORE_WORK.sleep_on();
        }
    }
}
