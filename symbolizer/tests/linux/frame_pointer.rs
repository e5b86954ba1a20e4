//! Stacks of a kernel without ORC: by frame pointers, worked out by hand, and by call frame information.

use std::collections::BTreeMap;

use gimli::write::CallFrameInstruction as Cfi;
use nmiscope_machine::{PhysicalAddress, ReadError, Register, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{KernelCode, OrcBase, OrcFrame, OrcRow, unwind};
use nmiscope_symbolizer::{End, Image, Strategy, Trace};

use crate::cfi::{RBX, debug_frame, function};
use crate::elf::{self, Compression, elf};

const TEXT: u64 = 0xffff_ffff_9a00_0000;
const STACK: u64 = 0xffff_c900_0000_0000;
/// The distance in bytes from one function to the next.
const EACH: u64 = 0x100;
const FUNCTIONS: u64 = 8;

/// A function of a kernel built with frame pointers: room for the tracer, `push %rbp`, `mov %rsp,%rbp`, `xor %eax,%eax`,
/// `pop %rbp`, `ret`.
const FRAMED: [u8; 16] = [
    0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0x5d,
];
const AFTER_PUSH: u64 = 10;
const AFTER_MOV: u64 = 13;
const AFTER_POP: u64 = 16;
/// Assembly without a frame: `xor %eax,%eax`, `ret`.
const FRAMELESS: [u8; 3] = [0x31, 0xc0, 0xc3];

/// The instructions of all functions, and the words of a stack by their addresses.
struct Memory {
    code: Vec<u8>,
    stack: BTreeMap<u64, u64>,
}

impl VirtualMemory for Memory {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let code = address.0.checked_sub(TEXT).and_then(|at| self.code.get(at as usize..));
        if let Some(bytes) = code.and_then(|code| code.get(..buffer.len())) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        let word = self.stack.get(&address.0).filter(|_| buffer.len() == 8);
        let word = word.ok_or(ReadError::Target {
            address: PhysicalAddress(address.0),
            length: buffer.len(),
            reason: "no word there".into(),
        })?;
        buffer.copy_from_slice(&word.to_le_bytes());
        Ok(())
    }
}

/// Code with an image or without, and with a row for function 0 or without.
struct Code<'a>(Option<(&'a Image<'a>, u64)>, Option<OrcRow>);

impl KernelCode for Code<'_> {
    fn row(&self, address: VirtualAddress) -> Option<OrcRow> {
        self.1.filter(|_| address.0 < TEXT + EACH)
    }

    fn wants_registers(&self) -> bool {
        self.1.is_some()
    }

    fn is_text(&self, address: VirtualAddress) -> bool {
        (TEXT..TEXT + FUNCTIONS * EACH).contains(&address.0)
    }

    fn function_start(&self, address: VirtualAddress) -> Option<VirtualAddress> {
        Some(VirtualAddress(address.0 & !(EACH - 1)))
    }

    fn image(&self, address: VirtualAddress) -> Option<(&Image<'_>, u64)> {
        self.is_text(address).then_some(self.0)?
    }
}

/// Functions 0 to 5 have frames that end in a `ret`, 6 one that ends in a jump to a return thunk, 7 has none.
fn memory(stack: &[(u64, u64)]) -> Memory {
    let mut code = vec![0xcc; (FUNCTIONS * EACH) as usize];
    for (number, function) in code.chunks_mut(EACH as usize).enumerate() {
        function[..FRAMED.len()].copy_from_slice(&FRAMED);
        function[FRAMED.len()] = if number == 6 { 0xe9 } else { 0xc3 };
        if number == 7 {
            function[..FRAMELESS.len()].copy_from_slice(&FRAMELESS);
        }
    }
    Memory { code, stack: stack.iter().copied().collect() }
}

fn in_function(number: u64, offset: u64) -> u64 {
    TEXT + number * EACH + offset
}

fn from(rip: u64, rsp: u64, rbp: u64, stack: &[(u64, u64)]) -> Trace {
    let registers = [(Register::Rip, rip), (Register::Rsp, rsp), (Register::Rbp, rbp)];
    unwind(&Code(None, None), &registers.into_iter().collect(), &memory(stack))
}

/// The functions of a trace by their numbers.
fn functions(trace: &Trace) -> Vec<u64> {
    trace.frames.iter().map(|frame| (frame.pc.address().0 - TEXT) / EACH).collect()
}

