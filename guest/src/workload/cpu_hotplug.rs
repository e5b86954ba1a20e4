//! Healthy: the last CPU goes offline, stays so for four seconds without a tick, and comes back, again and
//! again. Another CPU wakes it by an interrupt.
//!
//! Expect: healthy
//! Cpus: 2..
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use nmiscope_guest::sync::Context;

use super::{Next, Workload, compute_for};
use crate::machine::{self, X86};

pub static WORKLOAD: Workload = Workload { name: "cpu-hotplug", min_cpus: 2, step };

static OFFLINE: AtomicBool = AtomicBool::new(false);
/// Time at which the CPU is to come back, in nanoseconds since boot.
static RETURNS_AT: AtomicU64 = AtomicU64::new(0);

fn step(cpu: usize) -> Next {
    let last = machine::possible_cpus() - 1;
    if cpu == last {
        compute_for(200_000_000);
        go_offline_and_return();
    } else if cpu == 0 && OFFLINE.load(Relaxed) && X86::clock_ns() >= RETURNS_AT.load(Relaxed) {
        OFFLINE.store(false, Relaxed);
        machine::send_reschedule(last);
    }
    Next::Wait
}

#[inline(never)]
fn go_offline_and_return() {
    const AWAY_NS: u64 = 4_000_000_000;
    machine::stop_tick();
    machine::set_online(false);
    RETURNS_AT.store(X86::clock_ns() + AWAY_NS, Relaxed);
    OFFLINE.store(true, Relaxed);
    loop {
        machine::interrupts_off();
        if !OFFLINE.load(Relaxed) {
            break;
        }
        machine::wait_for_interrupt();
    }
    machine::set_online(true);
    machine::start_tick(machine::possible_cpus());
    machine::interrupts_on();
}
