//! Images from anybody: addresses are looked up, variables and types found by name and read through, and
//! the variables of a frame listed.

#![no_main]

#[path = "../../symbolizer/tests/common/exercise.rs"]
mod exercise;

use libfuzzer_sys::fuzz_target;
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{Image, ProgramCounter, Strategy, Types, UnwoundFrame, Variables};

/// The address of the seeds' code.
const TEXT: u64 = 0xffff_ffff_8000_1000;

/// Memory that reads as its own addresses; every seventh cannot be read.
struct Echo;

impl VirtualMemory for Echo {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        if address.0 % 7 == 3 {
            return Err(ReadError::Wraps { address, length: buffer.len() });
        }
        for (byte, value) in buffer.iter_mut().zip(address.0.to_le_bytes().into_iter().cycle()) {
            *byte = value;
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::parse(data) else { return };
    let _ = (image.build_id(), image.debuglink(), image.symbol("after"));
    for offset in (0..0x400).step_by(0x20) {
        let _ = image.frames(ProgramCounter::Interrupted(VirtualAddress(TEXT + offset)));
    }
    let _ = image.frames(ProgramCounter::Return(VirtualAddress(0)));
    let Ok(types) = Types::new(&image) else { return };
    exercise::types(&types, &Echo);
    for offset in [0x100, 0x148, 0x150, 0x200] {
        let pc = ProgramCounter::Interrupted(VirtualAddress(TEXT + offset));
        let stack = VirtualAddress(0xffff_c900_0000_4000);
        let mut registers = UnwindRegisters::new(pc.address(), stack);
        registers.set(Register::Rbp, stack.0 + 0x40);
        let (strategy, cfa) = (Strategy::Registers, Some(stack));
        let frame =
            UnwoundFrame { pc, strategy, registers, cfa, is_signal_frame: false, cfi_fault: None };
        for function in Variables::new(&types).in_frame(&frame, &Echo).into_iter().flatten() {
            for variable in &function.variables {
                let _ = variable.value.to_string();
            }
        }
    }
});
