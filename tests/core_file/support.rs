//! Memory and registers to make cores of, and access to a core's parts.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, Write as _};

use nmiscope::elf_core::{CoreContents, CpuRegisters, Extent, Extents, WrittenCore, write};
use nmiscope_machine::{
    Mapping, PhysicalAddress, PhysicalMemory, ReadError, UserRegisters, VirtualAddress,
};
use object::LittleEndian as LE;
use object::elf::{FileHeader64, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

pub const PAGE: u64 = 4096;

/// Memory as 4 KiB pages by number; other pages cannot be read.
#[derive(Debug, Clone, Default)]
pub struct Pages(pub BTreeMap<u64, Vec<u8>>);

impl Pages {
    pub fn set(&mut self, page: u64, bytes: &[u8]) {
        let mut whole = bytes.to_vec();
        whole.resize(PAGE as usize, 0);
        self.0.insert(page, whole);
    }
}

impl PhysicalMemory for Pages {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        for (at, byte) in (address.0..).zip(buffer) {
            let page = self.0.get(&(at / PAGE));
            *byte = page.ok_or(ReadError::Unbacked { address, length })?[(at % PAGE) as usize];
        }
        Ok(())
    }
}

pub fn extents(ranges: &[(u64, u64)]) -> Extents {
    let extent = |&(start, length)| Extent { start: PhysicalAddress(start), length };
    ranges.iter().map(extent).collect()
}

pub fn view(virtual_start: u64, physical_start: u64, length: u64) -> Mapping {
    Mapping {
        virtual_start: VirtualAddress(virtual_start),
        physical_start: PhysicalAddress(physical_start),
        length,
    }
}

/// Returns registers that all have different values, so that a mix-up shows.
pub fn registers(cpu: u32) -> CpuRegisters {
    let n = u64::from(cpu) << 32;
    let registers = UserRegisters {
        r15: n + 15,
        r14: n + 14,
        r13: n + 13,
        r12: n + 12,
        rbp: n + 105,
        rbx: n + 103,
        r11: n + 11,
        r10: n + 10,
        r9: n + 9,
        r8: n + 8,
        rax: n + 100,
        rcx: n + 101,
        rdx: n + 102,
        rsi: n + 106,
        rdi: n + 107,
        orig_rax: u64::MAX,
        rip: n + 116,
        cs: 0x10,
        eflags: 2,
        rsp: n + 104,
        ss: 0x18,
        fs_base: n + 120,
        gs_base: n + 121,
        ds: 0,
        es: 0x20,
        fs: 0x28,
        gs: 0x30,
    };
    CpuRegisters { cpu, registers }
}

/// A core with each kind of contents: three extents, of which one is mapped twice, one once in part, and
/// one not at all; pages of zeros at both ends and in the middle.
pub struct Sample {
    pub memory: Pages,
    pub extents: Extents,
    pub views: Vec<Mapping>,
    pub cpus: Vec<CpuRegisters>,
}

pub const STACK: u64 = 0xffff_c900_0000_2000;
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

pub fn sample() -> Sample {
    let mut memory = Pages::default();
    for page in 0..64 {
        memory.set(page, &[]);
    }
    for page in [1, 2, 4, 8, 33] {
        memory.set(page, &page.to_le_bytes().repeat(512));
    }
    Sample {
        memory,
        extents: extents(&[(0, 6 * PAGE), (8 * PAGE, PAGE + 100), (32 * PAGE, 4 * PAGE)]),
        views: vec![
            view(STACK, 2 * PAGE, 2 * PAGE),
            view(DIRECT_MAP, 0, 16 * PAGE),
            view(0xffff_ffff_8000_0000, 34 * PAGE, PAGE),
        ],
        cpus: vec![registers(0), registers(3)],
    }
}

impl Sample {
    pub fn contents(&self) -> CoreContents<'_> {
        CoreContents {
            cpus: &self.cpus,
            note: b"everything else",
            vmcoreinfo: Some(b"OSRELEASE=6.1\n"),
            build_id: Some(&[0xab; 20]),
            extents: &self.extents,
            views: &self.views,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        written(&self.contents(), &self.memory).1
    }
}

/// Writes a core, and returns the file's bytes.
pub fn written(contents: &CoreContents<'_>, memory: &Pages) -> (WrittenCore, Vec<u8>) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    // The file's old contents must be gone.
    file.write_all(&[0xcc; 100_000]).expect("room");
    let written = write(&file, contents, memory).expect("a core");
    file.rewind().expect("a file");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("the core");
    assert_eq!(written.bytes, bytes.len() as u64);
    (written, bytes)
}

pub fn read(memory: &impl PhysicalMemory, start: u64, length: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0xee; length as usize];
    memory.read(PhysicalAddress(start), &mut bytes).map(|()| bytes)
}

/// Returns the bytes that a debugger reads at a virtual address: those of the first segment that has it.
pub fn through_segments(file: &[u8], address: u64, length: u64) -> Option<&[u8]> {
    let segments = program_headers(file).into_iter().filter(|header| header.p_type(LE) == PT_LOAD);
    for header in segments {
        if let Some(within) = address.checked_sub(header.p_vaddr(LE))
            && within + length <= header.p_filesz(LE)
        {
            return Some(&file[(header.p_offset(LE) + within) as usize..][..length as usize]);
        }
    }
    None
}

pub fn program_headers(file: &[u8]) -> Vec<ProgramHeader64<LE>> {
    let header = FileHeader64::<LE>::parse(file).expect("an ELF file");
    header.program_headers(LE, file).expect("program headers").to_vec()
}
