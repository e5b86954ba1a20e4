//! Hangs a task on CPU 0, which waits for a mutex that a task on the last CPU holds. The holder sleeps for
//! an event that never happens. All CPUs idle.
//!
//! Expect: lock-wait
//! Blamed: task sleeper
//! Locks: CACHE_MUTEX
//! Victims: task waiter
//! Frames: 0: cpu_main
//! Frames: others: cpu_main
//! Frames: task sleeper: schedule, wait_event, hold_and_sleep, task_main
//! Frames: task waiter: schedule, lock, want_the_cache, task_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Once, Workload};
use crate::kthread;
use crate::machine::{self, X86};
use crate::sync::{Mutex, WaitQueue};

pub static WORKLOAD: Workload = Workload { name: "sleeping-holder", min_cpus: 1, step };

static CACHE_MUTEX: Mutex<u64> = Mutex::new(0);
static HELD: AtomicBool = AtomicBool::new(false);
static NEVER: WaitQueue = WaitQueue::new();

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if cpu == 0 && STARTED.first() {
        kthread::spawn("sleeper", machine::possible_cpus() - 1, hold_and_sleep, 0);
        kthread::spawn("waiter", 0, want_the_cache, 0);
    }
    Next::Wait
}

#[inline(never)]
fn hold_and_sleep(_: usize) {
    let mut cache = CACHE_MUTEX.lock();
    HELD.store(true, Relaxed);
    NEVER.wait_event(|| false);
    *cache += 1;
}

#[inline(never)]
fn want_the_cache(_: usize) {
    while !HELD.load(Relaxed) {
        sched::yield_now::<X86>();
    }
    *CACHE_MUTEX.lock() += 1;
}
