//! Healthy: all CPUs print without a pause.
//!
//! Expect: healthy
//! Frames: others: cpu_main

use super::{Next, Workload};
use crate::pr_err;

pub static WORKLOAD: Workload = Workload { name: "heavy-printk", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    pr_err!("cpu{cpu} has a lot to say, and says it to everybody who is there to read it");
    Next::Again
}
