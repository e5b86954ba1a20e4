//! Adapter of Linux: everything from the guest's memory, without an image.
//!
//! Owns the recognition of a Linux kernel by what lies in its image (symbols, types, unwind rows), and puts the parts
//! together. Refuses to own formats (`nmiscope_symbolizer::linux`) and their use (`capture`, `diagnosis`). No
//! decision rests on a version: a part whose tables are missing is missing, and says so.
//!
//! | file | owns |
//! |---|---|
//! | `image` | the kernel's image, found by page tables |
//! | `special` | states of a kernel that its name has: kdump, kgdb |
//! | `symbols` | functions and stacks of the kernel and its modules |
//! | `modules`, `sections` | the list of modules, and where each has its sections |
//! | `build_id` | build-ids in memory |
//! | `activity` | CPUs, tasks and waits, put together |
//! | `cpus` | per-CPU variables |
//! | `tasks` | the list of tasks |
//! | `second_opinion` | VMCOREINFO and interrupt tables beside what was found |
//! | `waits` | who waits for which lock or CPU |
//! | `waiters` | lists of waiters |
//! | `log` | the printk ring buffer |
//! | `own_memory` | the pages that all this was found in, for a small core |
//! | `printed_stacks` | stacks in the log |
//! | `vocabulary` | Linux's own texts and function names |

mod activity;
mod build_id;
mod cpus;
mod image;
mod log;
mod modules;
mod own_memory;
mod printed_stacks;
mod second_opinion;
mod sections;
mod special;
mod symbols;
mod tasks;
mod vocabulary;
mod waiters;
mod waits;

use std::rc::Rc;

use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalAddress, PhysicalMemory, ReadError, Registers,
    VirtualAddress, VirtualMemory,
};
use nmiscope_symbolizer::linux::{Btf, Kallsyms, OrcTable};

use super::{
    Depth, KernelAdapter, KernelParts, KernelState, KernelSymbols, LocateError, Located, Log,
    LogError, Vocabulary,
};
use crate::targets::NoAnswer;
use activity::ActivityLayout;
use image::{Contents, KernelImage};
use log::LogLayout;
use modules::Modules;
use own_memory::{Marking, OwnMemory};
use second_opinion::FoundKernel;
use symbols::LinuxSymbols;
use vocabulary::LinuxVocabulary;

/// The address at which x86-64 kernels are linked: `__START_KERNEL_map` plus CONFIG_PHYSICAL_START, which is 16 MiB
/// in every distribution. A kernel with another start has another number for its KASLR offset, which people read
/// and no code uses.
const LINKED: u64 = 0xffff_ffff_8100_0000;

/// The size of a task's stack, and what it is aligned to (arch/x86/include/asm/page_64_types.h). Those of KASAN
/// are twice as large: a core has half of the block then, beside the pages that were read.
const THREAD_SIZE: u64 = 16 << 10;

/// Linux, as it describes itself in one guest.
#[derive(Debug)]
pub(super) struct LinuxKernel {
    name: String,
    /// Sentences on sources that disagree with the place of the kernel.
    findings: Vec<String>,
    guest: Rc<Guest>,
}

#[derive(Debug)]
struct Guest {
    release: String,
    build_id: Option<Vec<u8>>,
    has_types: bool,
    /// The address of the kernel's first byte, and its place when the kernel was recognised.
    base: VirtualAddress,
    physical_base: PhysicalAddress,
    /// The page tables by which the kernel was recognised: those of a program that may have ended since.
    tables: PageTables,
    own_memory: OwnMemory,
    symbols: LinuxSymbols,
    activity: Option<ActivityLayout>,
    log: Option<LogLayout>,
}

