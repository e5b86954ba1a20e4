//! Adapter of Linux: everything from the guest's memory, without an image.
//!
//! Owns the recognition of a Linux kernel by what lies in its image (symbols, types, unwind rows), and puts the parts
//! together. Refuses to own formats (`nmiscope_symbolizer::linux`) and their use (`capture`, `diagnosis`). No
//! decision rests on a version: a part whose tables are missing is missing, and says so.
//!
//! | file | owns |
//! |---|---|
//! | `image` | the kernel's image, found by page tables |
//! | `symbols` | functions and stacks of the kernel and its modules |
//! | `modules` | the list of modules |
//! | `activity` | CPUs, tasks and waits, put together |
//! | `cpus` | per-CPU variables |
//! | `tasks` | the list of tasks |
//! | `waits` | who waits for which lock or CPU |
//! | `log` | the printk ring buffer |
//! | `printed_stacks` | stacks in the log |
//! | `vocabulary` | Linux's own texts and function names |

mod activity;
mod cpus;
mod image;
mod log;
mod modules;
mod printed_stacks;
mod symbols;
mod tasks;
mod vocabulary;
mod waits;

use std::rc::Rc;

use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalMemory, ReadError, Registers, VirtualAddress, VirtualMemory,
};
use nmiscope_symbolizer::linux::{Btf, Kallsyms, OrcTable};

use super::{
    Depth, KernelAdapter, KernelState, KernelSymbols, LocateError, Located, Log, LogError,
    Vocabulary,
};
use crate::targets::NoAnswer;
use activity::ActivityLayout;
use image::KernelImage;
use log::LogLayout;
use modules::Modules;
use symbols::LinuxSymbols;
use vocabulary::LinuxVocabulary;

/// The address at which x86-64 kernels are linked: `__START_KERNEL_map` plus CONFIG_PHYSICAL_START, which is 16 MiB
/// in every distribution. A kernel with another start has another number for its KASLR offset, which people read
/// and no code uses.
const LINKED: u64 = 0xffff_ffff_8100_0000;

/// Linux, as it describes itself in one guest.
#[derive(Debug)]
pub(super) struct LinuxKernel {
    name: String,
    guest: Rc<Guest>,
}

#[derive(Debug)]
struct Guest {
    tables: PageTables,
    symbols: LinuxSymbols,
    activity: Option<ActivityLayout>,
    log: Option<LogLayout>,
}

impl LinuxKernel {
    /// Recognises Linux in a guest by the registers of its vCPUs; `None` if none of them leads to an image with
    /// symbols.
    pub(super) fn recognise(memory: &dyn PhysicalMemory, vcpus: &[Registers]) -> Option<Self> {
        // Every vCPU of one guest runs one kernel: the first that shows it is enough.
        let images = vcpus.iter().filter_map(|registers| KernelImage::find(memory, registers));
        let (kallsyms, image) = images
            .take(MAX_TRIES)
            .find_map(|image| Some((Kallsyms::find(&image.bytes, image.base).ok()?, image)))?;
        let banner = banner(&image, &kallsyms)?;
        let btf = find_btf(&image, &kallsyms);
        let orc = btf.as_ref().and_then(|btf| find_orc(&image, &kallsyms, btf));
        let memory = GuestVirtual::new(memory, image.tables);
        let modules = btf
            .as_ref()
            .map(|btf| Modules::read(&kallsyms, btf, orc.as_ref(), &memory))
            .unwrap_or_default();
        let activity = btf.as_ref().and_then(|btf| ActivityLayout::new(&kallsyms, btf).ok()?);
        let log = btf.as_ref().and_then(|btf| LogLayout::new(&kallsyms, btf).ok()?);
        let name = describe(&banner, &image, &kallsyms, btf.is_some(), orc.is_some());
        let symbols = LinuxSymbols::new(kallsyms, orc, modules);
        let guest = Guest { tables: image.tables, symbols, activity, log };
        Some(Self { name, guest: Rc::new(guest) })
    }
}

