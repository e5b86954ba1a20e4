//! Allocator of free physical memory.
//!
//! Owns the bounds of the free memory; refuses to own its use. Called by `memory`, for stacks and page
//! tables, and at boot by `percpu`, for copies of the per-CPU variables.

use super::layout::{DIRECT_MAP_END, image_end};
use super::pvh::StartInfo;

/// Allocator that hands out physical memory in ascending order. It does not clear it and takes none back.
pub struct Allocator {
    next: u64,
    end: u64,
}

impl Allocator {
    /// An allocator without any memory.
    pub const EMPTY: Self = Self { next: 0, end: 0 };

    /// Takes over the memory behind the kernel's image, up to the end of the region it lies in.
    pub fn behind_image(start_info: &StartInfo) -> Self {
        let next = image_end();
        let end = start_info.ram_end_around(next).min(DIRECT_MAP_END);
        Self { next, end }
    }

    /// Allocates `size` bytes and returns their physical address, a multiple of `align`.
    ///
    /// # Panics
    /// Panics if too little memory is left. The message says how to get more.
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
