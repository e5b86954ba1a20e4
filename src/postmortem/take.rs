//! From a stopped guest to a core.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nmiscope_machine::{
    GuestVirtual, Mapping, MappingLimits, PhysicalMemory, Register, VcpuState, VirtualAddress,
    VirtualMemory,
};
use tempfile::NamedTempFile;

use super::{Note, Taken};
use crate::atomic_file;
use crate::capture::nmi::Stopped;
use crate::core_file::{
    Contents, CpuRegisters, Extents, NotePlace, check_path, prepare, write_all_but_note,
};
use crate::diagnosis::Looks;
use crate::kernel::Symbols;
use crate::report::{Hang, Report};
use crate::targets::{Target, Touched};

/// How much of the guest's memory a core gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// Page tables, stacks, the kernel's own data and whatever the report was made from.
    #[default]
    Minimal,
    /// All of it, but for pages of zeros.
    Full,
}

/// Room for the note, which is not known before the run ends: for the report without vCPUs, and for
/// each vCPU, with its buffer and the most that there may be of its samples. A hole, as far as it is not
/// filled.
const ROOM: u64 = 256 << 10;
const ROOM_PER_VCPU: u64 = 48 << 10;

/// The largest stack that is believed in.
const MAX_STACK: u64 = 64 << 10;

const PAGE: u64 = 4096;

/// Where a core goes.
#[derive(Debug, Clone)]
pub struct Destination {
    path: PathBuf,
    size: Size,
}

impl Destination {
    /// Finds out whether a core can be written there, while there is still time to say so.
    ///
    /// # Errors
    /// It cannot.
    pub fn open(path: &Path, size: Size) -> anyhow::Result<Self> {
        check_path(path)?;
        Ok(Self { path: path.into(), size })
    }

    /// Takes the memory of a stopped guest.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn begin(&self, moment: &Moment<'_>) -> anyhow::Result<Pending> {
        let failed = || format!("failed to write {}", self.path.display());
        let (target, file) = prepare(&self.path)?;
        let (tables, views) = moment.mapped();
        let extents = match self.size {
            Size::Minimal => moment.needed(tables),
            Size::Full => moment.target.extents(),
        };
        let cpus = moment.cpus();
        let vmcoreinfo = moment.vmcoreinfo();
        let contents = Contents {
            cpus: &cpus,
            note: &[],
            vmcoreinfo: vmcoreinfo.as_deref(),
            build_id: moment.symbols.and_then(|symbols| symbols.build_id()),
            extents: &extents,
            views: &views,
        };
        let room = ROOM + moment.stopped.states.len() as u64 * ROOM_PER_VCPU;
        let (written, note) = write_all_but_note(file.as_file(), &contents, moment.target, room)
            .with_context(failed)?;
        tracing::info!(
            bytes = written.bytes,
            memory = written.memory_bytes,
            segments = written.segments,
            "took the guest's memory"
        );
        Ok(Pending { file, target, path: self.path.clone(), note })
    }
}

/// A guest that stands still, as far as it is known.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// Its vCPUs, and where its kernel's structures are.
    pub stopped: &'a Stopped,
    /// What the host saw of its vCPUs, and of its tasks.
    pub looks: &'a Looks,
    /// Where it is.
    pub target: &'a dyn Target,
    /// What of its memory the looks were made from.
    pub touched: &'a Touched<&'a dyn PhysicalMemory>,
    /// The kernel's symbols, where there are any.
    pub symbols: Option<&'a dyn Symbols>,
}

