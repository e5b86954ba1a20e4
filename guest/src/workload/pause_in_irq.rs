//! Hangs CPU n/2, which spins in an interrupt handler. The handler interrupts one of four functions, by
//! chance: the hang is the same each time. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: handler_that_spins, trap_entry, red|green|blue|grey, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "pause-in-irq", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_reschedule_hook(handler_that_spins);
        match (machine::clock_ns() >> 7) % 4 {
            0 => red(),
            1 => green(),
            2 => blue(),
            _ => grey(),
        }
    }
    Next::Again
}

macro_rules! colour {
    ($name:ident, $factor:literal) => {
        #[inline(never)]
        fn $name() {
            machine::send_reschedule(machine::cpu_number());
            for round in 0..100_000_u64 {
                black_box(round * $factor);
            }
        }
    };
}

colour!(red, 3);
colour!(green, 5);
colour!(blue, 7);
colour!(grey, 11);

#[inline(never)]
fn handler_that_spins() {
    spin_for_good(&WORKLOAD)
}
