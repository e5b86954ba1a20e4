//! Panics on CPU n/2 while that prints the message of its first panic. The others idle.
//!
//! Expect: panic
//! Blamed: n/2
//! Frames: n/2: rust_begin_unwind, fmt, rust_begin_unwind, give_up_twice, cpu_main
//! Frames: others: cpu_main

use core::fmt;

use super::{Next, Workload, is_culprit};

pub static WORKLOAD: Workload = Workload { name: "nested-panic", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        give_up_twice();
    }
    Next::Wait
}

#[inline(never)]
fn give_up_twice() -> ! {
    panic!("{}", Reason)
}

/// Panic message whose formatting panics.
struct Reason;

impl fmt::Display for Reason {
    #[inline(never)]
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a reason that cannot be told")
    }
}
