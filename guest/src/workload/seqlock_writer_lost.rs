//! Hangs the last CPU, which reads under a sequence counter that stays odd: the writer on CPU 0 has
//! returned on an error without ending its write. No record shows the wait. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: last
//! Cpus: 2..
//! Frames: last: read_begin, read_time, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Meeting, Next, Once, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "seqlock-writer-lost", min_cpus: 2, step };

static TIME_SEQUENCE: AtomicU32 = AtomicU32::new(0);
static TIME_NS: AtomicU64 = AtomicU64::new(0);

static WRITER_IS_LOST: Meeting = Meeting::new();

fn step(cpu: usize) -> Next {
    static WRITER: Once = Once::new();
    if cpu == 0 && WRITER.first() {
        black_box(write_time(0));
        WRITER_IS_LOST.meet(2);
    } else if cpu == machine::possible_cpus() - 1 {
        WRITER_IS_LOST.meet(2);
        black_box(read_time());
    }
    Next::Wait
}

#[inline(never)]
fn write_time(now: u64) -> Result<(), ()> {
    TIME_SEQUENCE.fetch_add(1, Ordering::Acquire);
    if now == 0 {
        // The write should end here too.
        return Err(());
    }
    TIME_NS.store(now, Ordering::Relaxed);
    TIME_SEQUENCE.fetch_add(1, Ordering::Release);
    Ok(())
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
        if sequence % 2 == 0 {
            return sequence;
        }
        core::hint::spin_loop();
    }
}
