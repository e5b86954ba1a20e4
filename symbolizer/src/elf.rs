//! The ELF container: headers, sections, notes.
//!
//! Owns the checks that decide whether bytes are an image at all, and finding sections by name. Reads
//! headers only: no symbols, no debug sections and no relocations, so parsing costs the same for an image
//! of any size. Called by `image`, `symbols` and `dwarf`.

use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::read::elf::{
    CompressionHeader, FileHeader, NoteIterator, ProgramHeader, SectionHeader,
};
use object::{CompressionFormat, LittleEndian};

use nmiscope_machine::VirtualAddress;

use crate::dwarf::InflationBudget;
pub use links::{SupplementaryLink, build_id};
pub(crate) use symbol_table::SymbolTable;

mod links;
mod symbol_table;

const LE: LittleEndian = LittleEndian;
/// Longest section name that is compared, in bytes; no name that this crate looks for comes near it.
const MAX_SECTION_NAME: usize = 64;
/// Notes that are searched for a build-id. Images have a handful.
const MAX_NOTES: usize = 256;

/// Prefix of the names of compressed debug sections before ELF had SHF_COMPRESSED.
pub(crate) const ZDEBUG: &[u8] = b".zdebug_";

pub(crate) type ElfSymbol = Sym64<LittleEndian>;

/// The reason why bytes are not a usable image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The file does not begin with the ELF magic.
    #[error("read the image: not an ELF file")]
    NotElf,
    /// The file is a 32-bit ELF file.
    #[error("read the image: a 32-bit ELF file, and only 64-bit ones are supported")]
    Not64Bit,
    /// The file is a big-endian ELF file.
    #[error("read the image: a big-endian ELF file, and only little-endian ones are supported")]
    BigEndian,
    /// The file is for another CPU than x86-64.
    #[error("read the image: built for ELF machine {machine}, not for x86-64 (62)")]
    NotX86_64 {
        /// The header's e_machine (System V gABI, chapter 4).
        machine: u16,
    },
    /// The file is no executable or shared object, but a core, or an object file that was not linked.
    #[error("read the image: ELF type {kind} is neither an executable nor a shared object")]
    NotExecutable {
        /// The header's e_type (System V gABI, chapter 4).
        kind: u16,
    },
    /// The file is no relocatable object, as a kernel module's `.ko` is.
    #[error("read the module: ELF type {kind} is no relocatable object (1)")]
    NotRelocatable {
        /// The header's e_type (System V gABI, chapter 4).
        kind: u16,
    },
    /// A part of the file is larger than the guest could hold.
    #[error("read the image: {what} are larger than {limit} bytes")]
    TooLarge {
        /// The name of the part that is too large.
        what: &'static str,
        /// The most that is accepted, in bytes.
        limit: u64,
    },
    /// The headers name bytes beyond the end of the file: it is truncated.
    #[error("read the image: truncated, {what} ends at byte {end} of {length}")]
    Truncated {
        /// The name of the part that lies beyond the end.
        what: &'static str,
        /// The end of that part, in bytes from the start of the file.
        end: u64,
        /// The length of the file in bytes.
        length: u64,
    },
    /// A header is inconsistent and cannot be parsed.
    #[error("read the {what} of the image")]
    Malformed {
        /// The name of the header.
        what: &'static str,
        /// The parser's error for the header.
        #[source]
        source: object::Error,
    },
}

/// The debug file that a stripped image names in `.gnu_debuglink`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugLink<'data> {
    /// The file name, without a directory. It comes from the image: check it before using it as a path.
    pub name: &'data [u8],
    /// CRC-32 (IEEE 802.3) of the debug file's bytes.
    pub crc: u32,
}

impl DebugLink<'_> {
    /// True if `file` is the debug file that the image names, by its checksum. Reads all of it.
    pub fn matches(&self, file: &[u8]) -> bool {
        crc32fast::hash(file) == self.crc
    }
}

/// The bytes of a named section, as they lie in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectionData<'data> {
    pub(crate) bytes: &'data [u8],
    /// The guest-virtual address as linked; 0 for a section that is not loaded.
    pub(crate) address: u64,
    /// The compression format, and the uncompressed size that the header claims; `None` for plain bytes.
    pub(crate) compression: Option<(CompressionFormat, u64)>,
}

