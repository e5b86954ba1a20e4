//! Writing a core: memory at the moment of the capture, the note at the end of the run.
//!
//! Owns the choice of memory, and the file until it has its name. The container is `elf_core`'s, the
//! note's contents are `note`'s.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nmiscope_machine::{
    GuestVirtual, Mapping, MappingLimits, PageTables, Register, VcpuState, VirtualAddress,
    VirtualMemory,
};
use nmiscope_report::Report;
use nmiscope_report::atomic_file::{self, PendingFile};
use nmiscope_report::destination::{self, MOST_KEPT, Placed};

use super::Capture;
use super::host_stack::UnwoundStack;
use super::note::CaptureNote;
use super::stopped::StoppedGuest;
use crate::elf_core::{
    CoreContents, CpuRegisters, Extents, NotePlace, check_path, prepare, write_all_but_note,
};
use crate::kernel::KernelSymbols;
use crate::targets::Target;

/// Amount of guest memory in a core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CoreSize {
    /// Page tables, stacks, the kernel's own data and the memory that the report was made from.
    #[default]
    Minimal,
    /// All memory, except pages of zeros.
    Full,
}

/// The room for the note, which is only known at the end of the run: for the report without vCPUs, and
/// for each vCPU, with its buffer and the most samples that it may have. Unused room is a hole in the
/// file.
const ROOM: u64 = 256 << 10;
const ROOM_PER_VCPU: u64 = 48 << 10;

/// The largest stack, in bytes: more is not written.
const MAX_STACK: u64 = 64 << 10;

const PAGE: u64 = 4096;

/// Path and size of a core to be written.
#[derive(Debug, Clone)]
pub struct CoreDestination {
    path: PathBuf,
    size: CoreSize,
    keeps_existing: bool,
}

impl CoreDestination {
    /// Checks that a core can be written, before the run.
    ///
    /// # Errors
    /// The path cannot be written to.
    pub fn open(path: &Path, size: CoreSize) -> anyhow::Result<Self> {
        check_path(path)?;
        Ok(Self { path: path.into(), size, keeps_existing: false })
    }

    /// Keeps an existing file of the core's name under a number, as [`destination::persist_and_keep`] does.
    /// Without it the core replaces that file.
    ///
    /// # Errors
    /// All numbers are taken.
    pub fn keeping_existing(self) -> anyhow::Result<Self> {
        let target = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        ensure!(
            destination::can_keep_existing(&target),
            "{} and {MOST_KEPT} earlier ones exist: remove some, or name another file with --core",
            self.path.display()
        );
        Ok(Self { keeps_existing: true, ..self })
    }

    /// Returns true for a core of all of the guest's memory.
    pub fn is_full(&self) -> bool {
        self.size == CoreSize::Full
    }

    /// Writes the memory of a stopped guest.
    ///
    /// # Errors
    /// The file could not be written.
    pub(super) fn begin<'a>(
        &self,
        stopped: &StoppedGuest,
        stacks: impl Iterator<Item = &'a UnwoundStack>,
        target: &dyn Target,
        symbols: Option<&dyn KernelSymbols>,
    ) -> anyhow::Result<PendingCore> {
        let failed = || format!("failed to write {}", self.path.display());
        let (path, file) = prepare(&self.path)?;
        let moment = Moment { stopped, target, symbols };
        let (tables, views) = moment.mapped();
        let extents = match self.size {
            CoreSize::Minimal => moment.needed(tables, stacks),
            CoreSize::Full => target.extents(),
        };
        let cpus = moment.cpus();
        let vmcoreinfo = moment.vmcoreinfo();
        let contents = CoreContents {
            cpus: &cpus,
            note: &[],
            vmcoreinfo: vmcoreinfo.as_deref(),
            build_id: symbols.and_then(|symbols| symbols.build_id()),
            extents: &extents,
            views: &views,
        };
        let room = ROOM + stopped.states.len() as u64 * ROOM_PER_VCPU;
        let (written, note) =
            write_all_but_note(file.as_file(), &contents, target, room).with_context(failed)?;
        tracing::info!(
            bytes = written.bytes,
            memory = written.memory_bytes,
            segments = written.segments,
            "took the guest's memory"
        );
        let (given, keeps_existing) = (self.path.clone(), self.keeps_existing);
        Ok(PendingCore { file, target: path, path: given, keeps_existing, note })
    }
}

/// Moment whose memory is written.
#[derive(Clone, Copy)]
struct Moment<'a> {
    stopped: &'a StoppedGuest,
    target: &'a dyn Target,
    symbols: Option<&'a dyn KernelSymbols>,
}

