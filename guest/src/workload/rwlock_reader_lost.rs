//! Hangs CPUs 0 and 1, which write under a reader-writer lock of their own making: the last CPU has read
//! and not released it. No record shows the wait. The others idle.
//!
//! Expect: soft-lockup
//! Blamed: 0, 1
//! Cpus: 3..
//! Frames: 0: write_lock, grow_table|shrink_table, cpu_main
//! Frames: 1: write_lock, grow_table|shrink_table, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Meeting, Next, Once, Workload};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "rwlock-reader-lost", min_cpus: 3, step };

const WRITER: u32 = 1 << 31;

/// Number of readers, or `WRITER`.
static TABLE_READERS: AtomicU32 = AtomicU32::new(0);
static TABLE_SIZE: AtomicU64 = AtomicU64::new(0);

static READER_IS_LOST: Meeting = Meeting::new();

fn step(cpu: usize) -> Next {
    static READER: Once = Once::new();
    match cpu {
        0 => {
            READER_IS_LOST.meet(3);
            grow_table();
        }
        1 => {
            READER_IS_LOST.meet(3);
            shrink_table();
        }
        _ if cpu == machine::possible_cpus() - 1 && READER.first() => {
            black_box(look_up(0));
            READER_IS_LOST.meet(3);
        }
        _ => {}
    }
    Next::Wait
}

#[inline(never)]
fn look_up(key: u64) -> Option<u64> {
    TABLE_READERS.fetch_add(1, Ordering::Acquire);
    if key == 0 {
        // The lock should be released here too.
        return None;
    }
    let size = TABLE_SIZE.load(Ordering::Relaxed);
    TABLE_READERS.fetch_sub(1, Ordering::Release);
    Some(size)
}

#[inline(never)]
fn grow_table() {
    write_lock();
    TABLE_SIZE.fetch_add(1, Ordering::Relaxed);
    TABLE_READERS.store(0, Ordering::Release);
}

#[inline(never)]
fn shrink_table() {
    write_lock();
    TABLE_SIZE.store(0, Ordering::Relaxed);
    TABLE_READERS.store(0, Ordering::Release);
}

#[inline(never)]
fn write_lock() {
    while TABLE_READERS
        .compare_exchange_weak(0, WRITER, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        core::hint::spin_loop();
    }
}
