//! Steps by frame pointers in a Linux kernel.
//!
//! Owns what the chain of RBP lacks in a kernel (arch/x86/kernel/unwind_frame.c): the mark by which entry code leads
//! to the registers that it saved, and functions that have not made their frame yet or have ended it. Refuses to own
//! the chain itself ([`crate::unwind`]).

use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use super::unwind::{KernelCode, Saved, interrupted, is_return_address};
use crate::expression::read;
use crate::program_counter::ProgramCounter;
use crate::unwind::{
    End, Strategy, UnwoundFrame, caller_at_stack_pointer, caller_by_frame_pointer, new_frame,
};

/// Bytes of a function in which its frame is made.
const PROLOGUE: usize = 24;
/// Instructions before `push %rbp`: ENDBR64, and the five bytes for the tracer, a NOP or a call, of which the first
/// byte tells (scripts/recordmcount.h).
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const CALL: u8 = 0xe8;
const PUSH_RBP: u8 = 0x55;
const POP_RBP: u8 = 0x5d;
const RET: u8 = 0xc3;
/// First bytes of jumps behind `pop %rbp`: to a return thunk or another function, with and without a prefix.
const JUMPS: [u8; 3] = [0xe9, 0xeb, 0x2e];

/// Finds the caller of a frame, or what the frame interrupted.
pub(super) fn caller(
    code: &dyn KernelCode,
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
) -> Result<UnwoundFrame, End> {
    let is_return_address = |address| is_return_address(code, address);
    if frame.is_interrupted() {
        if !code.is_text(frame.pc.address()) {
            let called =
                caller_at_stack_pointer(frame, memory, Strategy::BadCall, is_return_address)?;
            if let Some(next) = called {
                return Ok(next);
            }
        } else if let Some(next) = caller_without_frame(code, frame, memory) {
            return Ok(next);
        }
    }
    if let Some(saved) = frame.registers.get(Register::Rbp).and_then(saved_registers) {
        frame.cfa = Some(VirtualAddress(saved));
        return interrupted(code, frame, memory, Saved::All(saved), Strategy::FramePointer);
    }
    caller_by_frame_pointer(frame, memory, is_return_address)
}

/// The address of the saved registers that entry code marks in RBP: bit 0 is set in it, which no frame has
/// (ENCODE_FRAME_POINTER, arch/x86/include/asm/frame.h).
fn saved_registers(rbp: u64) -> Option<u64> {
    (rbp & 7 == 1).then(|| rbp - 1)
}

/// Finds the caller of a function that was interrupted while it had no frame, by the return address above what it has
/// pushed. `None` where it has a frame.
fn caller_without_frame(
    code: &dyn KernelCode,
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
) -> Option<UnwoundFrame> {
    let pc = frame.pc.address();
    let start = code.function_start(pc)?;
    let state = FrameState::at(start, pc, memory)?;
    let marked = frame.registers.get(Register::Rbp).and_then(saved_registers).is_some();
    let pushed = match state {
        FrameState::Pushed(bytes) => bytes,
        // Entry code is frameless too, with the saved registers at its stack pointer.
        FrameState::Frameless if !marked => 0,
        FrameState::Frameless | FrameState::Framed => return None,
    };
    let at = frame.registers.get(Register::Rsp)?.wrapping_add(pushed);
    let return_address = read(memory, at, 8).ok()?;
    if !is_return_address(code, return_address) {
        return None;
    }
    let cfa = at.wrapping_add(8);
    frame.cfa = Some(VirtualAddress(cfa));
    let kept = Register::ALL.into_iter().filter(|register| register.is_callee_saved());
    let kept = kept.filter_map(|register| Some((register, frame.registers.get(register)?)));
    let mut registers: UnwindRegisters = kept.collect();
    registers.set(Register::Rip, return_address);
    registers.set(Register::Rsp, cfa);
    let pc = ProgramCounter::Return(VirtualAddress(return_address));
    Some(new_frame(pc, Strategy::FramePointer, registers))
}

/// The state of a function's frame at one of its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameState {
    /// RBP is the caller's, and the function has pushed this many bytes.
    Pushed(u64),
    /// RBP leads to the function's own frame.
    Framed,
    /// The function does not begin by making a frame, as some assembly.
    Frameless,
}

impl FrameState {
    /// Reads a function's instructions; `None` where they cannot be read.
    fn at(start: VirtualAddress, pc: VirtualAddress, memory: &dyn VirtualMemory) -> Option<Self> {
        let mut code = [0; PROLOGUE];
        memory.read(start, &mut code).ok()?;
        let offset = pc.offset_from(start)?;
        let push = push_rbp(&code);
        if let Some(push) = push {
            match offset.checked_sub(push) {
                None | Some(0) => return Some(Self::Pushed(0)),
                Some(1) => return Some(Self::Pushed(8)),
                Some(_) => {}
            }
        }
        let mut around = [0; 2];
        memory.read(VirtualAddress(pc.0.checked_sub(1)?), &mut around).ok()?;
        let ends = around[1] == RET || around[0] == POP_RBP && JUMPS.contains(&around[1]);
        Some(match push {
            _ if ends => Self::Pushed(0),
            Some(_) => Self::Framed,
            None => Self::Frameless,
        })
    }
}

/// The offset of `push %rbp` in a function that begins with it.
fn push_rbp(code: &[u8; PROLOGUE]) -> Option<u64> {
    let mut rest = &code[..];
    loop {
        rest = match rest {
            [PUSH_RBP, ..] => return Some((code.len() - rest.len()) as u64),
            [CALL, _, _, _, _, rest @ ..] => rest,
            _ => match (rest.strip_prefix(&ENDBR64), rest.strip_prefix(&NOP5)) {
                (Some(rest), _) | (None, Some(rest)) => rest,
                (None, None) => return None,
            },
        };
    }
}
