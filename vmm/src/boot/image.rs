//! A guest image: an ELF64 file with a PVH entry point, checked before a byte of it is loaded.
//!
//! Owns every question about the file: is it one we can boot, does it fit, where is its entry.
//! Refuses to own what the guest finds beside its image (`pvh`, `acpi`). Called by `boot::load`.
//!
//! The image is untrusted: `check` reads it through `object`, whose reads are bounded, and does its
//! own arithmetic checked. linux-loader then only copies, from ranges known to be good.

use std::io::Cursor;
use std::ops::Range;

use linux_loader::loader::{Elf, KernelLoader};
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::endian::LittleEndian as LE;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use crate::{layout, memory};

/// XEN_ELFNOTE_PHYS32_ENTRY: a 32-bit physical entry point (Xen `include/public/elfnote.h`).
const PHYS32_ENTRY: u32 = 18;

/// Why an image cannot be booted. Segments are numbered as in the program header table, from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootImageError {
    /// No bytes.
    #[error("load the guest image: the file is empty")]
    Empty,
    /// No ELF magic.
    #[error(
        "load the guest image: not an ELF file; give an uncompressed kernel (vmlinux, not bzImage)"
    )]
    NotElf,
    /// ELFCLASS32.
    #[error("load the guest image: a 32-bit ELF file; build the kernel for x86-64")]
    Class32,
    /// ELFDATA2MSB.
    #[error("load the guest image: a big-endian ELF file; build the kernel for x86-64")]
    BigEndian,
    /// Not EM_X86_64.
    #[error("load the guest image: built for ELF machine {0}, not for x86-64 (62)")]
    Machine(u16),
    /// The header or the program headers do not make sense.
    #[error("load the guest image: malformed ELF file: {0}")]
    Malformed(&'static str),
    /// The file ends inside its ELF header.
    #[error("load the guest image: truncated: {0} bytes are too few for an ELF header")]
    TruncatedHeader(usize),
    /// The file ends before or inside its program header table.
    #[error("load the guest image: truncated: its program headers lie past the file's {0} bytes")]
    TruncatedProgramHeaders(usize),
    /// The file ends before or inside a segment's data.
    #[error(
        "load the guest image: truncated: segment {index}'s data ends at {end:#x}, \
         past the file's {file:#x} bytes"
    )]
    TruncatedSegment {
        /// Which segment.
        index: usize,
        /// File offset of its end, saturated.
        end: u64,
        /// The file's size in bytes.
        file: u64,
    },
    /// No PT_LOAD with memory.
    #[error("load the guest image: it has no loadable segments; is it an object file?")]
    NoSegments,
    /// No XEN_ELFNOTE_PHYS32_ENTRY.
    #[error(
        "load the guest image: it has no PVH entry point (a Xen note of type {PHYS32_ENTRY}); \
         build Linux with CONFIG_PVH=y"
    )]
    NoPvhNote,
    /// A segment's memory range wraps around, or holds less than its file data.
    #[error("load the guest image: segment {index} is malformed: {problem}")]
    BadSegment {
        /// Which segment.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two segments want the same memory.
    #[error(
        "load the guest image: segments {first} and {second} overlap in guest memory at {at:#x}"
    )]
    Overlap {
        /// The one at the lower address.
        first: usize,
        /// The one above it.
        second: usize,
        /// First guest-physical address that both want.
        at: u64,
    },
    /// A segment wants memory that the machine needs below 1 MiB.
    #[error(
        "load the guest image: segment {index} at {:#x}..{:#x} overlaps the area below 1 MiB that \
         is reserved for boot data ({:#x}..{:#x}); link it at 1 MiB or above",
        .range.start, .range.end,
        layout::LOW_RAM_END.raw_value(), layout::HIGH_RAM_START.raw_value()
    )]
    OverBootData {
        /// Which segment.
        index: usize,
        /// Its guest-physical range.
        range: Range<u64>,
    },
    /// A segment wants the device addresses between 3 and 4 GiB.
    #[error(
        "load the guest image: segment {index} at {:#x}..{:#x} lies in the device area between \
         3 and 4 GiB, where no guest has memory",
        .range.start, .range.end
    )]
    InHole {
        /// Which segment.
        index: usize,
        /// Its guest-physical range.
        range: Range<u64>,
    },
    /// The guest has too little memory for the image.
    #[error(
        "load the guest image: it does not fit into {memory} bytes of guest memory; \
         it needs at least {needed} bytes ({} MiB)",
        .needed.div_ceil(1 << 20)
    )]
    DoesNotFit {
        /// Bytes of guest memory that would do.
        needed: u64,
        /// Bytes that there are.
        memory: u64,
    },
    /// The boot CPU would run something that is not in the image.
    #[error("load the guest image: its PVH entry point {0:#x} is outside of every segment's data")]
    EntryOutside(u64),
    /// linux-loader refused what the checks above let through.
    #[error("load the guest image")]
    Load(#[source] linux_loader::loader::Error),
}

