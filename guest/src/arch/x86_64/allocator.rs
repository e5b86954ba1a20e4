//! Physical memory that nobody has yet.
//!
//! Owns which of it is still free; refuses to own what it becomes. Called at boot by `memory`, which
//! makes stacks of it, and by `percpu`, which makes copies of the per-CPU variables.

use super::layout::{DIRECT_MAP_END, image_end};
use super::pvh::StartInfo;

/// Hands out physical memory, upwards, zeroed by nobody.
pub struct Allocator {
    next: u64,
    end: u64,
}

impl Allocator {
    /// An allocator that has nothing.
    pub const EMPTY: Self = Self { next: 0, end: 0 };

    /// Takes over the memory behind the kernel's image, up to the end of the region it lies in.
    pub fn behind_image(start_info: &StartInfo) -> Self {
        let next = image_end();
        let end = start_info.ram_end_around(next).min(DIRECT_MAP_END);
        Self { next, end }
    }

    /// The physical address of `size` bytes that nobody else gets. Panics when there are none
    /// left, which at boot is the right answer.
    pub fn allocate(&mut self, size: usize, align: u64) -> u64 {
        let start = self.next.next_multiple_of(align);
        let end = start + size as u64;
        if end > self.end {
            panic!(
                "out of memory at {} KiB: give the VM more of it, or boot with a smaller nr_cpus=",
                self.end >> 10
            );
        }
        self.next = end;
        start
    }
}
