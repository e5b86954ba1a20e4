//! Hangs the boot CPU before it has a console to print to. No other CPU has been started.
//!
//! Expect: boot-stall
//! Blamed: 0
//! Frames: 0: stall, kernel_main

use super::{Next, Workload, spin_for_good};

pub static WORKLOAD: Workload = Workload { name: "boot-stall", min_cpus: 1, step };

fn step(_: usize) -> Next {
    Next::Wait
}

/// Stalls if the command line names this workload. Called by the kernel before anything else.
pub fn stall_if_asked_to(command_line: &str) {
    if command_line.split_ascii_whitespace().any(|word| word == "workload=boot-stall") {
        stall();
    }
}

#[inline(never)]
fn stall() -> ! {
    spin_for_good(&WORKLOAD)
}
