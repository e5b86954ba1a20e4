//! Hangs CPU 0 and the last one, which wait for each other by two words: each writes its own after it has
//! seen the other's. No record shows the waits. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: 0, last
//! Cpus: 2..
//! Frames: 0: ask, cpu_main
//! Frames: last: serve, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{Next, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "raw-flags", min_cpus: 2, step };

static SERVER_IS_READY: AtomicBool = AtomicBool::new(false);
static REQUEST: AtomicU32 = AtomicU32::new(0);

fn step(cpu: usize) -> Next {
    // So that the compiler does not find out that neither is ever set.
    black_box((&SERVER_IS_READY, &REQUEST));
    if cpu == 0 {
        ask();
    } else if cpu == machine::possible_cpus() - 1 {
        serve();
    }
    Next::Wait
}

#[inline(never)]
fn ask() {
    while !SERVER_IS_READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    REQUEST.store(black_box(1), Ordering::Release);
}

#[inline(never)]
fn serve() {
    while REQUEST.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
    SERVER_IS_READY.store(black_box(true), Ordering::Release);
}
