//! Hangs CPU n/2, which spins with interrupts off, and whose NMI handler ends its text in the
//! middle of a line. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: spin_here, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;
use crate::printk::{LogLevel, PRINTK};

pub static WORKLOAD: Workload = Workload { name: "partial-line", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_nmi_hook(print_half_a_line);
        spin_here();
    }
    Next::Wait
}

#[inline(never)]
fn spin_here() -> ! {
    machine::interrupts_off();
    spin_for_good(&WORKLOAD)
}

fn print_half_a_line() {
    PRINTK.vprintk(LogLevel::Info, format_args!("a line without an end"));
}