impl Moment<'_> {
    fn states(&self) -> impl Iterator<Item = &VcpuState> {
        self.stopped.states.iter().flatten()
    }

    /// The memory as the first vCPU has it that has page tables.
    fn kernel_memory(&self) -> Option<GuestVirtual<'_, dyn Target + '_>> {
        let tables = self.states().find_map(|state| state.registers.page_tables().ok())?;
        Some(GuestVirtual::new(self.target, tables))
    }

    fn cpus(&self) -> Vec<CpuRegisters> {
        let registers = |state: &VcpuState| (&state.registers).into();
        let cpus = self.states();
        cpus.map(|state| CpuRegisters { cpu: state.cpu, registers: registers(state) }).collect()
    }

    /// The page tables of all vCPUs, and what they map.
    fn mapped(&self) -> (Extents, Vec<Mapping>) {
        let mut roots = Vec::new();
        let (mut tables, mut views) = (Extents::new(), Vec::new());
        for state in self.states() {
            let Ok(table) = state.registers.page_tables() else { continue };
            if roots.contains(&table) {
                continue;
            }
            roots.push(table);
            let found = table.mappings(self.target, MappingLimits::default());
            for page in found.tables {
                tables.insert_pages(page, PAGE);
            }
            views.extend(found.ranges);
        }
        (tables, views)
    }

    /// What a Linux kernel says of its own structures (kernel/vmcore_info.c); other tools find their
    /// way by it.
    fn vmcoreinfo(&self) -> Option<Vec<u8>> {
        // A page, says Linux.
        const MOST: usize = 4096;
        let symbols = self.symbols?;
        let memory = self.kernel_memory()?;
        let word = |name: &str| memory.read_u64(symbols.address_of(name)?).ok();
        let length = usize::try_from(word("vmcoreinfo_size")?).ok().filter(|&len| len <= MOST)?;
        let mut text = vec![0; length];
        memory.read(VirtualAddress(word("vmcoreinfo_data")?), &mut text).ok()?;
        Some(text)
    }

    /// What it takes to make the report again, and to unwind with another tool.
    fn needed(&self, tables: Extents) -> Extents {
        let mut extents = tables;
        for page in self.touched.pages() {
            extents.insert_pages(page, PAGE);
        }
        let Some(memory) = self.kernel_memory() else { return extents };
        let mut insert = |address: VirtualAddress| -> bool {
            let page = memory.physical(address).ok();
            page.map(|page| extents.insert_pages(page, 1)).is_some()
        };
        for stack_pointer in self.stack_pointers() {
            // Up to where nothing is mapped: the guard page above it, or below.
            let start = VirtualAddress(stack_pointer.0 & !(PAGE - 1));
            let offsets = (0..MAX_STACK).step_by(PAGE as usize);
            let mut up = offsets.clone().map(|offset| start.wrapping_add(offset));
            while up.next().is_some_and(&mut insert) {}
            let mut down = offsets.skip(1).map(|offset| start.wrapping_add(offset.wrapping_neg()));
            while down.next().is_some_and(&mut insert) {}
        }
        if let Ok(places) = &self.stopped.places {
            for (start, length) in places.own_memory() {
                let within = start.0 % PAGE;
                for offset in (0..within + length).step_by(PAGE as usize) {
                    // What is not mapped is not there.
                    insert(VirtualAddress(start.0 - within).wrapping_add(offset));
                }
            }
        }
        extents
    }

    /// Of every vCPU, and of every frame that may be on another stack than its callee.
    fn stack_pointers(&self) -> impl Iterator<Item = VirtualAddress> {
        let of_cpus = self.states().map(|state| VirtualAddress(state.registers.rsp));
        let frames = self.looks.all().flat_map(|look| &look.frames);
        let interrupted = frames.filter(|frame| frame.is_interrupted());
        let of_frames = interrupted.filter_map(|frame| frame.registers.get(Register::Rsp));
        of_cpus.chain(of_frames.map(VirtualAddress))
    }
}

/// A core without its note, under another name; gone if it is not finished.
#[derive(Debug)]
pub struct Pending {
    file: NamedTempFile,
    target: PathBuf,
    path: PathBuf,
    note: NotePlace,
}

impl Pending {
    /// Adds the note and gives the core its name. It is of the backtrace of `report` with that index.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn finish(self, report: &Report, index: usize, taken: Taken) -> anyhow::Result<PathBuf> {
        let failed = || format!("failed to write {}", self.path.display());
        let mut report = report.clone();
        ensure!(index < report.backtraces.len(), "a core without its backtrace");
        let backtrace = report.backtraces.remove(index);
        let is_of_this = |hang: &Hang| hang.backtrace == Some(index as u32);
        let first_hang = report.hangs.iter().position(is_of_this).unwrap_or(report.hangs.len());
        let (of_this, others) = report.hangs.into_iter().partition::<Vec<Hang>, _>(is_of_this);
        report.hangs = others;
        let mut note = Note {
            report,
            trigger: backtrace.trigger,
            at_ms: backtrace.at_ms,
            taken,
            resolved_after_ms: of_this.iter().map(|hang| hang.resolved_after_ms).collect(),
            index,
            first_hang,
        };
        let mut bytes = serde_json::to_vec(&note).with_context(failed)?;
        if bytes.len() as u64 > self.note.room() {
            // What earlier backtraces said is in the live report.
            note.report.backtraces.clear();
            note.report.warnings.push("earlier backtraces did not fit into the core".into());
            bytes = serde_json::to_vec(&note).with_context(failed)?;
        }
        self.note.write(self.file.as_file(), &bytes).with_context(failed)?;
        atomic_file::persist(self.file, &self.target).with_context(failed)?;
        Ok(self.path)
    }
}
