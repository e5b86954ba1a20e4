//! Reader of the notes in a dump of QEMU's `dump-guest-memory`, by include/elf.h and QEMU's
//! target/i386/arch_dump.c.

use std::path::Path;

use nmiscope_machine::Segment;
use nmiscope_qemu::Qmp;
use serde_json::json;

use crate::vm::execute;

/// Registers of a vCPU in a dump. Registers that are in both notes have been compared.
pub struct Note {
    /// rax rbx rcx rdx rsi rdi rsp rbp r8 to r15 rip rflags.
    pub general: [u64; 18],
    /// cs ds es fs gs ss ldt tr gdt idt.
    pub segments: [Segment; 10],
    pub gdt_limit: u32,
    pub idt_limit: u32,
    /// Control registers: cr0, an unused slot, cr2 to cr4.
    pub control: [u64; 5],
}

/// Dumps a stopped VM and returns its notes by vCPU.
pub fn notes(qmp: &mut Qmp, path: &Path) -> Vec<Note> {
    // One page is enough: the notes cover every vCPU.
    let protocol = format!("file:{}", path.display());
    let arguments = json!({ "paging": false, "protocol": protocol, "begin": 0, "length": 4096 });
    execute(qmp, "dump-guest-memory", &arguments);
    let file = std::fs::read(path).expect("a dump");
    // The first program header is PT_NOTE.
    let header = u64_at(&file, 32) as usize;
    assert_eq!(u32_at(&file, header), 4);
    let (offset, size) = (u64_at(&file, header + 8) as usize, u64_at(&file, header + 32) as usize);
    let mut rest = &file[offset..offset + size];
    let (mut statuses, mut states) = (Vec::new(), Vec::new());
    while rest.len() >= 12 {
        let [name, length] = [u32_at(rest, 0), u32_at(rest, 4)].map(|n| n as usize);
        let descriptor = 12 + name.next_multiple_of(4);
        let bytes = &rest[descriptor..descriptor + length];
        match &rest[12..12 + name] {
            b"CORE\0" => statuses.push(bytes),
            b"QEMU\0" => states.push(state(bytes)),
            _ => {}
        }
        rest = &rest[descriptor + length.next_multiple_of(4)..];
    }
    assert_eq!(statuses.len(), states.len());
    // Outside long mode the NT_PRSTATUS notes are shorter, with 32-bit registers.
    let long = statuses.into_iter().zip(&states).filter(|(status, _)| status.len() == 336);
    for (status, state) in long {
        // NT_PRSTATUS has user_regs_struct at 112.
        let word = |index: usize| u64_at(status, 112 + 8 * index);
        assert_eq!(
            (word(10), word(5), word(16)),
            (state.general[0], state.general[1], state.general[16])
        );
        assert_eq!(word(19), state.general[6]);
    }
    states
}

fn state(note: &[u8]) -> Note {
    let segment = |index: usize| {
        let at = 152 + 24 * index;
        Segment { selector: u32_at(note, at) as u16, base: u64_at(note, at + 16) }
    };
    Note {
        general: std::array::from_fn(|index| u64_at(note, 8 + 8 * index)),
        segments: std::array::from_fn(segment),
        gdt_limit: u32_at(note, 152 + 24 * 8 + 4),
        idt_limit: u32_at(note, 152 + 24 * 9 + 4),
        control: std::array::from_fn(|index| u64_at(note, 392 + 8 * index)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
