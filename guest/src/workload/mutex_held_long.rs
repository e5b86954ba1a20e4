//! Healthy: a task on the last CPU holds a mutex while it sleeps for a slow device, for four seconds each
//! time, and a task on CPU 0 sleeps for the mutex.
//!
//! Expect: healthy
//! Sleeps: yes
//! Frames: others: cpu_main|task_main

use nmiscope_guest::sched;

use super::{Device, Next, Once, Workload};
use crate::kthread;
use crate::machine::{self, X86};
use crate::sync::Mutex;

pub static WORKLOAD: Workload = Workload { name: "mutex-held-long", min_cpus: 1, step };

static INODE_MUTEX: Mutex<u64> = Mutex::new(0);
static DISK: Device = Device::new();

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    let last = machine::possible_cpus() - 1;
    if cpu == 0 && STARTED.first() {
        kthread::spawn("writer", last, write, 0);
        kthread::spawn("reader", 0, read, 0);
    }
    if cpu == last {
        DISK.poll();
    }
    Next::Wait
}

#[inline(never)]
fn write(_: usize) {
    loop {
        let mut inode = INODE_MUTEX.lock();
        DISK.wait_for_answer(4_000_000_000);
        *inode += 1;
        drop(inode);
        // The reader gets its turn.
        DISK.wait_for_answer(100_000_000);
    }
}

#[inline(never)]
fn read(_: usize) {
    loop {
        *INODE_MUTEX.lock() += 1;
        sched::yield_now::<X86>();
    }
}
