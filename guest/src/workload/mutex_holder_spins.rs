//! Hangs CPU n/2, where a task spins with interrupts off while it holds a mutex, and a task on the CPU
//! before, which waits for that mutex. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Locks: SUPERBLOCK_MUTEX
//! Victims: task waiter
//! Cpus: 2..
//! Frames: n/2: hold_and_spin, task_main
//! Frames: others: cpu_main
//! Frames: task waiter: schedule, lock, wait_for_holder, task_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Once, Workload, is_culprit, spin_for_good};
use crate::kthread;
use crate::machine::{self, X86};
use crate::sync::Mutex;

pub static WORKLOAD: Workload = Workload { name: "mutex-holder-spins", min_cpus: 2, step };

static SUPERBLOCK_MUTEX: Mutex<u64> = Mutex::new(0);
static HELD: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    if is_culprit(cpu) && STARTED.first() {
        kthread::spawn("waiter", cpu - 1, wait_for_holder, 0);
        kthread::spawn("holder", cpu, hold_and_spin, 0);
    }
    Next::Wait
}

#[inline(never)]
fn hold_and_spin(_: usize) {
    let _held = SUPERBLOCK_MUTEX.lock();
    HELD.store(true, Relaxed);
    machine::interrupts_off();
    spin_for_good(&WORKLOAD)
}

#[inline(never)]
fn wait_for_holder(_: usize) {
    while !HELD.load(Relaxed) {
        sched::yield_now::<X86>();
    }
    *SUPERBLOCK_MUTEX.lock() += 1;
}