/// A parsed ELF header. Everything else is read from the file when it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Elf<'data> {
    data: &'data [u8],
    sections: &'data [SectionHeader64<LittleEndian>],
    section_names: &'data [u8],
    /// Address ranges that the image occupies in memory, and the ones that are code: begin and exclusive
    /// end, merged.
    loaded: Vec<(u64, u64)>,
    text: Vec<(u64, u64)>,
    inflation: InflationBudget,
}

impl<'data> Elf<'data> {
    pub(crate) fn parse(data: &'data [u8]) -> Result<Self, ElfError> {
        check_identity(data)?;
        Self::parse_object(data)
    }

    /// Reads the headers of a file of any type, as a `.dwo` file's is that of an object.
    pub(crate) fn parse_object(data: &'data [u8]) -> Result<Self, ElfError> {
        let header = check_header(data)?;
        let malformed = |what| move |source| ElfError::Malformed { what, source };
        check_end("the section header table", header.e_shoff(LE), data)?;
        check_end("the program header table", header.e_phoff(LE), data)?;
        let segments = header.program_headers(LE, data).map_err(malformed("program headers"))?;
        let sections = header.section_headers(LE, data).map_err(malformed("section headers"))?;
        let section_names = header
            .shstrndx(LE, data)
            .ok()
            .and_then(|index| sections.get(index as usize)?.data(LE, data).ok())
            .unwrap_or_default();

        let mut elf = Self {
            data,
            sections,
            section_names,
            loaded: Vec::new(),
            text: Vec::new(),
            inflation: InflationBudget::for_file(data.len()),
        };
        for segment in segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD) {
            let (begin, size) = (segment.p_vaddr(LE), segment.p_memsz(LE));
            elf.loaded.push((begin, begin.saturating_add(size)));
            if segment.p_flags(LE).contains(elf::PF_X) {
                elf.text.push((begin, begin.saturating_add(size)));
            }
        }
        // Sections say more precisely what is code, where there are any.
        let text: Vec<_> = sections
            .iter()
            .filter(|section| section.sh_flags(LE).contains(elf::SHF_ALLOC | elf::SHF_EXECINSTR))
            .map(|section| {
                let begin = section.sh_addr(LE);
                (begin, begin.saturating_add(section.sh_size(LE)))
            })
            .collect();
        if !text.is_empty() {
            elf.text = text;
        }
        merge(&mut elf.loaded);
        merge(&mut elf.text);
        Ok(elf)
    }

    /// True if the file names the sections of code and has the bytes of none: a debug file that was split
    /// from an image (`eu-strip -f`, `objcopy --only-keep-debug`).
    pub(crate) fn is_debug_file(&self) -> bool {
        let code = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
        let mut code = self.sections.iter().filter(|s| s.sh_flags(LE).contains(code)).peekable();
        code.peek().is_some() && code.all(|section| section.sh_type(LE) == elf::SHT_NOBITS)
    }

    /// Checks that every loaded byte is in the file. The program headers of a debug file describe the
    /// image that it was split from, and are not checked.
    pub(crate) fn check_segments(&self) -> Result<(), ElfError> {
        let header = check_identity(self.data)?;
        let segments = header
            .program_headers(LE, self.data)
            .map_err(|source| ElfError::Malformed { what: "program headers", source })?;
        if self.is_debug_file() {
            return Ok(());
        }
        for segment in segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD) {
            let end = segment.p_offset(LE).saturating_add(segment.p_filesz(LE));
            check_end("a loaded segment", end, self.data)?;
        }
        Ok(())
    }

    /// Finds a section by its name; a debug section also by the older name of a compressed one.
    pub(crate) fn section(&self, name: &str) -> Option<SectionData<'data>> {
        let named = |prefix: &[u8], rest: &str| {
            self.sections.iter().find(|section| {
                let name = name_of(section, self.section_names).strip_prefix(prefix);
                name == Some(rest.as_bytes())
            })
        };
        let section = named(b"", name)
            .or_else(|| name.strip_prefix(".debug_").and_then(|rest| named(ZDEBUG, rest)))?;
        let address = section.sh_addr(LE);
        Some(match compressed(section, self.section_names, self.data) {
            Some((bytes, format, size)) => {
                SectionData { bytes, address, compression: Some((format, size)) }
            }
            None => {
                let bytes = section.data(LE, self.data).ok()?;
                SectionData { bytes, address, compression: None }
            }
        })
    }

    /// The bytes of the file from a loaded address to the end of its section. `None` for an address in no
    /// section, and in one whose bytes are not in the file.
    pub(crate) fn loaded_bytes(&self, address: VirtualAddress) -> Option<&'data [u8]> {
        let section = self.sections.iter().find(|section| {
            let begin = section.sh_addr(LE);
            section.sh_flags(LE).contains(elf::SHF_ALLOC)
                && address.0.checked_sub(begin).is_some_and(|offset| offset < section.sh_size(LE))
        })?;
        let offset = usize::try_from(address.0 - section.sh_addr(LE)).ok()?;
        section.data(LE, self.data).ok()?.get(offset..)
    }

    /// The static symbol table, or the dynamic one of an image that has no other.
    pub(crate) fn symbol_table(&self) -> Option<SymbolTable<'data>> {
        let mut kinds = [elf::SHT_SYMTAB, elf::SHT_DYNSYM].into_iter();
        kinds.find_map(|kind| SymbolTable::find(self.sections, kind, self.data))
    }

    /// True if there is a full symbol table, not only the one for dynamic linking.
    pub(crate) fn has_static_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.sh_type(LE) == elf::SHT_SYMTAB)
    }

    /// The address range of a section that is part of the loaded image.
    pub(crate) fn allocated_section(&self, index: usize) -> Option<(u64, u64)> {
        let section = self.sections.get(index)?;
        let begin = section.sh_addr(LE);
        section
            .sh_flags(LE)
            .contains(elf::SHF_ALLOC)
            .then(|| (begin, begin.saturating_add(section.sh_size(LE))))
    }

    pub(crate) fn build_id(&self) -> Option<&'data [u8]> {
        let mut budget = MAX_NOTES;
        for section in self.sections.iter().filter(|s| s.sh_type(LE) == elf::SHT_NOTE) {
            let Ok(Some(mut notes)) = section.notes(LE, self.data) else {
                continue;
            };
            if let Some(id) = build_id_in(&mut notes, &mut budget) {
                return Some(id);
            }
        }
        // Without sections, as in a fully stripped image, the segments still have it.
        let header = check_identity(self.data).ok()?;
        for segment in header.program_headers(LE, self.data).ok()? {
            let Ok(Some(mut notes)) = segment.notes(LE, self.data) else {
                continue;
            };
            if let Some(id) = build_id_in(&mut notes, &mut budget) {
                return Some(id);
            }
        }
        None
    }

    /// The address of the build-id, in bytes that are loaded.
    pub(crate) fn build_id_address(&self) -> Option<VirtualAddress> {
        let id = self.build_id()?;
        // It is a part of the file.
        let at = (id.as_ptr() as usize).checked_sub(self.data.as_ptr() as usize)? as u64;
        let header = check_identity(self.data).ok()?;
        let segments = header.program_headers(LE, self.data).ok()?;
        let mut loads = segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD);
        loads.find_map(|segment| {
            let within = at.checked_sub(segment.p_offset(LE))?;
            let end = within.checked_add(id.len() as u64)?;
            let address = segment.p_vaddr(LE).checked_add(within)?;
            (end <= segment.p_filesz(LE)).then_some(VirtualAddress(address))
        })
    }

    /// The budget of memory for decompressed sections, which all of the file share.
    pub(crate) fn inflation_budget(&self) -> &InflationBudget {
        &self.inflation
    }

    pub(crate) fn is_loaded(&self, address: VirtualAddress) -> bool {
        contains(&self.loaded, address.0)
    }

    pub(crate) fn is_text(&self, address: VirtualAddress) -> bool {
        contains(&self.text, address.0)
    }

    pub(crate) fn text(&self) -> &[(u64, u64)] {
        &self.text
    }
}

