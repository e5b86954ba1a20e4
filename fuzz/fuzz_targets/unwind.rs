//! Registers, a stack and call frame information from anybody. The input: RIP as an offset in the code;
//! RSP, RBP and RBX as offsets in the stack; the kind of section; the section's length and bytes; the
//! stack.

#![no_main]

#[path = "../../symbolizer/tests/common/elf.rs"]
mod elf;

use elf::{Compression, TEXT};
use libfuzzer_sys::fuzz_target;
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{Image, MAX_FRAMES, Unwinder};

const STACK: u64 = 0xffff_c900_0000_4000;

struct Stack<'data>(&'data [u8]);

impl VirtualMemory for Stack<'_> {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let from = address.0.checked_sub(STACK).and_then(|from| usize::try_from(from).ok());
        let bytes = from.and_then(|from| self.0.get(from..from.checked_add(length)?));
        buffer.copy_from_slice(bytes.ok_or(ReadError::Wraps { address, length })?);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_at_checked(11) else { return };
    let short = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let Some((section, stack)) = rest.split_at_checked(short(9) as usize) else { return };
    let name = [".eh_frame", ".debug_frame"][usize::from(head[8] & 1)];
    let bytes = elf::elf(&[(name, section.to_vec())], &[], Compression::None);
    let Ok(image) = Image::parse(&bytes) else { return };
    let mut registers =
        UnwindRegisters::new(VirtualAddress(TEXT + short(0)), VirtualAddress(STACK + short(2)));
    if head[8] & 2 == 0 {
        registers.set(Register::Rbp, STACK + short(4));
        registers.set(Register::Rbx, STACK + short(6));
    }
    let trace = Unwinder::new(&image).unwind(&registers, &Stack(stack));
    assert!((1..=MAX_FRAMES).contains(&trace.frames.len()));
    let _ = (trace.end.to_string(), format!("{trace:?}"));
});
