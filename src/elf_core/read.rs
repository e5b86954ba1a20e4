//! Reads a core that `write` made, or that claims to be one.
//!
//! A core is bytes: whoever opened the file has them, mapped or read. Nothing is copied but headers.
//! What cannot be used at all is a [`CoreError`] that says what the file is instead; what is there
//! in part is read, and each kind of damage is a [`Finding`].

use std::ops::Range;

use nmiscope_machine::{Mapping, PhysicalAddress, PhysicalMemory, ReadError, VirtualAddress};

use super::extents::Extents;
use super::fault::{CoreError, Finding, Kind};
use super::format::{
    EHDR_BYTES, EM_X86_64, ET_CORE, Header, MAGIC, MAX_SEGMENTS, NO_VIRTUAL, PHDR_BYTES, PN_XNUM,
    PT_LOAD, PT_NOTE, ProgramHeader, section_info, u32_at,
};
use super::notes::{
    self, CORE, CpuRegisters, GNU, NT_GNU_BUILD_ID, NT_PRSTATUS, Note, OWN, OWN_HEADER, OWN_TYPE,
    VMCOREINFO,
};
use super::{FORMAT_VERSION, OLDEST_VERSION};

/// A core, over the bytes of its file.
///
/// As [`PhysicalMemory`] it is the memory that it holds. What a segment has no bytes for in the file
/// but claims in memory is zero, as ELF has it; what was cut off, and all else, is
/// [`ReadError::Unbacked`].
#[derive(Debug, Clone)]
pub struct Core<'data> {
    file: &'data [u8],
    notes: Notes<'data>,
    memory: Segments,
    findings: Vec<Finding>,
}

impl<'data> Core<'data> {
    /// Reads the headers and notes of a file.
    ///
    /// # Errors
    /// [`CoreError`] when it is none of ours, or too little of it is left.
    pub fn parse(file: &'data [u8]) -> Result<Self, CoreError> {
        let headers = program_headers(file)?;
        let mut findings = Vec::new();
        let notes = Notes::read(file, &headers, &mut findings)?;
        let memory = Segments::read(file.len() as u64, &headers, &mut findings);
        Ok(Self { file, notes, memory, findings })
    }

    /// The vCPUs whose registers it has, in the order of the file.
    pub fn cpus(&self) -> &[CpuRegisters] {
        &self.notes.cpus
    }

    /// The version of the format that it is in.
    pub fn version(&self) -> u32 {
        self.notes.version
    }

    /// The contents of our own note.
    pub fn note(&self) -> &'data [u8] {
        self.notes.own
    }

    /// The guest's VMCOREINFO.
    pub fn vmcoreinfo(&self) -> Option<&'data [u8]> {
        self.notes.vmcoreinfo
    }

    /// The build-id of the image that the guest ran.
    pub fn build_id(&self) -> Option<&'data [u8]> {
        self.notes.build_id
    }

    /// What is wrong with it; each kind once.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The guest-physical memory that it has, zeros that are not in the file included.
    pub fn extents(&self) -> Extents {
        let mut extents = Extents::new();
        for Stored { physical, .. } in self.memory.stored.iter().chain(&self.memory.zeros) {
            extents.insert(PhysicalAddress(physical.start), physical.end - physical.start);
        }
        extents
    }

    /// The virtual addresses of its segments, in the order of the file. They are what a debugger
    /// sees; the guest's page tables are the better witness.
    pub fn views(&self) -> &[Mapping] {
        &self.memory.views
    }
}

impl PhysicalMemory for Core<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let unbacked = ReadError::Unbacked { address, length };
        let mut at = address.0;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (known, source) = self.memory.at(at).ok_or_else(|| unbacked.clone())?;
            let now = usize::try_from(known).unwrap_or(usize::MAX).min(rest.len());
            let (filled, later) = rest.split_at_mut(now);
            match source {
                // It was checked to lie in the file.
                Some(offset) => {
                    filled.copy_from_slice(&self.file[offset as usize..][..filled.len()])
                }
                None => filled.fill(0),
            }
            rest = later;
            if !rest.is_empty() {
                at = at.checked_add(now as u64).ok_or_else(|| unbacked.clone())?;
            }
        }
        Ok(())
    }
}

