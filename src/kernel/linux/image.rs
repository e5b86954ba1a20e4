//! The kernel's image in a guest's memory: found by page tables, and copied once.
//!
//! Owns the search of the one GiB of addresses in which x86-64 kernels have their image. Refuses to own what is in
//! the image (the symbolizer's formats) and where memory comes from. Its cost does not depend on the size of
//! the guest's memory.

use nmiscope_machine::{
    Level, PageSize, PageTables, PhysicalAddress, PhysicalMemory, Registers, VirtualAddress,
    WalkError,
};
use nmiscope_symbolizer::linux::Kallsyms;

use super::own_memory::OwnMemory;

/// The first address of an image, `__START_KERNEL_map` (arch/x86/include/asm/page_64_types.h): part of the
/// memory map that Documentation/arch/x86/x86_64/mm.rst documents.
pub(super) const WINDOW: u64 = 0xffff_ffff_8000_0000;
/// The size of the window, `KERNEL_IMAGE_SIZE` with KASLR.
const WINDOW_SIZE: u64 = 1 << 30;
/// Bytes of an image that are copied at most. Distributions' kernels have 50 to 80 MiB.
const MAX_IMAGE: u64 = 512 << 20;
const SMALL_PAGE: u64 = 4 << 10;
const LARGE_PAGE: u64 = 2 << 20;

/// The image of a kernel, as it lies in memory.
#[derive(Debug, Clone)]
pub(super) struct KernelImage {
    /// The guest-virtual address of the first byte, which is that of the symbol `_text`.
    pub(super) base: VirtualAddress,
    /// The guest-physical address of that byte.
    pub(super) physical_base: PhysicalAddress,
    /// The address space that the image was found in.
    pub(super) tables: PageTables,
    /// All bytes up to the last mapped page. Pages that are not mapped, such as those of code that ran at boot only,
    /// that cannot be read or that were left out are zeros.
    pub(super) bytes: Vec<u8>,
    /// The pages that were used.
    pub(super) own: OwnMemory,
}

/// A run of pages that the window maps.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    physical: u64,
    length: u64,
    /// True for pages that are neither written nor executed.
    is_constant: bool,
}

/// Contents of an image that are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Constants alone: the symbol table is among them once a kernel has protected them, and they are a quarter of
    /// an image.
    Constants,
    /// Code and data too, as long as they are mapped.
    All,
}

impl KernelImage {
    /// Finds the image by the registers of one vCPU. In a program, page-table isolation hides all but the entry
    /// code: the kernel's half of the tables is tried first then.
    pub(super) fn find(
        memory: &dyn PhysicalMemory,
        registers: &Registers,
        contents: Contents,
    ) -> Option<Self> {
        let tables = registers.page_tables().ok()?;
        [tables.kernel_half(), tables]
            .into_iter()
            .find_map(|tables| Self::in_tables(memory, tables, contents))
    }

    fn in_tables(
        memory: &dyn PhysicalMemory,
        tables: PageTables,
        contents: Contents,
    ) -> Option<Self> {
        let runs = mapped(memory, &tables);
        let (first, last) = (runs.first()?, runs.last()?);
        // An image is linked and moved by whole large pages.
        first.start.is_multiple_of(LARGE_PAGE).then_some(())?;
        let size = last.start + last.length - first.start;
        let mut bytes = vec![0; usize::try_from(size.min(MAX_IMAGE)).ok()?];
        for run in runs.iter().filter(|run| run.is_constant || contents == Contents::All) {
            let at = (run.start - first.start) as usize;
            let end = bytes.len().min(at.saturating_add(run.length as usize));
            let Some(part) = bytes.get_mut(at..end) else { break };
            read_pages(memory, PhysicalAddress(run.physical), part);
        }
        let own = OwnMemory::default();
        // By these the image has the same beginning and the same size in a core.
        own.mark(VirtualAddress(first.start), SMALL_PAGE);
        own.mark(VirtualAddress(last.start + (last.length - 1)), 1);
        let (base, physical_base) = (VirtualAddress(first.start), PhysicalAddress(first.physical));
        Some(Self { base, physical_base, tables, bytes, own })
    }

    /// Marks the parts of the symbol table, which was found in the image, as used.
    pub(super) fn mark_table(&self, symbols: &Kallsyms) {
        for place in symbols.places() {
            self.own.mark(VirtualAddress(place.start), place.end - place.start);
        }
    }

    /// The bytes at an address; `None` unless all of them lie in the image. They count as used.
    pub(super) fn at(&self, start: VirtualAddress, length: u64) -> Option<&[u8]> {
        let at = usize::try_from(start.offset_from(self.base)?).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(usize::try_from(length).ok()?)?)?;
        self.own.mark(start, length);
        Some(bytes)
    }
}

/// Reads what can be read; other bytes stay as they are.
fn read_pages(memory: &dyn PhysicalMemory, start: PhysicalAddress, bytes: &mut [u8]) {
    if memory.read(start, bytes).is_ok() {
        return;
    }
    for (page, at) in bytes.chunks_mut(SMALL_PAGE as usize).zip((0..).step_by(SMALL_PAGE as usize))
    {
        if memory.read(start.wrapping_add(at), page).is_err() {
            page.fill(0);
        }
    }
}

/// The runs of pages in the window that belong to one image: up to the first gap of 1 GiB, in ascending order. The walk
/// takes at most one translation for each page of 4 KiB.
fn mapped(memory: &dyn PhysicalMemory, tables: &PageTables) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = WINDOW;
    while at < WINDOW + WINDOW_SIZE {
        let step = match tables.translate(memory, VirtualAddress(at)) {
            Ok(translation) => {
                let length = match translation.page_size {
                    PageSize::Size4K => SMALL_PAGE,
                    PageSize::Size2M | PageSize::Size1G => LARGE_PAGE,
                };
                let physical = translation.physical.0;
                let is_constant = !translation.writable && !translation.executable;
                match runs.last_mut() {
                    Some(run)
                        if run.start + run.length == at
                            && run.physical + run.length == physical
                            && run.is_constant == is_constant =>
                    {
                        run.length += length;
                    }
                    _ => runs.push(Run { start: at, physical, length, is_constant }),
                }
                length
            }
            Err(WalkError::NotPresent { level: Level::Pt, .. }) => SMALL_PAGE,
            Err(_) => LARGE_PAGE,
        };
        at = (at & !(step - 1)) + step;
    }
    runs
}
