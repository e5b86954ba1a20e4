//! Hangs CPU 0, which never ends a write under a sequence counter, and the last CPU, which reads under it and
//! spins while the counter is odd. No record shows the wait. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: 0, last
//! Cpus: 2..
//! Frames: 0: convert, write_time, cpu_main
//! Frames: last: read_begin, read_time, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Next, Workload, spin_for_good};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "seqlock-writer-stuck", min_cpus: 2, step };

static TIME_SEQUENCE: AtomicU32 = AtomicU32::new(0);
static TIME_NS: AtomicU64 = AtomicU64::new(0);

fn step(cpu: usize) -> Next {
    if cpu == 0 {
        write_time(black_box(0));
    } else if cpu == machine::possible_cpus() - 1 {
        while TIME_SEQUENCE.load(Ordering::Relaxed) == 0 {
            core::hint::spin_loop();
        }
        black_box(read_time());
    }
    Next::Wait
}

#[inline(never)]
fn write_time(ticks: u64) {
    TIME_SEQUENCE.fetch_add(1, Ordering::Acquire);
    TIME_NS.store(convert(ticks), Ordering::Relaxed);
    TIME_SEQUENCE.fetch_add(1, Ordering::Release);
}

#[inline(never)]
fn convert(ticks: u64) -> u64 {
    if ticks == 0 {
        spin_for_good(&WORKLOAD);
    }
    ticks * 1_000
}

#[inline(never)]
fn read_time() -> u64 {
    loop {
        let start = read_begin();
        let time = TIME_NS.load(Ordering::Relaxed);
        if TIME_SEQUENCE.load(Ordering::Acquire) == start {
            return time;
        }
    }
}

#[inline(never)]
fn read_begin() -> u32 {
    loop {
        let sequence = TIME_SEQUENCE.load(Ordering::Acquire);
        if sequence.is_multiple_of(2) {
            return sequence;
        }
        core::hint::spin_loop();
    }
}
