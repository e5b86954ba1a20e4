//! Writes PVH ELF images, good ones and, field by field, bad ones. No VM, no KVM.
//!
//! Used by the live tests for their guests and by `boot::image`'s unit tests for their inputs.

/// A PT_LOAD segment of the image.
#[derive(Debug, Clone)]
pub struct LoadSegment {
    /// Guest-physical address of the first byte.
    pub at: u64,
    /// Size in memory in bytes; the part beyond `data` is zero.
    pub len: u64,
    pub data: Vec<u8>,
}

/// An ELF64 file: header, program headers, PVH note, segment data.
#[derive(Debug, Clone)]
pub struct PvhImage {
    pub segments: Vec<LoadSegment>,
    /// Entry point in the PVH note; `None` for an image without that note.
    pub entry: Option<u32>,
}

pub const EHDR: usize = 64;
pub const PHDR: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

impl PvhImage {
    /// Makes an image of one segment at 1 MiB, entered at its first byte.
    pub fn from_code(code: &[u8]) -> Self {
        let segment = LoadSegment { at: 0x10_0000, len: code.len() as u64, data: code.to_vec() };
        Self { segments: vec![segment], entry: Some(0x10_0000) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let note = self.entry.map(note);
        let count = self.segments.len() + usize::from(note.is_some());
        let mut headers = Vec::new();
        let mut body = Vec::new();
        let body_at = (EHDR + count * PHDR) as u64;
        if let Some(note) = &note {
            headers.extend(program_header(PT_NOTE, body_at, 0, note.len() as u64, 0));
            body.extend(note);
        }
        for LoadSegment { at, len, data } in &self.segments {
            let offset = body_at + body.len() as u64;
            headers.extend(program_header(PT_LOAD, offset, *at, data.len() as u64, *len));
            body.extend(data);
        }
        [elf_header(count as u16), headers, body].concat()
    }
}

fn elf_header(count: u16) -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    header.resize(16, 0);
    header.extend(2u16.to_le_bytes()); // ET_EXEC
    header.extend(62u16.to_le_bytes()); // EM_X86_64
    header.extend(1u32.to_le_bytes());
    header.extend(0u64.to_le_bytes()); // e_entry: PVH has its own
    header.extend((EHDR as u64).to_le_bytes()); // e_phoff
    header.extend(0u64.to_le_bytes()); // e_shoff
    header.extend(0u32.to_le_bytes());
    for half in [EHDR as u16, PHDR as u16, count, 64, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

fn program_header(kind: u32, offset: u64, at: u64, file_len: u64, len: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for word in [offset, at, at, file_len, len, 4] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// A note named "Xen" of type XEN_ELFNOTE_PHYS32_ENTRY.
fn note(entry: u32) -> Vec<u8> {
    let words = [4u32, 4, 18].map(u32::to_le_bytes).concat();
    [words, b"Xen\0".to_vec(), entry.to_le_bytes().to_vec()].concat()
}
