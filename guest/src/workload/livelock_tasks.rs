//! Hangs CPU n/2 in a livelock of two of its tasks: each holds one mutex, finds the other taken, frees its
//! own, and yields. They have finished work before. A third task sleeps for an event that nobody needs.
//!
//! Expect: livelock
//! Blamed: n/2
//! Frames: n/2: cpu_main|task_main
//! Frames: others: cpu_main
//! Frames: task helper: schedule, sleep_on, help, task_main

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nmiscope_guest::sched;
use nmiscope_guest::sync::Context;

use super::{Next, Once, Workload, is_culprit};
use crate::machine::X86;
use crate::sync::{Mutex, WaitQueue};
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "livelock-tasks", min_cpus: 1, step };

static SOURCE_MUTEX: Mutex<u64> = Mutex::new(0);
static TARGET_MUTEX: Mutex<u64> = Mutex::new(0);
static NEVER: WaitQueue = WaitQueue::new();
/// Number of tasks that hold their first mutex.
static HOLDERS: AtomicU32 = AtomicU32::new(0);

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if is_culprit(cpu) && STARTED.first() {
        kthread::spawn("helper", cpu, help, 0);
        kthread::spawn("mover", cpu, fight, 0);
        kthread::spawn("copier", cpu, fight, 1);
    }
    Next::Wait
}

#[inline(never)]
fn help(_: usize) {
    loop {
        NEVER.sleep_on();
    }
}

#[inline(never)]
fn fight(which: usize) {
    // The host sees who works at its next look, which comes late on a busy host.
    const PEACEFUL_NS: u64 = 1_000_000_000;
    let (first, second) = match which {
        0 => (&SOURCE_MUTEX, &TARGET_MUTEX),
        _ => (&TARGET_MUTEX, &SOURCE_MUTEX),
    };
    let start = X86::clock_ns();
    work_queued.this().fetch_add(1, Relaxed);
    while X86::clock_ns() - start < PEACEFUL_NS {
        work_queued.this().fetch_add(1, Relaxed);
        work_done.this().fetch_add(1, Relaxed);
        sched::yield_now::<X86>();
    }
    loop {
        let held = first.try_lock();
        HOLDERS.fetch_add(1, Relaxed);
        while HOLDERS.load(Relaxed) % 2 == 1 {
            sched::yield_now::<X86>();
        }
        let both = second.try_lock();
        sched::yield_now::<X86>();
        if held.is_some() && both.is_some() {
            work_done.this().fetch_add(1, Relaxed);
        }
        drop((both, held));
        sched::yield_now::<X86>();
    }
}
