//! Steps without call frame information: after a call to a bad address, and by the chain of RBP.
//!
//! Owns what is plausible. Called by the loop in `unwind` where CFI does not lead on.

use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use super::trace::FramePointerError;
use crate::expression::read;

/// Two stack pointers that are less than this apart, in bytes, are taken to be on the same stack.
/// Linux's stacks are 16 KiB and aligned to it; those of the bundled kernel are smaller and their
/// interrupt entries have CFI, which needs no such guess.
const STACK: u64 = 16 << 10;

/// Whether a stack pointer moved back, or not at all, on what must be the same stack.
pub(super) fn moves_down(from: u64, to: u64) -> bool {
    to <= from && from - to < STACK
}

/// A caller.
pub(super) struct Caller {
    /// RIP included, which is a return address.
    pub(super) registers: UnwindRegisters,
    pub(super) return_address: u64,
    /// Of the callee.
    pub(super) cfa: u64,
}

/// The caller of an address that is no code: the call has pushed its return address, and nothing
/// has run since, so that all registers are still the caller's. `None` if no return address lies
/// there.
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

/// What the word that RBP points at and the one above it say.
pub(super) enum FramePointer {
    Caller(Box<Caller>),
    /// RBP itself is 0.
    Zero,
    /// The return address is 0.
    NoReturnAddress {
        cfa: u64,
    },
}

/// The caller by RBP: the saved RBP is what it points at, the return address lies above that. What
/// else the callee saved is not known.
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
