//! Hangs a worker task on CPU n/2, which sleeps although it has work, as in `lost-wakeup`; another task of
//! the same CPU computes and yields all the time, and has nothing to do with it.
//!
//! Expect: lost-wakeup
//! Blamed: task worker
//! Frames: n/2: cpu_main|task_main
//! Frames: others: cpu_main
//! Frames: task worker: schedule, sleep_on, work, task_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Once, Workload, compute_for, is_culprit};
use crate::machine::X86;
use crate::sync::WaitQueue;
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "lost-wakeup-busy", min_cpus: 1, step };

static HAS_WORK: AtomicBool = AtomicBool::new(false);
static SLEEPS: AtomicBool = AtomicBool::new(false);
static INBOX_QUEUE: WaitQueue = WaitQueue::new();

/// Progress of the worker and the producer, which makes the race certain.
static WORKER_HAS_LOOKED: AtomicBool = AtomicBool::new(false);
static PRODUCER_IS_DONE: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    static PRODUCED: Once = Once::new();
    if is_culprit(cpu) && STARTED.first() {
        kthread::spawn("worker", cpu, work, cpu);
        kthread::spawn("cruncher", cpu, crunch, cpu);
        return Next::Again;
    }
    if is_culprit(cpu) && WORKER_HAS_LOOKED.load(Relaxed) && PRODUCED.first() {
        work_queued.this().fetch_add(1, Relaxed);
        HAS_WORK.store(true, Relaxed);
        if SLEEPS.load(Relaxed) {
            INBOX_QUEUE.wake_up();
        }
        PRODUCER_IS_DONE.store(true, Relaxed);
    }
    Next::Wait
}

#[inline(never)]
fn crunch(_: usize) {
    loop {
        compute_for(2_000_000);
        sched::yield_now::<X86>();
    }
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
            INBOX_QUEUE.sleep_on();
        }
    }
}
