//! Notes: a name, a type and bytes (gABI, "Note Section"), and what is in those of a core.
//!
//! Names decide here, and types after them: binutils looks at the type alone where it does not know
//! the name, so that ours must not be one of those that Linux uses.

use nmiscope_machine::UserRegisters;

use super::FORMAT_VERSION;
use super::format::{put, u32_at, u64_at};

/// The name of NT_PRSTATUS and other notes that Linux writes in every core.
pub const CORE: &[u8] = b"CORE";
/// The type of the note with the registers of one vCPU, or one process.
pub const NT_PRSTATUS: u32 = 1;

/// The name and type that Linux gives the description of its own structures.
pub(super) const VMCOREINFO: &[u8] = b"VMCOREINFO";
const VMCOREINFO_TYPE: u32 = 0;

/// A build-id, as an image has it. gdb looks for the image by this one.
pub(super) const GNU: &[u8] = b"GNU";
pub(super) const NT_GNU_BUILD_ID: u32 = 3;

/// The name of the notes in which QEMU keeps the state of a vCPU, segments and control registers among it.
pub const QEMU: &[u8] = b"QEMU";

/// Our own: the type's bytes are "nmis".
pub(super) const OWN: &[u8] = b"nmiscope";
pub(super) const OWN_TYPE: u32 = u32::from_le_bytes(*b"nmis");

/// `struct elf_prstatus` of x86-64 Linux (include/linux/elfcore.h), in bytes.
const PRSTATUS_BYTES: usize = 336;
const PRSTATUS_PID: usize = 32;
const PRSTATUS_REGISTERS: usize = 112;

/// How many notes are looked at. A core has one for each vCPU and a few.
const MAX_NOTES: usize = 64 << 10;

/// The registers of one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuRegisters {
    /// Its number, from 0 on. It becomes thread `cpu + 1`, since debuggers want no thread 0.
    pub cpu: u32,
    /// Their values.
    pub registers: UserRegisters,
}

impl CpuRegisters {
    fn encode(&self) -> [u8; PRSTATUS_BYTES] {
        let mut out = [0; PRSTATUS_BYTES];
        put(&mut out, PRSTATUS_PID, &self.cpu.wrapping_add(1).to_le_bytes());
        for (index, word) in self.registers.to_words().into_iter().enumerate() {
            put(&mut out, PRSTATUS_REGISTERS + 8 * index, &word.to_le_bytes());
        }
        out
    }

    /// Reads a description of a core of ours; `None` if it is none: of another size, or without a thread
    /// number.
    pub(super) fn decode(description: &[u8]) -> Option<Self> {
        let (pid, registers) = decode_prstatus(description)?;
        Some(Self { cpu: pid.checked_sub(1)?, registers })
    }
}

/// Reads the description of an NT_PRSTATUS: `pr_pid`, which is what its writer makes of it, and the
/// registers. `None` if it is of another size.
pub fn decode_prstatus(description: &[u8]) -> Option<(u32, UserRegisters)> {
    if description.len() != PRSTATUS_BYTES {
        return None;
    }
    let pid = u32_at(description, PRSTATUS_PID)?;
    let mut words = [0; UserRegisters::COUNT];
    for (index, word) in words.iter_mut().enumerate() {
        *word = u64_at(description, PRSTATUS_REGISTERS + 8 * index)?;
    }
    Some((pid, UserRegisters::from_words(words)))
}

/// The notes of a core but ours, which follows them in its PT_NOTE. `None` if one is longer than a
/// note can be.
pub(super) fn encode(
    cpus: &[CpuRegisters],
    vmcoreinfo: Option<&[u8]>,
    build_id: Option<&[u8]>,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for cpu in cpus {
        push(&mut out, CORE, NT_PRSTATUS, &[&cpu.encode()])?;
    }
    if let Some(build_id) = build_id {
        push(&mut out, GNU, NT_GNU_BUILD_ID, &[build_id])?;
    }
    if let Some(vmcoreinfo) = vmcoreinfo {
        push(&mut out, VMCOREINFO, VMCOREINFO_TYPE, &[vmcoreinfo])?;
    }
    Some(out)
}

/// Our note.
pub(super) fn encode_own(contents: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    push(&mut out, OWN, OWN_TYPE, &[&FORMAT_VERSION.to_le_bytes(), &[0; 4], contents])?;
    Some(out)
}

/// Of our note, where its contents begin: after the version and four bytes that are zero.
pub(super) const OWN_HEADER: usize = 8;

fn push(out: &mut Vec<u8>, name: &[u8], kind: u32, description: &[&[u8]]) -> Option<()> {
    let length: usize = description.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(name.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    for part in description {
        out.extend_from_slice(part);
    }
    out.resize(out.len().next_multiple_of(4), 0);
    Some(())
}

/// One note, as it lies in the file.
#[derive(Debug, Clone, Copy)]
pub struct ElfNote<'data> {
    /// The name, without the NUL at its end.
    pub name: &'data [u8],
    /// The type.
    pub kind: u32,
    /// The contents.
    pub description: &'data [u8],
}

impl ElfNote<'_> {
    /// True for a note of that name and type.
    pub fn is(&self, name: &[u8], kind: u32) -> bool {
        (self.name, self.kind) == (name, kind)
    }

    pub(super) fn is_own(&self) -> bool {
        self.is(OWN, OWN_TYPE)
    }
}

/// The notes of a PT_NOTE segment up to the first that is cut, and whether that was all.
pub(super) fn parse(segment: &[u8]) -> (Vec<ElfNote<'_>>, bool) {
    let mut notes = Vec::new();
    let mut rest = segment;
    while !rest.is_empty() && notes.len() < MAX_NOTES {
        match split_note(rest) {
            Some((note, after)) => {
                notes.push(note);
                rest = after;
            }
            None => break,
        }
    }
    (notes, rest.is_empty())
}

fn split_note(bytes: &[u8]) -> Option<(ElfNote<'_>, &[u8])> {
    let name_length = u32_at(bytes, 0)? as usize;
    let length = u32_at(bytes, 4)? as usize;
    let kind = u32_at(bytes, 8)?;
    let (name, rest) = bytes.get(12..)?.split_at_checked(name_length)?;
    let rest = rest.get(name_length.next_multiple_of(4) - name_length..)?;
    let (description, rest) = rest.split_at_checked(length)?;
    // The padding of the last one may be missing.
    let padding = length.next_multiple_of(4) - length;
    let rest = rest.get(padding..).unwrap_or_default();
    Some((ElfNote { name: name.strip_suffix(b"\0").unwrap_or(name), kind, description }, rest))
}