/// An image that passed every check.
#[derive(Debug)]
pub(super) struct CheckedImage<'data> {
    data: &'data [u8],
    entry: GuestAddress,
    end_below_hole: u64,
}

impl CheckedImage<'_> {
    /// Guest-physical address of the 32-bit entry point.
    pub(super) fn entry(&self) -> GuestAddress {
        self.entry
    }

    /// Where the memory ends that its segments take below 3 GiB.
    pub(super) fn end_below_hole(&self) -> u64 {
        self.end_below_hole
    }

    /// Copies the segments to their physical addresses. What they leave of their memory size is
    /// zero already: guest memory starts as zeroes.
    pub(super) fn load(&self, memory: &GuestMemoryMmap) -> Result<(), BootImageError> {
        Elf::load(memory, None, &mut Cursor::new(self.data), None).map_err(BootImageError::Load)?;
        Ok(())
    }
}

/// A PT_LOAD, as a range of guest-physical addresses.
struct Segment {
    index: usize,
    range: Range<u64>,
    /// The part of `range` that comes from the file.
    file_len: u64,
}

/// Says whether `data` can be booted in `memory` bytes of RAM.
pub(super) fn check(data: &[u8], memory: u64) -> Result<CheckedImage<'_>, BootImageError> {
    let header = header(data)?;
    let headers = program_headers(header, data)?;
    let mut segments = Vec::new();
    let mut entry = None;
    for (index, program) in headers.iter().enumerate() {
        match program.p_type(LE) {
            elf::PT_LOAD => segments.extend(segment(index, program, data)?),
            elf::PT_NOTE if entry.is_none() => entry = pvh_entry(index, program, data)?,
            _ => {}
        }
    }
    check_segments(&mut segments, memory)?;
    let entry = entry.ok_or(BootImageError::NoPvhNote)?;
    let has_entry = |s: &Segment| (s.range.start..s.range.start + s.file_len).contains(&entry);
    if !segments.iter().any(has_entry) {
        return Err(BootImageError::EntryOutside(entry));
    }
    let ends = segments.iter().map(|segment| segment.range.end);
    let end_below_hole = ends.filter(|&end| end <= layout::HOLE_START.raw_value()).max();
    Ok(CheckedImage {
        data,
        entry: GuestAddress(entry),
        end_below_hole: end_below_hole.unwrap_or_default(),
    })
}

/// The ELF header of an x86-64 file. The identification bytes are looked at first, so that even
/// a short or foreign file is called what it is.
fn header(data: &[u8]) -> Result<&FileHeader64<LE>, BootImageError> {
    const CLASS: usize = 4;
    const DATA: usize = 5;
    match data {
        [] => return Err(BootImageError::Empty),
        [0x7f, b'E', b'L', b'F', ..] => {}
        _ => return Err(BootImageError::NotElf),
    }
    if data.get(CLASS) == Some(&elf::ELFCLASS32.0) {
        return Err(BootImageError::Class32);
    }
    if data.get(DATA) == Some(&elf::ELFDATA2MSB.0) {
        return Err(BootImageError::BigEndian);
    }
    if data.len() < size_of::<FileHeader64<LE>>() {
        return Err(BootImageError::TruncatedHeader(data.len()));
    }
    let header = FileHeader64::<LE>::parse(data)
        .map_err(|_| BootImageError::Malformed("unknown class, byte order or version"))?;
    match header.e_machine(LE) {
        elf::EM_X86_64 => Ok(header),
        other => Err(BootImageError::Machine(other.0)),
    }
}

