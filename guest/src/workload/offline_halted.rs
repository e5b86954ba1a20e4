//! Healthy: the last CPU has gone offline, and is halted with interrupts off. The others idle.
//!
//! Expect: healthy
//! Cpus: 2..
//! Frames: last: play_dead, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "offline-halted", min_cpus: 2, step };

fn step(cpu: usize) -> Next {
    if cpu == machine::possible_cpus() - 1 {
        play_dead();
    }
    Next::Wait
}

#[inline(never)]
fn play_dead() -> ! {
    // Otherwise the compiler merges it with functions of other workloads that do the same.
    core::hint::black_box(&WORKLOAD);
    machine::interrupts_off();
    machine::set_online(false);
    machine::halt_forever()
}
