//! A guest image: an ELF64 file with a PVH entry point, checked before a byte of it is loaded.
//!
//! Owns every check of the file: that it can be booted, that it fits into guest memory, and where its
//! entry point is. Refuses to own the tables beside the image (`pvh`, `acpi`). Called by `boot::load`.
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

/// Reasons to refuse a guest image. Segments are numbered as in the program header table, from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootImageError {
    /// The file has no bytes.
    #[error("load the guest image: the file is empty")]
    Empty,
    /// The file does not begin with the ELF magic.
    #[error(
        "load the guest image: not an ELF file; give an uncompressed kernel (vmlinux, not bzImage)"
    )]
    NotElf,
    /// The ELF file is a 32-bit one (ELFCLASS32).
    #[error("load the guest image: a 32-bit ELF file; build the kernel for x86-64")]
    Class32,
    /// The ELF file is big-endian (ELFDATA2MSB).
    #[error("load the guest image: a big-endian ELF file; build the kernel for x86-64")]
    BigEndian,
    /// The ELF file is for this machine (`e_machine`), not for EM_X86_64.
    #[error("load the guest image: built for ELF machine {0}, not for x86-64 (62)")]
    Machine(u16),
    /// The ELF header or a program header has impossible values.
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
        /// Number of the segment that is cut off.
        index: usize,
        /// File offset of its end, saturated.
        end: u64,
        /// The file's size in bytes.
        file: u64,
    },
    /// The file has no PT_LOAD segment that takes memory.
    #[error("load the guest image: it has no loadable segments; is it an object file?")]
    NoSegments,
    /// The file has no note of type XEN_ELFNOTE_PHYS32_ENTRY.
    #[error(
        "load the guest image: it has no PVH entry point (a Xen note of type {PHYS32_ENTRY}); \
         build Linux with CONFIG_PVH=y"
    )]
    NoPvhNote,
    /// A segment's memory range wraps around, or holds less than its file data.
    #[error("load the guest image: segment {index} is malformed: {problem}")]
    BadSegment {
        /// Number of the malformed segment.
        index: usize,
        /// The defect, as a clause whose subject is the segment.
        problem: &'static str,
    },
    /// Two segments overlap in guest memory.
    #[error(
        "load the guest image: segments {first} and {second} overlap in guest memory at {at:#x}"
    )]
    Overlap {
        /// Number of the segment with the lower address.
        first: usize,
        /// Number of the segment that begins inside it.
        second: usize,
        /// First guest-physical address that both cover.
        at: u64,
    },
    /// A segment overlaps the boot data below 1 MiB.
    #[error(
        "load the guest image: segment {index} at {:#x}..{:#x} overlaps the area below 1 MiB that \
         is reserved for boot data ({:#x}..{:#x}); link it at 1 MiB or above",
        .range.start, .range.end,
        layout::LOW_RAM_END.raw_value(), layout::HIGH_RAM_START.raw_value()
    )]
    OverBootData {
        /// Number of the segment that overlaps it.
        index: usize,
        /// Guest-physical range of that segment.
        range: Range<u64>,
    },
    /// A segment overlaps the device addresses between 3 and 4 GiB.
    #[error(
        "load the guest image: segment {index} at {:#x}..{:#x} lies in the device area between \
         3 and 4 GiB, where no guest has memory",
        .range.start, .range.end
    )]
    InHole {
        /// Number of the segment that overlaps them.
        index: usize,
        /// Guest-physical range of that segment.
        range: Range<u64>,
    },
    /// The guest has too little memory for the image.
    #[error(
        "load the guest image: it does not fit into {memory} bytes of guest memory; \
         it needs at least {needed} bytes ({} MiB)",
        .needed.div_ceil(1 << 20)
    )]
    DoesNotFit {
        /// Least guest memory that the image fits into, in bytes.
        needed: u64,
        /// The guest's memory in bytes.
        memory: u64,
    },
    /// The entry point, a guest-physical address, is not in a segment's file data.
    #[error("load the guest image: its PVH entry point {0:#x} is outside of every segment's data")]
    EntryOutside(u64),
    /// linux-loader refused an image that passed all checks above.
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

    /// End of the highest segment below 3 GiB, a guest-physical address; 0 if there is none.
    pub(super) fn end_below_hole(&self) -> u64 {
        self.end_below_hole
    }

    /// Copies the segments to their physical addresses. The rest of a segment's memory size needs no
    /// clearing: guest memory starts as zeroes.
    pub(super) fn load(&self, memory: &GuestMemoryMmap) -> Result<(), BootImageError> {
        Elf::load(memory, None, &mut Cursor::new(self.data), None).map_err(BootImageError::Load)?;
        Ok(())
    }
}

/// A PT_LOAD segment: its number, its guest-physical range and its length in the file.
struct Segment {
    index: usize,
    range: Range<u64>,
    /// The part of `range` that comes from the file.
    file_len: u64,
}

/// Checks that the image in `data` can be booted in `memory` bytes of RAM.
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

/// Returns the ELF header of an x86-64 file. The identification bytes are checked first, so that a file
/// that is short or for another machine gets the error that says so.
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

/// Checks a PT_LOAD segment on its own; returns `None` if its memory size is 0.
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

/// Checks the segments against each other, the machine's reserved areas and the guest's memory size.
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
    // The RAM above the hole is what did not fit below it.
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

/// Returns the guest-physical PVH entry point in a PT_NOTE segment, `None` if it has none.
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
