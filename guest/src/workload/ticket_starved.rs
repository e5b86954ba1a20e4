//! Hangs CPU n/2, which waits for its turn at a ticket lock. Its turn has been skipped: the holder before it
//! has freed the lock twice. All others get the lock whenever they take it.
//!
//! Expect: lock-wait
//! Blamed: n/2
//! Locks: QUEUE_LOCK
//! Cpus: 2..
//! Frames: n/2: lock, take_a_turn, cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nmiscope_guest::sync::Context;

use super::{Next, Once, Workload, is_culprit};
use crate::machine::{self, X86};
use crate::sync::TicketLock;

pub static WORKLOAD: Workload = Workload { name: "ticket-starved", min_cpus: 2, step };

static QUEUE_LOCK: TicketLock<u64> = TicketLock::new(0);
static HELD: AtomicBool = AtomicBool::new(false);
static LEFT_OUT: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    static STARTED: Once = Once::new();
    let next = (machine::possible_cpus() / 2 + 1) % machine::possible_cpus();
    if is_culprit(cpu) {
        take_a_turn();
    } else if cpu == next && STARTED.first() {
        leave_one_out();
    } else if LEFT_OUT.load(Relaxed) {
        *QUEUE_LOCK.lock() += 1;
    }
    Next::Wait
}

#[inline(never)]
fn take_a_turn() {
    while !HELD.load(Relaxed) {
        core::hint::spin_loop();
    }
    *QUEUE_LOCK.lock() += 1;
}

#[inline(never)]
fn leave_one_out() {
    let flags = X86::irq_save();
    let held = QUEUE_LOCK.lock();
    HELD.store(true, Relaxed);
    while QUEUE_LOCK.waiters() == 0 {
        core::hint::spin_loop();
    }
    held.release_twice();
    LEFT_OUT.store(true, Relaxed);
    X86::irq_restore(flags);
}
