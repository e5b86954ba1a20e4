//! Ends the VM at once, with the code that the kernel parameter `exit_code=` gives, 0 by default.
//!
//! Expect: exit 0

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::{Next, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "exit", min_cpus: 1, step };

/// Exit code of this workload.
pub static CODE: AtomicU8 = AtomicU8::new(0);

fn step(cpu: usize) -> Next {
    if cpu == 0 {
        machine::debug_exit(CODE.load(Relaxed).into());
    }
    Next::Wait
}