/// The program headers of a core for x86-64, whoever made it.
fn program_headers(file: &[u8]) -> Result<Vec<ProgramHeader>, CoreError> {
    if !file.starts_with(MAGIC) {
        return Err(CoreError::NotElf(kind_of_no_elf(file)));
    }
    let length = file.len() as u64;
    let cut = |what, end| CoreError::Truncated { what, end, length };
    let header = Header::decode(file).ok_or(cut("the ELF header", EHDR_BYTES as u64))?;
    if !header.is_64_bit_little_endian() || header.machine != EM_X86_64 {
        return Err(CoreError::NotX86_64);
    }
    if header.kind != ET_CORE {
        return Err(CoreError::NotCore(Kind::Elf(header.kind)));
    }
    if usize::from(header.phentsize) != PHDR_BYTES {
        return Err(CoreError::Malformed("program headers of another size than ELF64's"));
    }
    let count = match header.phnum {
        PN_XNUM => section_info(file, header.shoff)
            .ok_or(cut("the section headers", header.shoff.saturating_add(EHDR_BYTES as u64)))?,
        count => u32::from(count),
    };
    if count as usize > MAX_SEGMENTS {
        return Err(CoreError::Malformed("too many program headers"));
    }
    let end = header.phoff.saturating_add(u64::from(count) * PHDR_BYTES as u64);
    let table = usize::try_from(header.phoff).ok().zip(usize::try_from(end).ok());
    let table = table.and_then(|(begin, end)| file.get(begin..end));
    let table = table.ok_or(cut("the program headers", end))?;
    Ok(table.chunks_exact(PHDR_BYTES).filter_map(ProgramHeader::decode).collect())
}

fn kind_of_no_elf(file: &[u8]) -> Kind {
    const MAGICS: [(&[u8], Kind); 6] = [
        (b"KDUMP   ", Kind::KdumpCompressed),
        (b"makedumpfile", Kind::KdumpCompressed),
        (b"\x1f\x8b", Kind::Compressed("gzip")),
        (b"\x28\xb5\x2f\xfd", Kind::Compressed("zstd")),
        (b"\xfd7zXZ\0", Kind::Compressed("xz")),
        (b"BZh", Kind::Compressed("bzip2")),
    ];
    let known = MAGICS.iter().find(|(magic, _)| file.starts_with(magic));
    match known {
        Some(&(_, kind)) => kind,
        None if file.is_empty() => Kind::Empty,
        None => Kind::NoElf,
    }
}

/// What the notes say.
#[derive(Debug, Clone, Default)]
struct Notes<'data> {
    cpus: Vec<CpuRegisters>,
    /// Of our own note, as are the contents.
    version: u32,
    own: &'data [u8],
    vmcoreinfo: Option<&'data [u8]>,
    build_id: Option<&'data [u8]>,
}

