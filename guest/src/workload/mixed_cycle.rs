//! Hangs three parties that wait in three ways. The task `writer` on CPU 0 holds a mutex and TAIL_LOCK,
//! and waits for HEAD_LOCK; CPU 1 holds HEAD_LOCK and waits for CPU 2 to answer a cross-CPU call; CPU 2
//! waits for TAIL_LOCK with interrupts off. The task `bystander` on CPU 2 waits for the mutex, which is no
//! part of the cycle. The others idle.
//!
//! Expect: deadlock
//! Blamed: 0, 1, 2
//! Locks: HEAD_LOCK, TAIL_LOCK
//! Victims: task bystander
//! Cpus: 3..
//! Frames: 0: lock, writer, task_main
//! Frames: 1: smp_call_function_single, cpu_main
//! Frames: 2: lock, cpu_main
//! Frames: others: cpu_main
//! Frames: task bystander: schedule, lock, bystander, task_main

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use nmiscope_guest::sched;

use super::{Next, Once, Workload};
use crate::kthread;
use crate::machine::{self, X86};
use crate::sync::{Mutex, SpinLock};

pub static WORKLOAD: Workload = Workload { name: "mixed-cycle", min_cpus: 3, step };

static HEAD_LOCK: SpinLock<u64> = SpinLock::new(0);
static TAIL_LOCK: SpinLock<u64> = SpinLock::new(0);
static PAGE_MUTEX: Mutex<u64> = Mutex::new(0);

/// Number of parties that hold what another one needs. The cycle closes when it is three.
static READY: AtomicU32 = AtomicU32::new(0);
static BYSTANDER_WAITS: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    static WRITER: Once = Once::new();
    static BYSTANDER: Once = Once::new();
    match cpu {
        0 if WRITER.first() => kthread::spawn("writer", 0, writer, 0),
        1 => {
            let mut head = HEAD_LOCK.lock();
            meet();
            machine::smp_call_function_single(2, |_| {}, 0);
            *head += 1;
        }
        2 if BYSTANDER.first() => kthread::spawn("bystander", 2, bystander, 0),
        2 if BYSTANDER_WAITS.load(Relaxed) => {
            machine::interrupts_off();
            READY.fetch_add(1, Relaxed);
            *TAIL_LOCK.lock() += 1;
        }
        2 => {}
        _ => return Next::Wait,
    }
    Next::Again
}

fn meet() {
    READY.fetch_add(1, Relaxed);
    while READY.load(Relaxed) < 3 {
        core::hint::spin_loop();
    }
}

#[inline(never)]
fn writer(_: usize) {
    let mut page = PAGE_MUTEX.lock();
    let mut tail = TAIL_LOCK.lock();
    meet();
    *tail += *HEAD_LOCK.lock();
    *page += 1;
}

#[inline(never)]
fn bystander(_: usize) {
    while !PAGE_MUTEX.is_locked() {
        sched::yield_now::<X86>();
    }
    BYSTANDER_WAITS.store(true, Relaxed);
    *PAGE_MUTEX.lock() += 1;
}
