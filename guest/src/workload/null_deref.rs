//! Panics on CPU n/2, which reads address 0. The others idle.
//!
//! Expect: panic
//! Blamed: n/2
//! Frames: n/2: rust_begin_unwind, exception, trap_entry, follow, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload, is_culprit};

pub static WORKLOAD: Workload = Workload { name: "null-deref", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        black_box(follow(black_box(core::ptr::null())));
    }
    Next::Wait
}

#[inline(never)]
fn follow(pointer: *const u64) -> u64 {
    // SAFETY: none. That is the point: the page is not mapped, and the read must fault.
    unsafe { pointer.read_volatile() }
}