impl Moment<'_> {
    fn states(&self) -> impl Iterator<Item = &VcpuState> {
        self.stopped.states.iter().flatten()
    }

    /// Returns the address spaces of the kernel, if it was found, and of all vCPUs, each once.
    fn address_spaces(&self) -> Vec<PageTables> {
        let kernel = self.stopped.located.iter().map(|located| located.address_space());
        let vcpus = self.states().filter_map(|state| state.registers.page_tables().ok());
        let mut spaces = Vec::new();
        for tables in kernel.chain(vcpus) {
            if !spaces.contains(&tables) {
                spaces.push(tables);
            }
        }
        spaces
    }

    /// Returns the memory in the address space of the kernel, or else of the first vCPU with page tables.
    fn kernel_memory(&self) -> Option<GuestVirtual<'_, dyn Target + '_>> {
        let tables = self.address_spaces().into_iter().next()?;
        Some(GuestVirtual::new(self.target, tables))
    }

    fn cpus(&self) -> Vec<CpuRegisters> {
        let registers = |state: &VcpuState| (&state.registers).into();
        let cpus = self.states();
        cpus.map(|state| CpuRegisters { cpu: state.cpu, registers: registers(state) }).collect()
    }

    /// Returns the page tables of the kernel and of all vCPUs, and the ranges that they map.
    fn mapped(&self) -> (Extents, Vec<Mapping>) {
        let (mut tables, mut views) = (Extents::new(), Vec::new());
        for space in self.address_spaces() {
            let found = space.mappings(self.target, MappingLimits::default());
            for page in found.tables {
                tables.insert_pages(page, PAGE);
            }
            views.extend(found.ranges);
        }
        (tables, views)
    }

    /// Returns a Linux kernel's description of its own structures (kernel/vmcore_info.c), by which other
    /// tools read the core; `None` for other kernels.
    fn vmcoreinfo(&self) -> Option<Vec<u8>> {
        // The size of a page, by Linux's own bound.
        const MOST: usize = 4096;
        let symbols = self.symbols?;
        let memory = self.kernel_memory()?;
        let word = |name: &str| memory.read_u64(symbols.address_of(name)?).ok();
        let length = usize::try_from(word("vmcoreinfo_size")?).ok().filter(|&len| len <= MOST)?;
        let mut text = vec![0; length];
        memory.read(VirtualAddress(word("vmcoreinfo_data")?), &mut text).ok()?;
        Some(text)
    }

    /// Returns the memory that a minimal core needs to make the report again, and to be unwound by
    /// another tool.
    fn needed<'s>(
        &self,
        tables: Extents,
        stacks: impl Iterator<Item = &'s UnwoundStack>,
    ) -> Extents {
        let mut extents = tables;
        for page in self.stopped.pages.iter() {
            extents.insert_pages(page, PAGE);
        }
        let Some(memory) = self.kernel_memory() else { return extents };
        let located = self.stopped.located.as_ref().ok();
        let mut insert = |address: VirtualAddress| -> bool {
            let found = memory.tables().translate(self.target, address).ok();
            // A known kernel keeps its stacks to itself: this one is a program's.
            let found = found.filter(|found| located.is_none() || !found.user);
            found.map(|found| extents.insert_pages(found.physical, 1)).is_some()
        };
        let block = located.and_then(|located| located.stack_block());
        for stack_pointer in self.stack_pointers(stacks) {
            let (mut up, mut down) = stack_pages(stack_pointer, block);
            // Up to unmapped memory: the guard page above the stack, or below it.
            up.all(&mut insert);
            down.all(&mut insert);
        }
        if let Some(located) = located {
            for (start, length) in located.own_memory() {
                let within = start.0 % PAGE;
                for offset in (0..within + length).step_by(PAGE as usize) {
                    // Pages that are not mapped are left out.
                    insert(VirtualAddress(start.0 - within).wrapping_add(offset));
                }
            }
        }
        extents
    }

    /// Returns the stack pointers of all vCPUs, and of all frames that may be on another stack than their
    /// callees.
    fn stack_pointers<'s>(
        &self,
        stacks: impl Iterator<Item = &'s UnwoundStack>,
    ) -> impl Iterator<Item = VirtualAddress> {
        let of_cpus = self.states().map(|state| VirtualAddress(state.registers.rsp));
        let interrupted =
            stacks.flat_map(|stack| &stack.frames).filter(|frame| frame.is_interrupted());
        let of_frames = interrupted.filter_map(|frame| frame.registers.get(Register::Rsp));
        of_cpus.chain(of_frames.map(VirtualAddress))
    }
}

