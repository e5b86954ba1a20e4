//! Panics on CPU n/2 while all others spin with interrupts off.
//!
//! Expect: panic
//! Blamed: n/2
//! Frames: n/2: rust_begin_unwind, give_up_alone, cpu_main
//! Frames: others: look_away, cpu_main

use super::{Meeting, Next, Workload, is_culprit, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "panic-others-spin", min_cpus: 1, step };

static ALL_LOOK_AWAY: Meeting = Meeting::new();

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        give_up_alone(cpu);
    }
    look_away()
}

#[inline(never)]
fn give_up_alone(cpu: usize) -> ! {
    ALL_LOOK_AWAY.meet(machine::possible_cpus());
    panic!("nobody listens to cpu{cpu}")
}

#[inline(never)]
fn look_away() -> ! {
    machine::interrupts_off();
    ALL_LOOK_AWAY.meet(machine::possible_cpus());
    spin_for_good(&WORKLOAD)
}
