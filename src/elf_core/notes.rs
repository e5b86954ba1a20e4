//! Notes of a core: a name, a type and bytes (gABI, "Note Section").
//!
//! Owns their encoding and decoding, and the registers in NT_PRSTATUS. A note is recognised by its name and
//! then its type. binutils looks only at the type of a note with an unknown name, so nmiscope's own type
//! differs from those that Linux uses. Called by `read`, `write` and `own`.

use nmiscope_machine::UserRegisters;

use super::FORMAT_VERSION;
use super::format::{put, u32_at, u64_at};

/// Name of NT_PRSTATUS and other notes that Linux writes in every core.
pub const CORE: &[u8] = b"CORE";
/// Type of the note with the registers of one vCPU, or one process.
pub const NT_PRSTATUS: u32 = 1;

/// Name of the note in which Linux describes its own structures.
pub(super) const VMCOREINFO: &[u8] = b"VMCOREINFO";
const VMCOREINFO_TYPE: u32 = 0;

/// Name of the note with the image's build-id, as the image has it. gdb finds the image by this note.
pub(super) const GNU: &[u8] = b"GNU";
pub(super) const NT_GNU_BUILD_ID: u32 = 3;

/// Name of the notes with QEMU's state of a vCPU, including its segments and control registers.
pub const QEMU: &[u8] = b"QEMU";

/// Name of nmiscope's own note. The bytes of its type are "nmis".
pub(super) const OWN: &[u8] = b"nmiscope";
pub(super) const OWN_TYPE: u32 = u32::from_le_bytes(*b"nmis");

/// `struct elf_prstatus` of x86-64 Linux (include/linux/elfcore.h), in bytes.
const PRSTATUS_BYTES: usize = 336;
const PRSTATUS_PID: usize = 32;
const PRSTATUS_REGISTERS: usize = 112;

/// Largest number of notes that are read. A core has one for each vCPU, and a few others.
const MAX_NOTES: usize = 64 << 10;

/// General registers of one vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuRegisters {
    /// Number of the vCPU, from 0 on. It becomes thread `cpu + 1`, since debuggers reject a thread 0.
    pub cpu: u32,
    /// Values of the registers, in the order of NT_PRSTATUS.
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

    /// Decodes an NT_PRSTATUS that nmiscope wrote. `None` if it has another size or no thread number.
    pub(super) fn decode(description: &[u8]) -> Option<Self> {
        let (pid, registers) = decode_prstatus(description)?;
        Some(Self { cpu: pid.checked_sub(1)?, registers })
    }
}

/// Decodes an NT_PRSTATUS of any program: `pr_pid`, whose meaning depends on the program, and the
/// registers. `None` if it has another size.
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

/// Encodes the notes of a core except the own note, which follows them in the PT_NOTE. `None` if a note
/// is too long for the format.
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

/// Encodes nmiscope's own note. `None` if it is too long for the format.
pub(super) fn encode_own(contents: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    push(&mut out, OWN, OWN_TYPE, &[&FORMAT_VERSION.to_le_bytes(), &[0; 4], contents])?;
    Some(out)
}

/// Length of the own note's header in bytes: the version, and four bytes of zeros.
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

/// A note, over the bytes of its file.
#[derive(Debug, Clone, Copy)]
pub struct ElfNote<'data> {
    /// Name of the note, without the NUL at its end.
    pub name: &'data [u8],
    /// Type of the note, whose meaning depends on the name.
    pub kind: u32,
    /// Contents of the note, which the gABI calls its description.
    pub description: &'data [u8],
}

impl ElfNote<'_> {
    /// Returns true for a note with this name and type.
    pub fn is(&self, name: &[u8], kind: u32) -> bool {
        (self.name, self.kind) == (name, kind)
    }

    pub(super) fn is_own(&self) -> bool {
        self.is(OWN, OWN_TYPE)
    }
}

/// Parses the notes of a PT_NOTE segment up to the first that is cut. Also returns true if that was all of
/// the segment.
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
    // The last note's padding may be missing.
    let padding = length.next_multiple_of(4) - length;
    let rest = rest.get(padding..).unwrap_or_default();
    Some((ElfNote { name: name.strip_suffix(b"\0").unwrap_or(name), kind, description }, rest))
}