/// The number of images in which symbols are searched for.
const MAX_TRIES: usize = 8;

/// The beginning of a kernel's banner (init/version.c).
const BANNER: &[u8] = b"Linux version ";

/// Returns the release by the kernel's banner, such as `6.1.0-56-cloud-amd64`. A kernel that has only symbols of
/// functions (no KALLSYMS_ALL) has the text all the same.
fn banner(image: &KernelImage, kallsyms: &Kallsyms) -> Option<String> {
    if let Some(at) = kallsyms.address_of("linux_banner") {
        return release(image.from(at)?);
    }
    let mut places = memchr::memmem::find_iter(&image.bytes, BANNER);
    places.find_map(|at| release(&image.bytes[at..]))
}

/// Returns the release in a banner, which begins with a digit.
fn release(banner: &[u8]) -> Option<String> {
    let text = banner.strip_prefix(BANNER)?.get(..128)?;
    let release = text.split(|&byte| matches!(byte, b' ' | 0)).next()?;
    release.first()?.is_ascii_digit().then_some(())?;
    String::from_utf8(release.to_vec()).ok()
}

fn describe(
    release: &str,
    image: &KernelImage,
    kallsyms: &Kallsyms,
    has_btf: bool,
    has_orc: bool,
) -> String {
    let kaslr = image.base.0.wrapping_sub(LINKED);
    let mut parts = vec![format!("KASLR {kaslr:#x}"), format!("{} symbols", kallsyms.len())];
    parts.push(if has_btf { "BTF".into() } else { "no BTF".into() });
    parts.push(if has_orc { "ORC".into() } else { "no ORC".into() });
    format!("Linux {release} ({})", parts.join(", "))
}

fn find_btf(image: &KernelImage, kallsyms: &Kallsyms) -> Option<Btf> {
    let (start, end) = (kallsyms.address_of("__start_BTF")?, kallsyms.address_of("__stop_BTF")?);
    Btf::parse(image.between(start, end)?).ok()
}

fn find_orc(image: &KernelImage, kallsyms: &Kallsyms, btf: &Btf) -> Option<OrcTable> {
    let part = |name: &str| {
        let start = kallsyms.address_of(&format!("__start_orc_{name}"))?;
        let end = kallsyms.address_of(&format!("__stop_orc_{name}"))?;
        Some((start, image.between(start, end)?))
    };
    let ((base, addresses), (_, rows)) = (part("unwind_ip")?, part("unwind")?);
    OrcTable::new(addresses, base, rows, btf).ok()
}

impl KernelAdapter for LinuxKernel {
    fn unknown_because(&self) -> Option<&str> {
        None
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn locate(
        &self,
        _memory: &dyn PhysicalMemory,
        _registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError> {
        Ok(Box::new(LocatedLinux(Rc::clone(&self.guest))))
    }

    fn vocabulary(&self) -> &dyn Vocabulary {
        &LinuxVocabulary
    }

    fn symbols<'a>(
        &'a self,
        _image: Option<&'a dyn KernelSymbols>,
    ) -> Option<&'a dyn KernelSymbols> {
        Some(&self.guest.symbols)
    }
}

/// Linux in the guest that it was recognised in: nothing moves while it runs.
#[derive(Debug)]
struct LocatedLinux(Rc<Guest>);

impl Located for LocatedLinux {
    fn state(
        &self,
        memory: &dyn PhysicalMemory,
        vcpus: &[Option<Registers>],
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        let memory = GuestVirtual::new(memory, self.0.tables);
        match &self.0.activity {
            Some(activity) => activity.read(vcpus, &self.0.symbols, &memory, depth),
            None => Ok(KernelState::default()),
        }
    }

    fn own_memory(&self) -> Vec<(VirtualAddress, u64)> {
        Vec::new()
    }

    fn log(&self, memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        let memory = GuestVirtual::new(memory, self.0.tables);
        Some(self.0.log.as_ref()?.read(&memory))
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
