//! Reads the ELF core of a machine, of any program.
//!
//! Owns headers, notes as bytes, and memory. Refuses to interpret notes (`own` for nmiscope's, the readers
//! of `targets` for others), and to open files: a core is the bytes that its caller mapped or read, and
//! only headers are copied. A file that cannot be used is a [`CoreError`] that names its kind; a damaged
//! one is read as far as possible, and each kind of damage is a [`Damage`].

use nmiscope_machine::{Mapping, PhysicalAddress, PhysicalMemory, ReadError};

use super::extents::Extents;
use super::fault::{CoreError, Damage, FileKind};
use super::format::{
    EHDR_BYTES, EM_386, EM_X86_64, ET_CORE, Header, MAGIC, MAX_SEGMENTS, PHDR_BYTES, PN_XNUM,
    PT_NOTE, ProgramHeader, section_info,
};
use super::notes::{self, CORE, ElfNote, QEMU, VMCOREINFO};
use super::segments::{BeyondFile, Segments, Stored};

/// An ELF core, over the bytes of its file.
///
/// As [`PhysicalMemory`] it is the memory in the file. Memory that a segment claims beyond its bytes in
/// the file reads as zero, as ELF defines it, unless QEMU wrote the file. Memory that was cut off, and
/// memory of no segment, is [`ReadError::Unbacked`].
#[derive(Debug, Clone)]
pub struct ElfCore<'data> {
    file: &'data [u8],
    notes: Vec<ElfNote<'data>>,
    notes_fault: Option<CoreError>,
    memory: Segments,
    findings: Vec<Damage>,
}

impl<'data> ElfCore<'data> {
    /// Reads the headers and notes of a file.
    ///
    /// # Errors
    /// The file is no core for x86-64, or its headers are incomplete.
    pub fn parse(file: &'data [u8]) -> Result<Self, CoreError> {
        let headers = program_headers(file)?;
        let (notes, notes_fault) = read_notes(file, &headers);
        let mut findings = Vec::from_iter(notes_fault.as_ref().map(|_| Damage::DamagedNotes));
        let has = |name: &[u8]| notes.iter().any(|note| note.name == name);
        let beyond_file = match has(QEMU) && !notes.iter().any(ElfNote::is_own) {
            true => BeyondFile::Unknown,
            false => BeyondFile::Zero,
        };
        let memory = Segments::read(file.len() as u64, &headers, beyond_file, &mut findings);
        Ok(Self { file, notes, notes_fault, memory, findings })
    }

    /// Returns the notes, in the order of the file.
    pub fn notes(&self) -> &[ElfNote<'data>] {
        &self.notes
    }

    /// Returns the reason why notes may be missing; `None` if all of them were read.
    pub fn notes_fault(&self) -> Option<&CoreError> {
        self.notes_fault.as_ref()
    }

    /// Returns true for a core with nmiscope's own note.
    pub fn is_own(&self) -> bool {
        self.notes.iter().any(ElfNote::is_own)
    }

    /// Returns the kind of a core without nmiscope's own note, by the notes that other programs write.
    pub fn kind(&self) -> FileKind {
        const NT_PRPSINFO: u32 = 3;
        let has = |name: &[u8]| self.notes.iter().any(|note| note.name == name);
        if has(QEMU) {
            FileKind::Qemu
        } else if has(VMCOREINFO) {
            FileKind::LinuxKernel
        } else if self.notes.iter().any(|note| note.is(CORE, NT_PRPSINFO)) {
            FileKind::Process
        } else {
            FileKind::Core
        }
    }

    /// Returns the damage to the file, each kind once.
    pub fn findings(&self) -> &[Damage] {
        &self.findings
    }

    /// Returns the guest-physical memory of all segments, including zeros that are not in the file.
    pub fn extents(&self) -> Extents {
        let mut extents = Extents::new();
        for Stored { physical, .. } in self.memory.stored.iter().chain(&self.memory.zeros) {
            extents.insert(PhysicalAddress(physical.start), physical.end - physical.start);
        }
        extents
    }

    /// Returns the virtual addresses of the segments, in the order of the file. A debugger uses them; the
    /// guest's page tables are more reliable.
    pub fn views(&self) -> &[Mapping] {
        &self.memory.views
    }
}

impl PhysicalMemory for ElfCore<'_> {
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
                // `Segments::read` has cut every stored range to the file's length.
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

/// Reads the program headers of a core for x86-64, of any program.
fn program_headers(file: &[u8]) -> Result<Vec<ProgramHeader>, CoreError> {
    if !file.starts_with(MAGIC) {
        return Err(CoreError::NotElf(kind_of_no_elf(file)));
    }
    let length = file.len() as u64;
    let cut = |what, end| CoreError::Truncated { what, end, length };
    let header = Header::decode(file).ok_or(cut("the ELF header", EHDR_BYTES as u64))?;
    if (header.kind, header.machine) == (ET_CORE, EM_386) {
        return Err(CoreError::Not64Bit);
    }
    if !header.is_64_bit_little_endian() || header.machine != EM_X86_64 {
        return Err(CoreError::NotX86_64);
    }
    if header.kind != ET_CORE {
        return Err(CoreError::NotCore(FileKind::Elf(header.kind)));
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

fn kind_of_no_elf(file: &[u8]) -> FileKind {
    const MAGICS: [(&[u8], FileKind); 11] = [
        (b"KDUMP   ", FileKind::KdumpCompressed),
        // The flattened format, which `virsh dump` and QEMU write.
        (b"makedumpfile", FileKind::KdumpCompressed),
        (b"QEVM", FileKind::MigrationStream),
        (b"LibvirtQemudSave", FileKind::MigrationStream),
        (b"PAGEDU64", FileKind::Windows),
        (b"\x1f\x8b", FileKind::Compressed("gzip")),
        (b"\x28\xb5\x2f\xfd", FileKind::Compressed("zstd")),
        (b"\xfd7zXZ\0", FileKind::Compressed("xz")),
        (b"BZh", FileKind::Compressed("bzip2")),
        (b"\x89LZO", FileKind::Compressed("lzop")),
        (b"\x04\x22\x4d\x18", FileKind::Compressed("lz4")),
    ];
    let known = MAGICS.iter().find(|(magic, _)| file.starts_with(magic));
    match known {
        Some(&(_, kind)) => kind,
        None if file.is_empty() => FileKind::Empty,
        None => FileKind::NoElf,
    }
}

/// Reads the notes of a file up to the first that is cut, and returns the damage to them.
fn read_notes<'data>(
    file: &'data [u8],
    headers: &[ProgramHeader],
) -> (Vec<ElfNote<'data>>, Option<CoreError>) {
    // Linux, QEMU and nmiscope write one such segment.
    let header = headers.iter().find(|header| header.kind == PT_NOTE);
    let (begin, length) = header.map_or((0, 0), |header| (header.offset, header.file_size));
    let end = begin.saturating_add(length);
    let in_file = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(file.len());
    let segment = &file[in_file(begin)..in_file(end)];
    let (notes, whole) = notes::parse(segment);
    let fault = if segment.len() as u64 != length {
        Some(CoreError::Truncated { what: "the notes", end, length: file.len() as u64 })
    } else if !whole {
        Some(CoreError::Malformed("its notes are damaged"))
    } else {
        None
    };
    (notes, fault)
}