impl LinuxKernel {
    /// Recognises Linux in a guest by the registers of its vCPUs; `None` if none of them leads to an image with
    /// symbols.
    pub(super) fn recognise(memory: &dyn PhysicalMemory, vcpus: &[Registers]) -> Option<Self> {
        // Every vCPU of one guest runs one kernel: the first that shows it is enough.
        let images = |contents| {
            vcpus.iter().filter_map(move |vcpu| KernelImage::find(memory, vcpu, contents))
        };
        // A kernel that is still booting has not protected its constants.
        let mut images = images(Contents::Constants)
            .take(MAX_TRIES)
            .chain(images(Contents::All).take(MAX_TRIES));
        let (kallsyms, image) = images
            .find_map(|image| Some((Kallsyms::find(&image.bytes, image.base).ok()?, image)))?;
        image.mark_table(&kallsyms);
        let release = release(&image, &kallsyms)?;
        let KernelImage { base, physical_base, tables, bytes, own } = image;
        let end = base.0.saturating_add(bytes.len() as u64);
        drop(bytes);
        let memory = GuestVirtual::new(memory, tables);
        let memory = Marking { memory: &memory, own: &own };
        let build_id = build_id::of_kernel(&kallsyms, &memory);
        let btf = find_btf(&kallsyms, &memory);
        let orc = btf.as_ref().and_then(|btf| find_orc(&kallsyms, &memory, btf));
        let modules = btf
            .as_ref()
            .map(|btf| Modules::read(&kallsyms, btf, orc.as_ref(), &memory))
            .unwrap_or_default();
        let activity = btf.as_ref().and_then(|btf| ActivityLayout::new(&kallsyms, btf).ok()?);
        let log = btf.as_ref().and_then(|btf| LogLayout::new(&kallsyms, btf).ok()?);
        let found = FoundKernel {
            base,
            physical_base,
            release: &release,
            stext: kallsyms.address_of("_stext").map(|stext| stext.0),
            end,
        };
        let info = second_opinion::vmcoreinfo(&kallsyms, &memory);
        let findings = found.disagreements(info.as_ref(), vcpus, &memory);
        let marks = special::marks(&kallsyms, &memory);
        let name = describe(&release, base, &kallsyms, btf.is_some(), orc.is_some()) + &marks;
        let symbols = LinuxSymbols::new(kallsyms, orc, modules);
        let guest = Guest {
            release,
            build_id,
            has_types: btf.is_some(),
            base,
            physical_base,
            tables,
            own_memory: own,
            symbols,
            activity,
            log,
        };
        Some(Self { name, findings, guest: Rc::new(guest) })
    }
}

/// Returns the image that is mapped where Linux has its own, of whatever kernel, and its address.
pub(super) fn image_of(
    memory: &dyn PhysicalMemory,
    registers: &Registers,
) -> Option<(VirtualAddress, Vec<u8>)> {
    KernelImage::find(memory, registers, Contents::All).map(|image| (image.base, image.bytes))
}

/// The number of images in which symbols are searched for.
const MAX_TRIES: usize = 8;

/// The beginning of a kernel's banner (init/version.c).
const BANNER: &[u8] = b"Linux version ";

/// Returns the release by the kernel's banner, such as `6.1.0-56-cloud-amd64`. A kernel that has only symbols of
/// functions (no CONFIG_KALLSYMS_ALL) has the text all the same.
fn release(image: &KernelImage, kallsyms: &Kallsyms) -> Option<String> {
    if let Some(at) = kallsyms.address_of("linux_banner") {
        return release_at(image, at);
    }
    let mut places = memchr::memmem::find_iter(&image.bytes, BANNER);
    places.find_map(|at| release_at(image, image.base.wrapping_add(at as u64)))
}

/// Returns the release in the banner at an address, which begins with a digit.
fn release_at(image: &KernelImage, at: VirtualAddress) -> Option<String> {
    let text = image.at(at, 128)?.strip_prefix(BANNER)?;
    let release = text.split(|&byte| matches!(byte, b' ' | 0)).next()?;
    release.first()?.is_ascii_digit().then_some(())?;
    String::from_utf8(release.to_vec()).ok()
}

fn describe(
    release: &str,
    base: VirtualAddress,
    kallsyms: &Kallsyms,
    has_btf: bool,
    has_orc: bool,
) -> String {
    let kaslr = base.0.wrapping_sub(LINKED);
    let mut parts = vec![format!("KASLR {kaslr:#x}"), format!("{} symbols", kallsyms.len())];
    parts.push(if has_btf { "BTF".into() } else { "no BTF".into() });
    parts.push(if has_orc { "ORC".into() } else { "no ORC".into() });
    format!("Linux {release} ({})", parts.join(", "))
}

/// The most bytes of one table of a kernel. Those of distributions have up to 6 MiB.
const MAX_TABLE: u64 = 256 << 20;

/// Reads the bytes from one symbol to another; `None` where there are none.
fn between(
    start: &str,
    end: &str,
    kallsyms: &Kallsyms,
    memory: &dyn VirtualMemory,
) -> Option<(VirtualAddress, Vec<u8>)> {
    let (start, end) = (kallsyms.address_of(start)?, kallsyms.address_of(end)?);
    let length = end.offset_from(start).filter(|length| *length <= MAX_TABLE)?;
    let mut bytes = vec![0; length as usize];
    memory.read(start, &mut bytes).ok()?;
    Some((start, bytes))
}

