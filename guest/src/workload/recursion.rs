//! Panics on CPU n/2, which calls itself until its stack reaches the guard page. The call trace that follows
//! the message fills hundreds of lines. The others idle.
//!
//! Expect: panic
//! Blamed: n/2
//! Frames: n/2: rust_begin_unwind, exception, trap_entry, dig, dig, dig
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload, is_culprit};

pub static WORKLOAD: Workload = Workload { name: "recursion", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        black_box(dig(black_box(1)));
    }
    Next::Wait
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "that is the point")]
fn dig(depth: u64) -> u64 {
    let padding = black_box([depth; 8]);
    dig(depth + 1) + padding[(depth % 8) as usize]
}
