//! Healthy: CPU 0 takes backtraces of all CPUs in a loop, from inside the guest, which race with the
//! host's own backtraces. The others idle.
//!
//! Expect: healthy
//! Frames: 0: cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload};
use crate::machine;
use crate::printk::PRINTK;

pub static WORKLOAD: Workload = Workload { name: "sysrq-storm", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if cpu != 0 {
        return Next::Wait;
    }
    PRINTK.set_console_loglevel(0);
    // Busy is no failure: the second of two clients must get it.
    let _ = machine::trigger_all_cpu_backtrace();
    Next::Again
}