impl<'data> Notes<'data> {
    fn read(
        file: &'data [u8],
        headers: &[ProgramHeader],
        findings: &mut Vec<Finding>,
    ) -> Result<Self, CoreError> {
        // Linux, and we, make one such segment.
        let header = headers.iter().find(|header| header.kind == PT_NOTE);
        let (begin, length) = header.map_or((0, 0), |header| (header.offset, header.file_size));
        let end = begin.saturating_add(length);
        let in_file = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(file.len());
        let segment = &file[in_file(begin)..in_file(end)];
        let (all, whole) = notes::parse(segment);

        let own = all.iter().find(|note| (note.name, note.kind) == (OWN, OWN_TYPE));
        let (version, own) = match own {
            Some(note) => contents_of_own(note.description)?,
            None if segment.len() as u64 != length => {
                return Err(CoreError::Truncated {
                    what: "the notes",
                    end,
                    length: file.len() as u64,
                });
            }
            None if !whole => {
                return Err(CoreError::Malformed("its notes are damaged"));
            }
            None => return Err(CoreError::NotOurs(kind_of_core(&all))),
        };
        if !whole {
            findings.push(Finding::DamagedNotes);
        }
        let with = |name, kind: Option<u32>| {
            let mut notes = all.iter();
            let found = notes
                .find(|note: &&Note<'_>| note.name == name && kind.is_none_or(|k| k == note.kind));
            found.map(|note| note.description)
        };
        Ok(Self {
            cpus: cpus(&all, findings),
            version,
            own,
            vmcoreinfo: with(VMCOREINFO, None),
            build_id: with(GNU, Some(NT_GNU_BUILD_ID)),
        })
    }
}

/// The version of our own note, and its contents.
fn contents_of_own(description: &[u8]) -> Result<(u32, &[u8]), CoreError> {
    let short = CoreError::Malformed("the note of nmiscope is too short for its version");
    match (u32_at(description, 0), description.get(OWN_HEADER..)) {
        (Some(version @ OLDEST_VERSION..=FORMAT_VERSION), Some(contents)) => {
            Ok((version, contents))
        }
        (Some(OLDEST_VERSION..=FORMAT_VERSION) | None, _) => Err(short),
        (Some(found), _) => Err(CoreError::Version { found }),
    }
}

fn cpus(all: &[Note<'_>], findings: &mut Vec<Finding>) -> Vec<CpuRegisters> {
    let mut cpus: Vec<CpuRegisters> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut damaged = 0;
    for note in all.iter().filter(|note| (note.name, note.kind) == (CORE, NT_PRSTATUS)) {
        match CpuRegisters::decode(note.description) {
            Some(cpu) if seen.insert(cpu.cpu) => cpus.push(cpu),
            _ => damaged += 1,
        }
    }
    if damaged > 0 {
        findings.push(Finding::DamagedRegisters { count: damaged });
    }
    cpus
}

/// By the notes that others write.
fn kind_of_core(all: &[Note<'_>]) -> Kind {
    const NT_PRPSINFO: u32 = 3;
    let has = |name: &[u8]| all.iter().any(|note| note.name == name);
    if has(b"QEMU") {
        Kind::Qemu
    } else if has(VMCOREINFO) {
        Kind::LinuxKernel
    } else if all.iter().any(|note| (note.name, note.kind) == (CORE, NT_PRPSINFO)) {
        Kind::Process
    } else {
        Kind::Core
    }
}

/// Guest-physical memory, and where in the file its first byte is.
#[derive(Debug, Clone)]
struct Stored {
    physical: Range<u64>,
    offset: u64,
}

/// The memory that PT_LOADs name. Both lists are sorted and without overlaps.
#[derive(Debug, Clone, Default)]
struct Segments {
    stored: Vec<Stored>,
    /// What is in no file. Their offset means nothing; where both lists have a byte, the other
    /// list counts.
    zeros: Vec<Stored>,
    views: Vec<Mapping>,
}

impl Segments {
    fn read(file_length: u64, headers: &[ProgramHeader], findings: &mut Vec<Finding>) -> Self {
        let mut stored = Vec::new();
        let mut zeros = Vec::new();
        let mut views = Vec::new();
        let (mut impossible, mut cut, mut expected) = (0, 0, 0);
        for header in headers.iter().filter(|header| header.kind == PT_LOAD) {
            let start = header.physical_address;
            let end = start.checked_add(header.memory_size);
            let in_file = header.offset.checked_add(header.file_size);
            let (Some(end), Some(in_file)) = (end, in_file) else {
                impossible += 1;
                continue;
            };
            if header.file_size > header.memory_size {
                impossible += 1;
                continue;
            }
            if in_file > file_length && header.file_size > 0 {
                cut += 1;
                expected = in_file.max(expected);
            }
            let there = file_length.saturating_sub(header.offset).min(header.file_size);
            stored.push(Stored { physical: start..start + there, offset: header.offset });
            zeros.push(Stored { physical: start + header.file_size..end, offset: 0 });
            views.extend(view(header));
        }
        let (stored, contradictory) = without_overlaps(stored);
        let (zeros, _) = without_overlaps(zeros);
        if cut > 0 {
            findings.push(Finding::Truncated { length: file_length, expected, segments: cut });
        }
        if impossible > 0 {
            findings.push(Finding::ImpossibleSegments { count: impossible });
        }
        if contradictory > 0 {
            findings.push(Finding::ContradictorySegments { count: contradictory });
        }
        Self { stored, zeros, views }
    }

    /// How many bytes from `at` on have one source, and which: an offset into the file, or none for
    /// zeros.
    fn at(&self, at: u64) -> Option<(u64, Option<u64>)> {
        let after = self.stored.partition_point(|stored| stored.physical.start <= at);
        if let Some(stored) = after.checked_sub(1).map(|before| &self.stored[before])
            && at < stored.physical.end
        {
            let within = at - stored.physical.start;
            return Some((stored.physical.end - at, Some(stored.offset + within)));
        }
        let before =
            self.zeros.partition_point(|zeros| zeros.physical.start <= at).checked_sub(1)?;
        let mut end = self.zeros[before].physical.end;
        if let Some(stored) = self.stored.get(after) {
            end = end.min(stored.physical.start);
        }
        (at < end).then(|| (end - at, None))
    }
}

fn view(header: &ProgramHeader) -> Option<Mapping> {
    let mapped = header.virtual_address != NO_VIRTUAL && header.memory_size > 0;
    mapped.then_some(Mapping {
        virtual_start: VirtualAddress(header.virtual_address),
        physical_start: PhysicalAddress(header.physical_address),
        length: header.memory_size,
    })
}

/// Sorts, and cuts off of each range what one before it has. Also how many differ from the one
/// before about where their bytes are.
fn without_overlaps(mut ranges: Vec<Stored>) -> (Vec<Stored>, usize) {
    ranges.retain(|range| !range.physical.is_empty());
    ranges.sort_by_key(|range| range.physical.start);
    let mut kept: Vec<Stored> = Vec::with_capacity(ranges.len());
    let mut contradictory = 0;
    for range in ranges {
        let Some(last) = kept.last() else {
            kept.push(range);
            continue;
        };
        let overlap = last.physical.end.saturating_sub(range.physical.start);
        if overlap > 0 {
            let same = last.offset.wrapping_sub(last.physical.start)
                == range.offset.wrapping_sub(range.physical.start);
            contradictory += usize::from(!same);
        }
        if overlap < range.physical.end - range.physical.start {
            let physical = range.physical.start + overlap..range.physical.end;
            kept.push(Stored { physical, offset: range.offset + overlap });
        }
    }
    (kept, contradictory)
}
