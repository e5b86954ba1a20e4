//! Hangs CPU n/2 with interrupts off, after it has overwritten its own stack above the innermost
//! frame: saved frame pointers and return addresses are garbage. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: spin_on_rubble
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "corrupt-stack", min_cpus: 1, step };

/// Value that is no canonical address.
const RUBBLE: u64 = 0x4141_4141_4141_4141;

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::interrupts_off();
        machine::overwrite_own_stack(RUBBLE, spin_on_rubble);
    }
    Next::Wait
}

extern "C" fn spin_on_rubble() -> ! {
    spin_for_good(&WORKLOAD)
}