/// Sorts ranges and joins those that touch, so that they can be searched.
fn merge(ranges: &mut Vec<(u64, u64)>) {
    ranges.retain(|&(begin, end)| begin < end);
    ranges.sort_unstable();
    ranges.dedup_by(|next, previous| {
        let touches = next.0 <= previous.1;
        if touches {
            previous.1 = previous.1.max(next.1);
        }
        touches
    });
}

/// True if one of these merged ranges holds `address`.
pub(crate) fn contains(ranges: &[(u64, u64)], address: u64) -> bool {
    let after = ranges.partition_point(|&(begin, _)| begin <= address);
    ranges[..after].last().is_some_and(|&(_, end)| address < end)
}

/// The name of a section, cut to [`MAX_SECTION_NAME`] bytes.
pub(crate) fn name_of<'data>(
    section: &SectionHeader64<LittleEndian>,
    names: &'data [u8],
) -> &'data [u8] {
    let rest = names.get(section.sh_name(LE) as usize..).unwrap_or_default();
    let bounded = &rest[..rest.len().min(MAX_SECTION_NAME)];
    let end = bounded.iter().position(|&byte| byte == 0).unwrap_or(bounded.len());
    &bounded[..end]
}

/// The bytes of a compressed section, their format, and the uncompressed size that its header claims.
/// `None` for a section that is not compressed.
pub(crate) fn compressed<'data>(
    section: &SectionHeader64<LittleEndian>,
    names: &[u8],
    data: &'data [u8],
) -> Option<(&'data [u8], CompressionFormat, u64)> {
    if name_of(section, names).starts_with(ZDEBUG) {
        // "ZLIB", the uncompressed size in 8 bytes, most significant first, and a zlib stream
        // (binutils, gas/doc/as.texi, `--compress-debug-sections=zlib-gnu`).
        let (size, bytes) =
            section.data(LE, data).ok()?.strip_prefix(b"ZLIB")?.split_first_chunk()?;
        return Some((bytes, CompressionFormat::Zlib, u64::from_be_bytes(*size)));
    }
    let (header, offset, size) = section.compression(LE, data).ok()??;
    let format = match header.ch_type(LE) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => CompressionFormat::Unknown,
    };
    let start = usize::try_from(offset).ok()?;
    let bytes = data.get(start..start.checked_add(usize::try_from(size).ok()?)?)?;
    Some((bytes, format, header.ch_size(LE)))
}

