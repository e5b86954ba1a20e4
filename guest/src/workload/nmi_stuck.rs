//! Hangs CPU n/2, which takes an NMI and never returns from its handler: no other NMI can reach it.
//! The others idle.
//!
//! The stuck CPU's buffer has the backtrace of the first NMI, which the CPU sent to itself.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: get_stuck, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "nmi-stuck", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        get_stuck();
    }
    Next::Wait
}

#[inline(never)]
fn get_stuck() -> ! {
    machine::set_nmi_hook(spin_forever);
    machine::send_nmi_to_self();
    spin_for_good(&WORKLOAD)
}

#[inline(never)]
fn spin_forever() {
    spin_for_good(&WORKLOAD)
}
