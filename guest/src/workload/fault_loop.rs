//! Hangs CPU n/2, which reads a page that is not mapped, with interrupts off. The page-fault handler returns
//! without mapping it, so that the read faults again. The others idle.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: read_page, cpu_main
//! Frames: others: cpu_main

use core::hint::black_box;

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "fault-loop", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    if is_culprit(cpu) {
        machine::set_page_fault_hook(map_nothing);
        machine::interrupts_off();
        black_box(read_page(black_box(core::ptr::null())));
    }
    Next::Wait
}

#[inline(never)]
fn read_page(page: *const u64) -> u64 {
    let last = page.wrapping_byte_add(4088);
    // SAFETY: none. That is the point: the page is not mapped, and the read must fault.
    unsafe { last.read_volatile() }
}

#[inline(never)]
fn map_nothing() {
    for slot in 0..16_u64 {
        black_box(is_free(black_box(slot)));
    }
}

#[inline(never)]
fn is_free(slot: u64) -> bool {
    black_box(slot) == 16
}
