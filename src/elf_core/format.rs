//! ELF's numbers, and the encoding and decoding of its structures: the gABI's chapters "ELF Header" and
//! "Program Header", for 64-bit little-endian x86-64 files only.
//!
//! Refuses to own the use of a field (`plan`, `write` and `read`, which call this).

/// Size of a page of memory in bytes, and the alignment of memory in the file.
pub(super) const PAGE: u64 = 4096;

pub(super) const EHDR_BYTES: usize = 64;
pub(super) const PHDR_BYTES: usize = 56;
pub(super) const SHDR_BYTES: usize = 64;

pub(super) const MAGIC: &[u8; 4] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EV_CURRENT: u8 = 1;
pub(super) const ET_CORE: u16 = 4;
pub(super) const EM_386: u16 = 3;
pub(super) const EM_X86_64: u16 = 62;
pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_NOTE: u32 = 4;
/// Flags of every segment: read, write and execute. The guest's page tables have the actual permissions.
pub(super) const PF_RWX: u32 = 7;
/// Value of e_phnum for a number of program headers that is in sh_info of section header 0.
pub(super) const PN_XNUM: u16 = 0xffff;

/// Largest number of program headers of a core, which have 56 MiB.
pub(super) const MAX_SEGMENTS: usize = 1 << 20;

/// Value of p_vaddr for memory without a virtual address: all ones, as kexec-tools writes it in kernel
/// crash dumps. gdb was observed to find nothing at it, for any length.
pub(super) const NO_VIRTUAL: u64 = u64::MAX;

/// The fields of an ELF header that are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub class: u8,
    pub data: u8,
    pub kind: u16,
    pub machine: u16,
    pub phoff: u64,
    pub shoff: u64,
    pub phentsize: u16,
    pub phnum: u16,
    pub shentsize: u16,
}

impl Header {
    /// Creates the header of a core with this number of program headers, which follow it.
    pub(super) fn for_core(segments: usize) -> Self {
        let extended = needs_section(segments);
        Self {
            class: CLASS_64,
            data: LITTLE_ENDIAN,
            kind: ET_CORE,
            machine: EM_X86_64,
            phoff: EHDR_BYTES as u64,
            shoff: if extended { (EHDR_BYTES + segments * PHDR_BYTES) as u64 } else { 0 },
            phentsize: PHDR_BYTES as u16,
            phnum: if extended { PN_XNUM } else { segments as u16 },
            shentsize: if extended { SHDR_BYTES as u16 } else { 0 },
        }
    }

    pub(super) fn encode(&self) -> [u8; EHDR_BYTES] {
        let mut out = [0; EHDR_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4..7].copy_from_slice(&[self.class, self.data, EV_CURRENT]);
        put(&mut out, 16, &self.kind.to_le_bytes());
        put(&mut out, 18, &self.machine.to_le_bytes());
        put(&mut out, 20, &u32::from(EV_CURRENT).to_le_bytes());
        put(&mut out, 32, &self.phoff.to_le_bytes());
        put(&mut out, 40, &self.shoff.to_le_bytes());
        put(&mut out, 52, &(EHDR_BYTES as u16).to_le_bytes());
        put(&mut out, 54, &self.phentsize.to_le_bytes());
        put(&mut out, 56, &self.phnum.to_le_bytes());
        put(&mut out, 58, &self.shentsize.to_le_bytes());
        put(&mut out, 60, &u16::from(self.shentsize != 0).to_le_bytes());
        out
    }

    /// Decodes the ELF header of a file, of any class and machine, as if it were 64-bit. `None` if the
    /// file has no ELF magic or is too short.
    pub(super) fn decode(file: &[u8]) -> Option<Self> {
        if !file.starts_with(MAGIC) || file.len() < EHDR_BYTES {
            return None;
        }
        Some(Self {
            class: file[4],
            data: file[5],
            kind: u16_at(file, 16)?,
            machine: u16_at(file, 18)?,
            phoff: u64_at(file, 32)?,
            shoff: u64_at(file, 40)?,
            phentsize: u16_at(file, 54)?,
            phnum: u16_at(file, 56)?,
            shentsize: u16_at(file, 58)?,
        })
    }

    pub(super) fn is_64_bit_little_endian(&self) -> bool {
        (self.class, self.data) == (CLASS_64, LITTLE_ENDIAN)
    }
}

/// Returns true if this number of program headers does not fit into e_phnum.
pub(super) fn needs_section(segments: usize) -> bool {
    segments >= usize::from(PN_XNUM)
}

/// Encodes section header 0 of a file whose number of program headers does not fit into e_phnum.
pub(super) fn counting_section(segments: usize) -> [u8; SHDR_BYTES] {
    let mut out = [0; SHDR_BYTES];
    put(&mut out, 44, &(segments as u32).to_le_bytes());
    out
}

/// Reads sh_info of the section header at file offset `offset`.
pub(super) fn section_info(file: &[u8], offset: u64) -> Option<u32> {
    u32_at(file, usize::try_from(offset).ok()?.checked_add(44)?)
}

/// The fields of a program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub file_size: u64,
    pub memory_size: u64,
    pub align: u64,
}

impl ProgramHeader {
    /// Offset of p_filesz in an encoded program header, in bytes.
    pub(super) const FILE_SIZE: usize = 32;

    pub(super) fn encode(&self) -> [u8; PHDR_BYTES] {
        let mut out = [0; PHDR_BYTES];
        put(&mut out, 0, &self.kind.to_le_bytes());
        put(&mut out, 4, &self.flags.to_le_bytes());
        let words = [
            self.offset,
            self.virtual_address,
            self.physical_address,
            self.file_size,
            self.memory_size,
            self.align,
        ];
        for (index, word) in words.iter().enumerate() {
            put(&mut out, 8 + 8 * index, &word.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            virtual_address: u64_at(bytes, 16)?,
            physical_address: u64_at(bytes, 24)?,
            file_size: u64_at(bytes, 32)?,
            memory_size: u64_at(bytes, 40)?,
            align: u64_at(bytes, 48)?,
        })
    }
}

/// Writes a field at offset `at` of `out`, a structure of fixed size that contains the field.
pub(super) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}