/// The frame of a function: the saved RBP and the return address.
fn frame(at: u64, rbp: u64, return_to: u64) -> [(u64, u64); 2] {
    [(at, rbp), (at + 8, return_to)]
}

/// `struct pt_regs` at an address.
fn pt_regs(at: u64, [rip, cs, rsp, rbp]: [u64; 4]) -> Vec<(u64, u64)> {
    let mut words: Vec<_> = (0..21).map(|index| (at + 8 * index, 0x1000 + index)).collect();
    for (index, value) in [(4, rbp), (16, rip), (17, cs), (19, rsp)] {
        words[index].1 = value;
    }
    words
}

#[test]
fn frame_pointers_lead_to_the_outermost_function() {
    let stack = [
        frame(STACK, STACK + 0x40, in_function(1, 0x20)),
        frame(STACK + 0x40, 0, in_function(2, 0x20)),
    ]
    .concat();
    let trace = from(in_function(0, AFTER_MOV), STACK, STACK, &stack);
    assert_eq!(functions(&trace), [0, 1, 2]);
    assert_eq!(trace.end, End::FramePointerZero);
    let strategies: Vec<_> = trace.frames.iter().map(|frame| frame.strategy).collect();
    let expected = [Strategy::Registers, Strategy::FramePointer, Strategy::FramePointer];
    assert_eq!(strategies, expected);
}

#[test]
fn caller_of_a_function_without_its_frame_is_not_missed() {
    let caller = frame(STACK + 0x40, 0, in_function(2, 0x20));
    // RSP leads to the return address, but for the instruction behind the push.
    let called = [(STACK, in_function(1, 0x20)), caller[0], caller[1]];
    let states = [(0, 0), (0, 4), (0, 9), (0, AFTER_POP), (6, AFTER_POP), (7, 0), (7, 2)];
    for (function, offset) in states {
        let trace = from(in_function(function, offset), STACK, STACK + 0x40, &called);
        assert_eq!(functions(&trace), [function, 1, 2], "{function} {offset}");
        let registers = &trace.frames[1].registers;
        assert_eq!(registers.get(Register::Rbp), Some(STACK + 0x40), "{function} {offset}");
        assert_eq!(registers.get(Register::Rsp), Some(STACK + 8), "{function} {offset}");
    }
    let pushed = [frame(STACK, STACK + 0x40, in_function(1, 0x20)), caller].concat();
    let trace = from(in_function(0, AFTER_PUSH), STACK, STACK + 0x40, &pushed);
    assert_eq!(functions(&trace), [0, 1, 2]);
    assert_eq!(trace.frames[1].registers.get(Register::Rsp), Some(STACK + 16));
    // One instruction later, RBP leads to the frame.
    let trace = from(in_function(0, AFTER_MOV), STACK, STACK, &pushed);
    assert_eq!(functions(&trace), [0, 1, 2]);
}

#[test]
fn marked_frame_pointer_leads_through_an_interrupt() {
    let (registers, other) = (STACK + 0x100, STACK + 0x1_0000);
    // The handler was called by the entry, which has saved the registers of a function before its frame.
    let mut stack = frame(STACK, registers + 1, in_function(3, 0x20)).to_vec();
    stack.extend(pt_regs(registers, [in_function(0, 4), 0x10, other, other + 0x20]));
    stack.push((other, in_function(1, 0x20)));
    stack.extend(frame(other + 0x20, 0, in_function(2, 0x20)));
    let trace = from(in_function(4, AFTER_MOV), STACK, STACK, &stack);
    assert_eq!(functions(&trace), [4, 3, 0, 1, 2]);
    assert_eq!(trace.end, End::FramePointerZero);
    assert!(trace.frames[1].is_signal_frame && trace.frames[2].is_interrupted());
    assert_eq!(trace.frames[2].registers.get(Register::R15), Some(0x1000));
    assert_eq!(trace.frames[1].cfa, Some(VirtualAddress(registers)));
}

#[test]
fn marked_frame_pointer_ends_at_a_program_or_a_kernel_thread() {
    let registers = STACK + 0x100;
    let mut stack = frame(STACK, registers + 1, in_function(3, 0x20)).to_vec();
    stack.extend(pt_regs(registers, [0x40_1000, 0x33, 0x7ffc_0000, 0]));
    let trace = from(in_function(4, AFTER_MOV), STACK, STACK, &stack);
    assert_eq!(functions(&trace), [4, 3]);
    assert_eq!(trace.end, End::UserMode { pc: VirtualAddress(0x40_1000) });
    stack.extend((0..21).map(|index| (registers + 8 * index, 0)));
    let trace = from(in_function(4, AFTER_MOV), STACK, STACK, &stack);
    assert_eq!((functions(&trace), trace.end), (vec![4, 3], End::ReturnAddressZero));
}

