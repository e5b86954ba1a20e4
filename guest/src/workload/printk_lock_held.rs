//! Hangs CPU n/2 inside printk, with the locks of the log and the console held: formatting its
//! message's argument never ends. An NMI there is the central case of the RFC: a handler that printed
//! directly would wait for locks that its own CPU holds. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: fmt, vprintk, print_forever, cpu_main
//! Frames: others: cpu_main

use core::fmt;

use super::{Next, Workload, is_culprit, spin_for_good};
use crate::pr_err;
use crate::printk::PRINTK;

pub static WORKLOAD: Workload = Workload { name: "printk-lock-held", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        print_forever();
    }
    Next::Wait
}

#[inline(never)]
fn print_forever() {
    let _console = PRINTK.console_lock();
    pr_err!("never seen: {}", Endless);
}

struct Endless;

impl fmt::Display for Endless {
    #[inline(never)]
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        spin_for_good(&WORKLOAD)
    }
}
