//! Hangs all CPUs. The culprit is CPU n/2, which spins with interrupts off while it holds a lock that all
//! others wait for.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Locks: INODE_LOCK
//! Victims: others
//! Cpus: 2..
//! Frames: n/2: hold_it_and_spin, cpu_main
//! Frames: others: lock, want_it, cpu_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "holder-spins", min_cpus: 2, step };

static INODE_LOCK: SpinLock<u64> = SpinLock::new(0);
static HELD: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        hold_it_and_spin();
    }
    want_it();
    Next::Wait
}

#[inline(never)]
fn hold_it_and_spin() -> ! {
    machine::interrupts_off();
    let _held = INODE_LOCK.lock();
    HELD.store(true, Relaxed);
    spin_for_good(&WORKLOAD)
}

#[inline(never)]
fn want_it() {
    while !HELD.load(Relaxed) {
        core::hint::spin_loop();
    }
    *INODE_LOCK.lock() += 1;
}
