//! Hangs all CPUs. The culprit is CPU n/2, which has halted with interrupts off while it holds a lock that
//! all others wait for.
//!
//! Expect: dead-halt
//! Blamed: n/2
//! Locks: JOURNAL_LOCK
//! Victims: others
//! Cpus: 2..
//! Frames: n/2: hold_it_and_halt, cpu_main
//! Frames: others: lock, wait_for_it, cpu_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Next, Workload, is_culprit};
use crate::machine;
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "holder-halts", min_cpus: 2, step };

static JOURNAL_LOCK: SpinLock<u64> = SpinLock::new(0);
static HELD: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        hold_it_and_halt();
    }
    wait_for_it();
    Next::Wait
}

#[inline(never)]
fn hold_it_and_halt() -> ! {
    let _held = JOURNAL_LOCK.lock();
    HELD.store(true, Relaxed);
    machine::interrupts_off();
    machine::halt_forever()
}

#[inline(never)]
fn wait_for_it() {
    while !HELD.load(Relaxed) {
        core::hint::spin_loop();
    }
    *JOURNAL_LOCK.lock() += 1;
}
