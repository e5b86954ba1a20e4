//! Healthy: every CPU computes without a pause, takes interrupts, and makes progress.
//!
//! Expect: healthy
//! Frames: 0: cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload};

pub static WORKLOAD: Workload = Workload { name: "busy", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    black_box(mix_rounds(black_box(cpu as u64), 200));
    Next::Again
}

/// Computes a few calls deep, so that an NMI can interrupt at every depth.
#[inline(never)]
fn mix_rounds(seed: u64, rounds: u32) -> u64 {
    (0..rounds).fold(seed, |state, round| state ^ mix(state.wrapping_add(u64::from(round))))
}

/// Computes a step of the xorshift generator.
#[inline(never)]
fn mix(mut state: u64) -> u64 {
    state |= 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}
