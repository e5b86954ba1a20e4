//! Parts of a kernel that have files of their own: its image and its modules.
//!
//! Owns what a guest's memory says of each: its build-id, its code, and where it lies. Refuses to own the files
//! (`images`) and what is looked up in them (`with_images`). Filled by adapters of kernels that move.

use std::ops::Range;

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::Image;

/// The parts of a kernel as they lie in a guest's memory.
#[derive(Debug, Clone)]
pub struct KernelParts {
    /// Release of the kernel, by which distributions name its files: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The kernel without its modules.
    pub kernel: KernelPart,
    /// Modules by name, in the order of the kernel's list.
    pub modules: Vec<(String, KernelPart)>,
}

/// A part of a kernel as it lies in a guest's memory.
#[derive(Debug, Clone, Default)]
pub struct KernelPart {
    /// GNU build-id of the part's file; `None` where memory does not have it.
    pub build_id: Option<Vec<u8>>,
    /// Guest-virtual addresses of the part's code.
    pub text: Vec<Range<u64>>,
    /// Names and guest-virtual addresses of loaded sections; empty where memory does not have them.
    pub sections: Vec<(String, VirtualAddress)>,
    /// Names and guest-virtual addresses of some of the part's symbols.
    pub symbols: Vec<(String, VirtualAddress)>,
}

impl KernelPart {
    /// Returns true for an address of the part's code.
    pub fn is_text(&self, address: VirtualAddress) -> bool {
        self.text.iter().any(|range| range.contains(&address.0))
    }

    /// Returns the distance in bytes, modulo 2^64, from an image's addresses to the guest's, by the symbols that both
    /// have; `None` where there is none, or where two of them disagree: the image is of another build.
    pub fn bias(&self, image: &Image<'_>) -> Option<u64> {
        let mut distances = self.symbols.iter().filter_map(|(name, address)| {
            Some(address.0.wrapping_sub(image.symbol(name)?.address.0))
        });
        let first = distances.next()?;
        distances.all(|other| other == first).then_some(first)
    }
}