fn program_headers<'data>(
    header: &FileHeader64<LE>,
    data: &'data [u8],
) -> Result<&'data [ProgramHeader64<LE>], BootImageError> {
    let count = header.e_phnum(LE);
    if count == 0 {
        return Err(BootImageError::NoSegments);
    }
    if count == elf::PN_XNUM {
        return Err(BootImageError::Malformed("more program headers than its header can count"));
    }
    if usize::from(header.e_phentsize(LE)) != size_of::<ProgramHeader64<LE>>() {
        return Err(BootImageError::Malformed("unexpected size of a program header"));
    }
    if header.e_phoff(LE) < size_of::<FileHeader64<LE>>() as u64 {
        return Err(BootImageError::Malformed("program headers inside the ELF header"));
    }
    header
        .program_headers(LE, data)
        .map_err(|_| BootImageError::TruncatedProgramHeaders(data.len()))
}

/// Checks a PT_LOAD on its own; `None` if it asks for no memory.
fn segment(
    index: usize,
    program: &ProgramHeader64<LE>,
    data: &[u8],
) -> Result<Option<Segment>, BootImageError> {
    let (start, len, file_len) = (program.p_paddr(LE), program.p_memsz(LE), program.p_filesz(LE));
    check_file_range(index, program, data)?;
    let problem = |problem| BootImageError::BadSegment { index, problem };
    if file_len > len {
        return Err(problem("it has more bytes in the file than in memory"));
    }
    let end = start.checked_add(len).ok_or(problem("its memory wraps around the address space"))?;
    Ok((len > 0).then_some(Segment { index, range: start..end, file_len }))
}

fn check_file_range(
    index: usize,
    program: &ProgramHeader64<LE>,
    data: &[u8],
) -> Result<(), BootImageError> {
    let end = program.p_offset(LE).saturating_add(program.p_filesz(LE));
    let file = data.len() as u64;
    if end > file {
        return Err(BootImageError::TruncatedSegment { index, end, file });
    }
    Ok(())
}

/// Checks the segments against each other, the machine's own areas and the memory there is.
fn check_segments(segments: &mut [Segment], memory: u64) -> Result<(), BootImageError> {
    let reserved = layout::LOW_RAM_END.raw_value()..layout::HIGH_RAM_START.raw_value();
    let hole = layout::HOLE_START.raw_value()..layout::HOLE_END.raw_value();
    segments.sort_by_key(|segment| segment.range.start);
    for pair in segments.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let (first, second) = (pair[0].index, pair[1].index);
            return Err(BootImageError::Overlap { first, second, at: pair[1].range.start });
        }
    }
    for Segment { index, range, .. } in segments.iter() {
        let (index, range) = (*index, range.clone());
        if overlap(&range, &reserved) {
            return Err(BootImageError::OverBootData { index, range });
        }
        if overlap(&range, &hole) {
            return Err(BootImageError::InHole { index, range });
        }
    }
    let end = segments.last().ok_or(BootImageError::NoSegments)?.range.end;
    // RAM above the hole starts where the RAM below it left off.
    let needed = if end > hole.end { end - (hole.end - hole.start) } else { end };
    let needed = needed.next_multiple_of(4096).max(memory::MIN_BYTES);
    if needed > memory {
        return Err(BootImageError::DoesNotFit { needed, memory });
    }
    Ok(())
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The PVH entry point in a PT_NOTE, if it is there.
fn pvh_entry(
    index: usize,
    program: &ProgramHeader64<LE>,
    data: &[u8],
) -> Result<Option<u64>, BootImageError> {
    check_file_range(index, program, data)?;
    let malformed = |_| BootImageError::BadSegment { index, problem: "its notes cannot be read" };
    let Some(notes) = program.notes(LE, data).map_err(malformed)? else {
        return Ok(None);
    };
    for note in notes {
        let note = note.map_err(malformed)?;
        if note.name() == b"Xen" && note.n_type(LE).0 == PHYS32_ENTRY {
            let address: [u8; 4] = note.desc().get(..4).and_then(|b| b.try_into().ok()).ok_or(
                BootImageError::BadSegment { index, problem: "its PVH note is too short" },
            )?;
            return Ok(Some(u32::from_le_bytes(address).into()));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