/// Returns the pages that a stack may have: those from the one with the stack pointer up, and those below it. Both end
/// after [`MAX_STACK`], and with the aligned block that the stack lies in, if its kernel has such.
fn stack_pages(
    stack_pointer: VirtualAddress,
    block: Option<u64>,
) -> (impl Iterator<Item = VirtualAddress>, impl Iterator<Item = VirtualAddress>) {
    let start = stack_pointer.0 & !(PAGE - 1);
    let within = block.map(|block| start % block);
    let above = block.zip(within).map_or(MAX_STACK, |(block, within)| block - within);
    let below = within.unwrap_or(MAX_STACK - PAGE);
    let page = move |offset: u64| VirtualAddress(start).wrapping_add(offset);
    let up = (0..above.min(MAX_STACK)).step_by(PAGE as usize).map(page);
    let down = (PAGE..=below.min(MAX_STACK)).step_by(PAGE as usize);
    (up, down.map(move |offset| page(offset.wrapping_neg())))
}

/// Core without its note, under a temporary name; removed if it is not finished.
#[derive(Debug)]
pub struct PendingCore {
    file: PendingFile,
    target: PathBuf,
    path: PathBuf,
    keeps_existing: bool,
    note: NotePlace,
}

impl PendingCore {
    /// Adds the note, and gives the core its name. `index` is that of the core's backtrace in `report`.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn finish(self, report: &Report, index: usize, capture: Capture) -> anyhow::Result<Placed> {
        let failed = || format!("failed to write {}", self.path.display());
        ensure!(index < report.backtraces.len(), "a core without its backtrace");
        let mut note = CaptureNote::new(report.clone(), index, capture);
        let mut bytes = serde_json::to_vec(&note).with_context(failed)?;
        if bytes.len() as u64 > self.note.room() {
            note.leave_out_backtraces();
            bytes = serde_json::to_vec(&note).with_context(failed)?;
        }
        self.note.write(self.file.as_file(), &bytes).with_context(failed)?;
        if self.keeps_existing {
            let placed = destination::persist_and_keep(self.file, &self.path, &self.target);
            return placed.with_context(failed);
        }
        atomic_file::persist(self.file, &self.target).with_context(failed)?;
        Ok(Placed { written: Some(self.path), kept: None })
    }
}

/// Core of a finished run or visit that lacks the report. The report is written on its own first: a core
/// takes long, and may fail for its size.
#[derive(Debug)]
pub struct UnfinishedCore {
    /// Core without its note, and the capture for the note; or the reason why there is no core.
    pending: anyhow::Result<(PendingCore, Capture)>,
    /// Index of the core's backtrace in the report.
    backtrace: usize,
}

impl UnfinishedCore {
    /// Creates the core of a report's backtrace.
    pub fn new(pending: anyhow::Result<(PendingCore, Capture)>, backtrace: usize) -> Self {
        Self { pending, backtrace }
    }

    /// Adds the report, and gives the core its name. Returns the paths of the core, and of an earlier file of
    /// its name that was kept.
    ///
    /// # Errors
    /// The core could not be written, now or when the guest was captured.
    pub fn finish(self, report: &Report) -> anyhow::Result<Placed> {
        let (core, capture) = self.pending?;
        core.finish(report, self.backtrace, capture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(stack_pointer: u64, block: Option<u64>) -> (Vec<u64>, Vec<u64>) {
        let (up, down) = stack_pages(VirtualAddress(stack_pointer), block);
        (up.map(|page| page.0).collect(), down.map(|page| page.0).collect())
    }

    #[test]
    fn stack_in_a_block_has_the_pages_of_the_block() {
        let block = 0xffff_c900_0001_4000;
        let (up, down) = pages(block + 0x2ff8, Some(0x4000));
        assert_eq!(up, [block + 0x2000, block + 0x3000]);
        assert_eq!(down, [block + 0x1000, block]);
        let (up, down) = pages(block, Some(0x4000));
        assert_eq!(up, [block, block + 0x1000, block + 0x2000, block + 0x3000]);
        assert_eq!(down, [0; 0]);
    }

    #[test]
    fn stack_without_a_block_has_at_most_64_kib_to_either_side() {
        let (up, down) = pages(0x10_0010, None);
        let expected: Vec<u64> = (0x10_0000..0x11_0000).step_by(0x1000).collect();
        assert_eq!(up, expected);
        let expected: Vec<u64> = (1..=0xf).map(|page| 0x10_0000 - page * 0x1000).collect();
        assert_eq!(down, expected);
        // An address at the edge of the space wraps to pages that are not mapped.
        assert_eq!(pages(8, None).1[0], 0xffff_ffff_ffff_f000);
    }
}
