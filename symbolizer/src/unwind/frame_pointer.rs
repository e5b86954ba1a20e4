//! Steps without call frame information: after a call to a bad address, and by the chain of RBP.
//!
//! Owns the checks for a plausible caller. Called by the loop in `unwind` where CFI gives no caller.

use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use super::trace::FramePointerError;
use crate::expression::read;

/// Distance in bytes below which two stack pointers are taken to be on the same stack. Linux's stacks are
/// 16 KiB and aligned to it; those of the bundled kernel are smaller and their interrupt entries have CFI,
/// which needs no such guess.
const STACK: u64 = 16 << 10;

/// True if a stack pointer moved down, or not at all, on what must be the same stack.
pub(super) fn moves_down(from: u64, to: u64) -> bool {
    to <= from && from - to < STACK
}

/// The caller of a frame, found without CFI.
pub(super) struct Caller {
    /// Registers of the caller, with RIP, which is a return address.
    pub(super) registers: UnwindRegisters,
    pub(super) return_address: u64,
    /// The canonical frame address of the callee.
    pub(super) cfa: u64,
}

/// Finds the caller of an address outside the code: the call has pushed its return address, and nothing has
/// run since, so that all registers are still the caller's. `None` if no return address lies at RSP.
pub(super) fn bad_call(
    registers: &UnwindRegisters,
    memory: &dyn VirtualMemory,
    is_return_address: impl Fn(u64) -> bool,
) -> Result<Option<Caller>, ReadError> {
    let Some(rsp) = registers.get(Register::Rsp) else { return Ok(None) };
    let return_address = read(memory, rsp, 8)?;
    if !is_return_address(return_address) {
        return Ok(None);
    }
    let cfa = rsp.wrapping_add(8);
    let mut registers = registers.clone();
    registers.set(Register::Rip, return_address);
    registers.set(Register::Rsp, cfa);
    Ok(Some(Caller { registers, return_address, cfa }))
}

/// The result of reading the two words that RBP points at.
pub(super) enum FramePointer {
    Caller(Box<Caller>),
    /// RBP is 0, the mark of the outermost frame.
    Zero,
    /// The return address above the saved RBP is 0.
    NoReturnAddress {
        cfa: u64,
    },
}

/// Finds the caller by RBP, which points at the saved RBP with the return address above it. All other
/// registers of the caller are unknown.
pub(super) fn frame_pointer(
    registers: &UnwindRegisters,
    memory: &dyn VirtualMemory,
    is_return_address: impl Fn(u64) -> bool,
) -> Result<FramePointer, FramePointerError> {
    let rbp = registers.get(Register::Rbp).ok_or(FramePointerError::Unknown)?;
    if rbp == 0 {
        return Ok(FramePointer::Zero);
    }
    if let Some(rsp) = registers.get(Register::Rsp)
        && rbp < rsp
        && moves_down(rsp, rbp)
    {
        let [frame_pointer, stack_pointer] = [rbp, rsp].map(VirtualAddress);
        return Err(FramePointerError::BelowStack { frame_pointer, stack_pointer });
    }
    let return_address = read(memory, rbp.wrapping_add(8), 8)?;
    let cfa = rbp.wrapping_add(16);
    if return_address == 0 {
        return Ok(FramePointer::NoReturnAddress { cfa });
    }
    if !is_return_address(return_address) {
        let address = VirtualAddress(return_address);
        return Err(FramePointerError::NotText { address });
    }
    let saved = read(memory, rbp, 8)?;
    let registers = [(Register::Rbp, saved), (Register::Rsp, cfa), (Register::Rip, return_address)];
    let registers = registers.into_iter().collect();
    Ok(FramePointer::Caller(Box::new(Caller { registers, return_address, cfa })))
}
