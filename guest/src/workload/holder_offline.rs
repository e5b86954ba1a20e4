//! Hangs CPU 0, which waits for a lock that the last CPU holds. That one has gone offline with it, and has
//! halted.
//!
//! Expect: lock-wait
//! Blamed: last
//! Locks: HOTPLUG_LOCK
//! Victims: 0
//! Cpus: 2..
//! Frames: 0: lock, want_hotplug, cpu_main
//! Frames: last: leave_with_lock, cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicBool, Ordering::*};

use super::{Next, Workload};
use crate::machine;
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "holder-offline", min_cpus: 2, step };

static HOTPLUG_LOCK: SpinLock<u64> = SpinLock::new(0);
static GONE: AtomicBool = AtomicBool::new(false);

fn step(cpu: usize) -> Next {
    if cpu == machine::possible_cpus() - 1 {
        leave_with_lock();
    }
    if cpu == 0 && GONE.load(Acquire) {
        want_hotplug();
    }
    Next::Wait
}

#[inline(never)]
fn leave_with_lock() -> ! {
    let _held = HOTPLUG_LOCK.lock();
    machine::interrupts_off();
    machine::set_online(false);
    GONE.store(true, Release);
    machine::halt_forever()
}

#[inline(never)]
fn want_hotplug() {
    *HOTPLUG_LOCK.lock() += 1;
}
