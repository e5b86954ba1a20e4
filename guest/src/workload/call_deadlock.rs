//! Hangs CPUs 0 and 1: CPU 0 holds a lock and waits for CPU 1 to answer a cross-CPU call, and CPU 1 waits
//! for the lock with interrupts off. The others idle.
//!
//! Expect: deadlock
//! Blamed: 0, 1
//! Locks: TLB_LOCK
//! Cpus: 2..
//! Frames: 0: smp_call_function_single, flush_others, cpu_main
//! Frames: 1: lock, flush_own, cpu_main
//! Frames: others: cpu_main

use super::{Meeting, Next, Workload};
use crate::machine;
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "call-deadlock", min_cpus: 2, step };

static TLB_LOCK: SpinLock<u64> = SpinLock::new(0);
/// Barrier where CPU 0 has the lock, and CPU 1 its interrupts off.
static SET_UP: Meeting = Meeting::new();

fn step(cpu: usize) -> Next {
    match cpu {
        0 => flush_others(),
        1 => flush_own(),
        _ => {}
    }
    Next::Wait
}

#[inline(never)]
fn flush_others() {
    let mut flushes = TLB_LOCK.lock();
    SET_UP.meet(2);
    machine::smp_call_function_single(1, |_| {}, 0);
    *flushes += 1;
}

#[inline(never)]
fn flush_own() {
    machine::interrupts_off();
    SET_UP.meet(2);
    *TLB_LOCK.lock() += 1;
    machine::interrupts_on();
}
