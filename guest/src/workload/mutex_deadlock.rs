//! Hangs two tasks, one on CPU 0 and one on the last CPU: each holds the mutex that the other waits for.
//! All CPUs idle and are healthy.
//!
//! Expect: deadlock
//! Blamed: task reader, task writer
//! Locks: INODE_MUTEX, JOURNAL_MUTEX
//! Frames: 0: cpu_main
//! Frames: others: cpu_main
//! Frames: task reader: schedule, lock, take_both, read, task_main
//! Frames: task writer: schedule, lock, take_both, write, task_main

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Once, Workload};
use crate::kthread;
use crate::machine::{self, X86};
use crate::sync::Mutex;

pub static WORKLOAD: Workload = Workload { name: "mutex-deadlock", min_cpus: 1, step };

static INODE_MUTEX: Mutex<u64> = Mutex::new(0);
static JOURNAL_MUTEX: Mutex<u64> = Mutex::new(0);

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if cpu == 0 && STARTED.first() {
        kthread::spawn("reader", 0, read, 0);
        kthread::spawn("writer", machine::possible_cpus() - 1, write, 0);
    }
    Next::Wait
}

#[inline(never)]
fn read(_: usize) {
    // The sum is used after the call, so that the call is no tail call.
    black_box(take_both(&INODE_MUTEX, &JOURNAL_MUTEX));
}

#[inline(never)]
fn write(_: usize) {
    black_box(take_both(&JOURNAL_MUTEX, &INODE_MUTEX));
}

#[inline(never)]
fn take_both(first: &'static Mutex<u64>, second: &'static Mutex<u64>) -> u64 {
    static HAVE_FIRST: AtomicU32 = AtomicU32::new(0);
    let mut held = first.lock();
    HAVE_FIRST.fetch_add(1, Relaxed);
    while HAVE_FIRST.load(Relaxed) < 2 {
        sched::yield_now::<X86>();
    }
    *held += *second.lock();
    *held
}
