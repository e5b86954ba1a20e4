//! Call frame information and stacks made by hand.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;

use gimli::write::{
    Address, CallFrameInstruction as Cfi, CommonInformationEntry, DebugFrame, EhFrame, EndianVec,
    FrameDescriptionEntry, FrameTable,
};
use gimli::{Encoding, Format, LittleEndian, Register as Dwarf, X86_64};
use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};

use crate::elf::{EH_FRAME, EH_FRAME_HDR, Section, TEXT};

/// A function: its offset from TEXT, its length, and CFI instructions by offset from its start.
pub struct Function {
    pub at: u64,
    pub length: u32,
    pub is_signal_frame: bool,
    pub instructions: Vec<(u32, Cfi)>,
}

pub const RBP: Dwarf = X86_64::RBP;
pub const RSP: Dwarf = X86_64::RSP;
pub const RBX: Dwarf = X86_64::RBX;
pub const RIP: Dwarf = X86_64::RA;

pub fn function(at: u64, length: u32, instructions: Vec<(u32, Cfi)>) -> Function {
    Function { at, length, is_signal_frame: false, instructions }
}

fn table(functions: &[Function], base: u64, pc_relative: bool) -> FrameTable {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 1 };
    let mut table = FrameTable::default();
    for function in functions {
        // The rules at the first instruction of any function: CFA is RSP+8 and RIP is at CFA-8.
        let mut cie = CommonInformationEntry::new(encoding, 1, -8, RIP);
        cie.signal_trampoline = function.is_signal_frame;
        if pc_relative {
            cie.fde_address_encoding = gimli::DwEhPe(0x1b);
        }
        cie.add_instruction(Cfi::Cfa(RSP, 8));
        cie.add_instruction(Cfi::Offset(RIP, -8));
        let cie = table.add_cie(cie);
        let address = Address::Constant((TEXT + function.at).wrapping_sub(base));
        let mut fde = FrameDescriptionEntry::new(address, function.length);
        for (offset, instruction) in &function.instructions {
            fde.add_instruction(*offset, instruction.clone());
        }
        table.add_fde(cie, fde);
    }
    table
}

pub fn eh_frame(functions: &[Function]) -> Section {
    let mut section = EhFrame(EndianVec::new(LittleEndian));
    table(functions, EH_FRAME, true).write_eh_frame(&mut section).expect("CFI");
    let mut bytes = section.0.into_vec();
    bytes.extend_from_slice(&[0; 4]);
    (".eh_frame", bytes)
}

pub fn debug_frame(functions: &[Function]) -> Section {
    let mut section = DebugFrame(EndianVec::new(LittleEndian));
    table(functions, 0, false).write_debug_frame(&mut section).expect("CFI");
    (".debug_frame", section.0.into_vec())
}

/// Makes the sorted table of an `.eh_frame`, as linkers write it: begin and entry, relative to the table.
pub fn eh_frame_hdr(eh_frame: &[u8]) -> Section {
    use gimli::UnwindSection;
    let bases = gimli::BaseAddresses::default().set_eh_frame(EH_FRAME);
    let section = gimli::EhFrame::new(eh_frame, LittleEndian);
    let mut entries = section.entries(&bases);
    let mut rows = Vec::new();
    while let Some(entry) = entries.next().expect("CFI") {
        if let gimli::CieOrFde::Fde(fde) = entry {
            let fde = fde.parse(gimli::EhFrame::cie_from_offset).expect("CFI");
            rows.push((fde.initial_address(), EH_FRAME + fde.offset() as u64));
        }
    }
    rows.sort_unstable();
    let mut bytes = vec![1, 0x1b, 0x03, 0x3b];
    let mut put = |address: u64, from: u64| {
        let relative = address.wrapping_sub(from).cast_signed();
        bytes.extend_from_slice(&i32::try_from(relative).expect("near").to_le_bytes());
    };
    put(EH_FRAME, EH_FRAME_HDR + 4);
    put(rows.len() as u64, 0);
    for (begin, entry) in rows {
        put(begin, EH_FRAME_HDR);
        put(entry, EH_FRAME_HDR);
    }
    (".eh_frame_hdr", bytes)
}

/// Memory of 8-byte words; all other addresses are unmapped.
#[derive(Default, Clone, Debug)]
pub struct Words(pub BTreeMap<u64, u64>);

impl Words {
    pub fn at(base: u64, words: &[u64]) -> Self {
        Self((base..).step_by(8).zip(words.iter().copied()).collect())
    }

    pub fn and(mut self, base: u64, words: &[u64]) -> Self {
        self.0.extend(Self::at(base, words).0);
        self
    }
}

pub fn unreadable(address: VirtualAddress, length: usize) -> ReadError {
    ReadError::Wraps { address, length }
}

impl VirtualMemory for Words {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        for (byte, at) in buffer.iter_mut().zip(address.0..) {
            let word = self.0.get(&(at & !7)).ok_or_else(|| unreadable(address, length))?;
            *byte = word.to_le_bytes()[(at % 8) as usize];
        }
        Ok(())
    }
}