#[test]
fn call_through_a_null_pointer_has_its_caller() {
    let stack =
        [&[(STACK, in_function(1, 0x20))][..], &frame(STACK + 0x40, 0, in_function(2, 0x20))];
    let trace = from(0, STACK, STACK + 0x40, &stack.concat());
    let addresses: Vec<u64> = trace.frames.iter().map(|frame| frame.pc.address().0).collect();
    assert_eq!(addresses, [0, in_function(1, 0x20), in_function(2, 0x20)]);
    assert_eq!(trace.frames[1].strategy, Strategy::BadCall);
}

#[test]
fn damaged_frame_pointers_end_the_stack_with_the_reason() {
    let end =
        |rbp: u64, stack: &[(u64, u64)]| from(in_function(0, AFTER_MOV), STACK, rbp, stack).end;
    assert!(matches!(end(STACK, &[]), End::NoCallerFound { .. }));
    assert!(matches!(end(STACK + 0x101, &[]), End::UnreadableStack(_)));
    let odd = frame(STACK + 3, 0, in_function(1, 0x20));
    assert_eq!(end(STACK + 3, &odd), End::FramePointerZero);
    let itself = frame(STACK, STACK, in_function(1, 0x20));
    assert!(matches!(end(STACK, &itself), End::Loop { .. }));
    // Saved registers that interrupted the same place lead back into the stack.
    let registers = STACK + 0x100;
    let circle = pt_regs(registers, [in_function(0, AFTER_MOV), 0x10, STACK, registers + 1]);
    assert!(matches!(end(registers + 1, &circle), End::Loop { .. }));
}

/// The stack of a function that has pushed RBX and has no frame pointer, with a row for it or without. The function's call
/// frame information is that of a moved image.
fn from_pushing(row: Option<OrcRow>) -> Trace {
    let pushes = [(1, Cfi::CfaOffset(16)), (1, Cfi::Offset(RBX, -16))];
    let sections = [debug_frame(&[function(0, EACH as u32, pushes.to_vec())])];
    let bytes = elf(&sections, &[], Compression::None);
    let image = Image::parse(&bytes).expect("an image");
    let bias = TEXT.wrapping_sub(elf::TEXT);
    let stack = [
        &[(STACK, 0xb0b), (STACK + 8, in_function(1, 0x20))][..],
        &frame(STACK + 0x40, 0, in_function(2, 0x20)),
    ];
    let rip = (Register::Rip, in_function(0, 0x20));
    let registers = [rip, (Register::Rsp, STACK), (Register::Rbp, STACK + 0x40)];
    let code = Code(Some((&image, bias)), row);
    unwind(&code, &registers.into_iter().collect(), &memory(&stack.concat()))
}

#[test]
fn call_frame_information_of_a_moved_image_comes_before_frame_pointers() {
    let trace = from_pushing(None);
    assert_eq!(functions(&trace), [0, 1, 2]);
    assert_eq!(trace.end, End::FramePointerZero);
    assert_eq!(trace.frames[1].strategy, Strategy::Cfi);
    assert_eq!(trace.frames[1].registers.get(Register::Rbx), Some(0xb0b));
    assert_eq!(trace.frames[2].strategy, Strategy::FramePointer);
}

#[test]
fn registers_of_call_frame_information_are_added_where_a_row_agrees() {
    let row = |sp_offset| OrcRow {
        sp_base: OrcBase::Sp,
        sp_offset,
        bp_base: OrcBase::Undefined,
        bp_offset: 0,
        frame: OrcFrame::Call,
        is_signal: false,
    };
    let trace = from_pushing(Some(row(16)));
    assert_eq!(functions(&trace), [0, 1, 2]);
    assert_eq!(trace.frames[1].strategy, Strategy::Orc);
    assert_eq!(trace.frames[1].registers.get(Register::Rbx), Some(0xb0b));
    // A row that leads to another caller is believed, and its frame has no more than the row gives.
    let trace = from_pushing(Some(row(0x50)));
    assert_eq!(functions(&trace), [0, 2]);
    assert_eq!(trace.frames[1].registers.get(Register::Rbx), None);
}
