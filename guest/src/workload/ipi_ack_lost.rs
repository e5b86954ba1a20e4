//! Hangs CPUs 0 and 1, which have each sent the last CPU an interrupt and wait until both are acknowledged.
//! The last CPU had its interrupts off: the two became one, which is acknowledged once. No record shows the
//! wait. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: 0, 1
//! Cpus: 3..
//! Frames: 0: flush_on_last, cpu_main
//! Frames: 1: flush_on_last, cpu_main
//! Frames: others: cpu_main

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Meeting, Next, Once, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "ipi-ack-lost", min_cpus: 3, step };

static FLUSHES_ACKNOWLEDGED: AtomicU32 = AtomicU32::new(0);

static IS_DEAF: Meeting = Meeting::new();
static BOTH_ARE_SENT: Meeting = Meeting::new();

fn step(cpu: usize) -> Next {
    static RECEIVER: Once = Once::new();
    let last = machine::possible_cpus() - 1;
    if cpu < 2 {
        flush_on_last(last);
    } else if cpu == last && RECEIVER.first() {
        machine::set_reschedule_hook(acknowledge);
        machine::interrupts_off();
        IS_DEAF.meet(3);
        BOTH_ARE_SENT.meet(3);
        machine::interrupts_on();
    }
    Next::Wait
}

#[inline(never)]
fn flush_on_last(last: usize) {
    IS_DEAF.meet(3);
    machine::send_reschedule(last);
    BOTH_ARE_SENT.meet(3);
    while FLUSHES_ACKNOWLEDGED.load(Ordering::Acquire) < 2 {
        core::hint::spin_loop();
    }
}

#[inline(never)]
fn acknowledge() {
    FLUSHES_ACKNOWLEDGED.fetch_add(1, Ordering::Release);
}
