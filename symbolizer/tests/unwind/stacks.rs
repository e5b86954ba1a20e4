//! The functions that lie on the stacks, images with their CFI, and a trace in the form that tests
//! compare.

use gimli::write::{CallFrameInstruction as Cfi, Expression};
use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress};
use nmiscope_symbolizer::{Image, ProgramCounter, Strategy, Trace, Unwinder};

use crate::cfi::{
    Function, RBP, RBX, RIP, RSP, Words, debug_frame, eh_frame, eh_frame_hdr, function,
};
use crate::elf::{self, Compression, Section, TEXT};

/// The functions, by their offsets from TEXT.
pub const LEAF: u64 = 0x100;
pub const FRAMED: u64 = 0x200;
pub const SIZED: u64 = 0x300;
pub const TRAP: u64 = 0x400;
pub const START: u64 = 0x500;
pub const SCHEDULER: u64 = 0x600;
pub const ABORTING: u64 = 0x700;
pub const BROKEN: u64 = 0x800;
/// Offset of code without CFI.
pub const BARE: u64 = 0x900;

pub const STACK: u64 = 0xffff_c900_0000_4000;
pub const OTHER_STACK: u64 = 0xffff_c900_0010_0000;

pub fn functions() -> Vec<Function> {
    let mut trap = function(
        TRAP,
        0x40,
        vec![
            // As the guest's entry.S: SS, RSP, RFLAGS, CS, RIP were pushed, then an error code, then
            // RBX.
            (0, Cfi::Cfa(RSP, 48)),
            (0, Cfi::Offset(RIP, -40)),
            (0, Cfi::Offset(RSP, -16)),
            (1, Cfi::CfaOffset(56)),
            (1, Cfi::Offset(RBX, -56)),
        ],
    );
    trap.is_signal_frame = true;
    let mut saved = Expression::new();
    // The RSP that was saved in a structure that RBX points at.
    saved.op_breg(RBX, 0x18);
    saved.op_deref();
    vec![
        // ret
        function(LEAF, 0x10, vec![]),
        // push rbp; mov rbp, rsp; ... pop rbp; ret
        function(
            FRAMED,
            0x40,
            vec![
                (1, Cfi::CfaOffset(16)),
                (1, Cfi::Offset(RBP, -16)),
                (4, Cfi::CfaRegister(RBP)),
                (0x30, Cfi::Cfa(RSP, 8)),
                (0x30, Cfi::Restore(RBP)),
            ],
        ),
        // push rbx; sub rsp, 0x20; ...
        function(
            SIZED,
            0x40,
            vec![(1, Cfi::CfaOffset(16)), (1, Cfi::Offset(RBX, -16)), (5, Cfi::CfaOffset(48))],
        ),
        trap,
        // A function that nothing called.
        function(START, 0x10, vec![(0, Cfi::Undefined(RIP))]),
        function(SCHEDULER, 0x10, vec![(0, Cfi::CfaExpression(saved))]),
        // sub rsp, 0x18; call abort; and not one byte more
        function(ABORTING, 0x9, vec![(4, Cfi::CfaOffset(32))]),
        // The CFA comes from a register that is never known.
        function(BROKEN, 0x10, vec![(0, Cfi::Cfa(gimli::X86_64::XMM0, 8))]),
    ]
}

/// The same functions with the three ways to find their CFI.
pub fn images() -> [(&'static str, Vec<u8>); 3] {
    let eh_frame = eh_frame(&functions());
    let header = eh_frame_hdr(&eh_frame.1);
    [
        ("header", image(&[eh_frame.clone(), header])),
        ("index", image(&[eh_frame])),
        ("debug_frame", image(&[debug_frame(&functions())])),
    ]
}

pub fn image(sections: &[Section]) -> Vec<u8> {
    elf::elf(sections, &[], Compression::None)
}

pub fn registers(pc: u64, sp: u64, others: &[(Register, u64)]) -> UnwindRegisters {
    let mut registers = UnwindRegisters::new(VirtualAddress(pc), VirtualAddress(sp));
    for &(register, value) in others {
        registers.set(register, value);
    }
    registers
}

pub fn unwind(image: &[u8], registers: &UnwindRegisters, memory: &Words) -> Trace {
    let image = Image::parse(image).expect("an image");
    Unwinder::new(&image).unwind(registers, memory)
}

pub fn pcs(trace: &Trace) -> Vec<ProgramCounter> {
    trace.frames.iter().map(|frame| frame.pc).collect()
}

pub fn strategies(trace: &Trace) -> Vec<Strategy> {
    trace.frames.iter().map(|frame| frame.strategy).collect()
}

pub const fn text(offset: u64) -> VirtualAddress {
    VirtualAddress(TEXT + offset)
}
