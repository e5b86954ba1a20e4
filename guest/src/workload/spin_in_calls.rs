//! Hangs CPU n/2, which takes interrupts and waits for a device that does not answer: a loop that spends
//! most of its time in the functions that it calls, a different one at each sample. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: n/2
//! Frames: n/2: wait_for_device, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload, is_culprit};

pub static WORKLOAD: Workload = Workload { name: "spin-in-calls", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        wait_for_device();
    }
    Next::Wait
}

#[inline(never)]
fn wait_for_device() {
    let mut tries = 0;
    while read_status(tries) != u64::MAX {
        ring_doorbell(tries);
        drain_queue(tries);
        tries = count_try(tries);
    }
}

/// Computes for a microsecond or so, so that a call or a return, where a function has no frame for the
/// guest to see, is seldom interrupted. A macro, because the loop would spend its time in a function.
macro_rules! mix {
    ($seed:expr, $by:literal) => {{
        let mut state: u64 = $seed;
        for round in 0..500 {
            state = black_box(state.rotate_left($by) ^ round);
        }
        state
    }};
}

#[inline(never)]
fn read_status(tries: u64) -> u64 {
    mix!(tries, 13) >> 1
}

#[inline(never)]
fn ring_doorbell(tries: u64) {
    black_box(mix!(tries, 7));
}

/// Calls a function too, so that the depth of the stack varies.
#[inline(never)]
fn drain_queue(tries: u64) {
    black_box(next_entry(mix!(tries, 17)));
}

#[inline(never)]
fn next_entry(entry: u64) -> u64 {
    mix!(entry, 23)
}

#[inline(never)]
fn count_try(tries: u64) -> u64 {
    black_box(mix!(tries, 29));
    tries + 1
}