fn check_identity(data: &[u8]) -> Result<&FileHeader64<LittleEndian>, ElfError> {
    let header = check_header(data)?;
    let kind = header.e_type(LE);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(ElfError::NotExecutable { kind: kind.0 });
    }
    Ok(header)
}

/// Checks and returns the header of an ELF64 x86-64 file of any type.
pub(crate) fn check_header(data: &[u8]) -> Result<&FileHeader64<LittleEndian>, ElfError> {
    if !data.starts_with(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    match data.get(4) {
        Some(&class) if class != elf::ELFCLASS64.0 => return Err(ElfError::Not64Bit),
        _ => {}
    }
    match data.get(5) {
        Some(&encoding) if encoding == elf::ELFDATA2MSB.0 => return Err(ElfError::BigEndian),
        _ => {}
    }
    check_end("the ELF header", size_of::<FileHeader64<LittleEndian>>() as u64, data)?;
    let header = FileHeader64::<LittleEndian>::parse(data)
        .map_err(|source| ElfError::Malformed { what: "ELF header", source })?;
    let machine = header.e_machine(LE);
    if machine != elf::EM_X86_64 {
        return Err(ElfError::NotX86_64 { machine: machine.0 });
    }
    Ok(header)
}

fn check_end(what: &'static str, end: u64, data: &[u8]) -> Result<(), ElfError> {
    let length = data.len() as u64;
    if end > length { Err(ElfError::Truncated { what, end, length }) } else { Ok(()) }
}

fn build_id_in<'data>(
    notes: &mut NoteIterator<'data, FileHeader64<LittleEndian>>,
    budget: &mut usize,
) -> Option<&'data [u8]> {
    while *budget > 0 {
        *budget -= 1;
        let note = notes.next().ok()??;
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc());
        }
    }
    None
}
