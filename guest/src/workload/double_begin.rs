//! Panics on CPU n/2: its NMI handler begins a backtrace inside a backtrace, a bug that has to be
//! reported through the real printk and not into the buffer. The others idle.
//!
//! The CPU is still inside that NMI when the panic has ended the VM, so it takes no other; its buffer has
//! the text that the handler had printed before.
//!
//! Expect: panic
//! Blamed: n/2
//! Frames: n/2: step, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::machine;
use crate::printk::PRINTK;

pub static WORKLOAD: Workload = Workload { name: "double-begin", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_nmi_hook(begin_again);
        machine::send_nmi_to_self();
        await_nmi();
    }
    Next::Wait
}

#[inline(never)]
fn await_nmi() -> ! {
    spin_for_good(&WORKLOAD)
}

#[inline(never)]
fn begin_again() {
    if PRINTK.printk_nmi_backtrace_this_cpu_begin().is_err() {
        panic!("printk_nmi_backtrace_this_cpu_begin called twice");
    }
}
