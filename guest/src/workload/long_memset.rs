//! Healthy: CPU n/2 clears memory with interrupts off, again and again, each time for nineteen twentieths of
//! the bound of a lockup. The others idle.
//!
//! Expect: healthy
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;
use core::sync::atomic::Ordering::Relaxed;

use nmiscope_guest::sync::Context;

use super::{Next, SECTION_NS, Workload, is_culprit};
use crate::machine::{self, X86};
use crate::sync::SpinLock;

pub static WORKLOAD: Workload = Workload { name: "long-memset", min_cpus: 1, step };

static PAGES: SpinLock<[u8; 1 << 16]> = SpinLock::new([0; 1 << 16]);

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::interrupts_off();
        // The section is seventeen twentieths of the bound.
        clear_for(SECTION_NS.load(Relaxed) / 17 * 19);
        machine::interrupts_on();
    }
    Next::Wait
}

/// Clears memory for `nanoseconds` of the clock, in which the host may run others.
#[inline(never)]
fn clear_for(nanoseconds: u64) {
    let start = X86::clock_ns();
    let mut pages = PAGES.lock();
    while X86::clock_ns() - start < nanoseconds {
        black_box(&mut *pages).fill(0);
    }
}
