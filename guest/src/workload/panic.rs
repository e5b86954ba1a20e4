//! Panics on CPU n/2. The others idle.
//!
//! Expect: panic
//! Blamed: n/2
//! Frames: n/2: rust_begin_unwind, give_up, cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};

pub static WORKLOAD: Workload = Workload { name: "panic", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        give_up(cpu);
    }
    Next::Wait
}

#[inline(never)]
fn give_up(cpu: usize) -> ! {
    panic!("the workload asked for it on cpu{cpu}")
}