fn find_btf(kallsyms: &Kallsyms, memory: &dyn VirtualMemory) -> Option<Btf> {
    let (_, types) = between("__start_BTF", "__stop_BTF", kallsyms, memory)?;
    Btf::parse(&types).ok()
}

fn find_orc(kallsyms: &Kallsyms, memory: &dyn VirtualMemory, btf: &Btf) -> Option<OrcTable> {
    let part = |start, end| between(start, end, kallsyms, memory);
    let (base, addresses) = part("__start_orc_unwind_ip", "__stop_orc_unwind_ip")?;
    let (_, rows) = part("__start_orc_unwind", "__stop_orc_unwind")?;
    OrcTable::new(&addresses, base, &rows, btf).ok()
}

impl KernelAdapter for LinuxKernel {
    fn unknown_because(&self) -> Option<&str> {
        None
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn findings(&self) -> &[String] {
        &self.findings
    }

    fn locate(
        &self,
        memory: &dyn PhysicalMemory,
        registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError> {
        let guest = Rc::clone(&self.guest);
        let tables = registers.flatten().find_map(|registers| guest.tables_of(memory, &registers));
        Ok(Box::new(LocatedLinux { tables: tables.unwrap_or(guest.tables), guest }))
    }

    fn vocabulary(&self) -> &dyn Vocabulary {
        &LinuxVocabulary
    }

    fn parts(&self, memory: &dyn PhysicalMemory) -> Option<KernelParts> {
        let guest = &self.guest;
        let memory = GuestVirtual::new(memory, guest.tables);
        Some(KernelParts {
            release: guest.release.clone(),
            kernel: guest.symbols.kernel_part(guest.build_id.clone()),
            modules: guest.symbols.modules.parts(&memory),
        })
    }

    fn missing_parts(&self) -> Vec<String> {
        let no_types = "the kernel was built without BTF, the description of its own types: its modules, tasks and \
                        log are not known";
        let no_types = (!self.guest.has_types).then(|| no_types.to_owned());
        no_types.into_iter().chain(self.guest.symbols.modules.fault.clone()).collect()
    }

    fn symbols<'a>(
        &'a self,
        _image: Option<&'a dyn KernelSymbols>,
    ) -> Option<&'a dyn KernelSymbols> {
        Some(&self.guest.symbols)
    }
}

impl Guest {
    /// Returns the page tables of a vCPU that map the kernel where it was recognised. In a program, page-table
    /// isolation leaves only those of its kernel half.
    fn tables_of(&self, memory: &dyn PhysicalMemory, registers: &Registers) -> Option<PageTables> {
        let tables = registers.page_tables().ok()?;
        [tables.kernel_half(), tables].into_iter().find(|tables| {
            let found = tables.translate(memory, self.base).ok();
            found.is_some_and(|found| found.physical == self.physical_base)
        })
    }
}

/// Linux in the guest that it was recognised in. It does not move while it runs, and the page tables are those of
/// one stop.
#[derive(Debug)]
struct LocatedLinux {
    guest: Rc<Guest>,
    tables: PageTables,
}

impl Located for LocatedLinux {
    fn state(
        &self,
        memory: &dyn PhysicalMemory,
        vcpus: &[Option<Registers>],
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        let memory = GuestVirtual::new(memory, self.tables);
        match &self.guest.activity {
            Some(activity) => activity.read(vcpus, &self.guest.symbols, &memory, depth),
            None => Ok(KernelState::default()),
        }
    }

    fn address_space(&self) -> PageTables {
        self.tables
    }

    fn own_memory(&self) -> Vec<(VirtualAddress, u64)> {
        self.guest.own_memory.ranges()
    }

    fn stack_block(&self) -> Option<u64> {
        Some(THREAD_SIZE)
    }

    fn log(&self, memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        let memory = GuestVirtual::new(memory, self.tables);
        Some(self.guest.log.as_ref()?.read(&memory))
    }
}

/// Reads a number of 1, 2, 4 or 8 bytes.
fn read_number(
    at: VirtualAddress,
    size: u64,
    memory: &dyn VirtualMemory,
) -> Result<u64, ReadError> {
    let mut bytes = [0; 8];
    memory.read(at, &mut bytes[..size.min(8) as usize])?;
    Ok(u64::from_le_bytes(bytes))
}
