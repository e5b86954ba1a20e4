//! Outermost frames of stacks made by hand, whose makers have marked no end: the words above them belong to
//! something else, and are no return address.
//!
//! Owns the signs of such an end: the top of the stack, where the image has a name for it, and code that is
//! parked for good. A stack that is cut or overwritten shows neither. Called by the loop in `unwind` after
//! all ways to a caller have failed.

use nmiscope_machine::{Register, VirtualAddress, VirtualMemory};

use super::trace::{End, UnwoundFrame};
use crate::image::Image;

/// The most instructions of a loop in which a CPU is parked.
const MAX_INSTRUCTIONS: usize = 16;
/// Distance above RSP, in bytes, below which RBP is taken to point into the stack: 16 KiB.
const NEAR: u64 = 16 << 10;

/// Returns the end of a stack if its last frame is an outermost one after all, or else `end`, the reason why
/// no caller was found. `address_of` turns a guest-virtual address into one of the image.
pub(super) fn outermost(
    end: End,
    frame: &UnwoundFrame,
    image: &Image<'_>,
    memory: &dyn VirtualMemory,
    address_of: impl Fn(u64) -> VirtualAddress,
) -> End {
    let searched =
        matches!(end, End::NoCallerFound { .. } | End::NotText { .. } | End::UnreadableStack(_));
    if !searched {
        return end;
    }
    let is_top = |address: &u64| {
        let address = address_of(*address);
        !image.is_text(address) && image.has_data_boundary(address)
    };
    if let Some(top) = return_slots(frame).into_iter().flatten().find(is_top) {
        return End::StackTop { address: VirtualAddress(top) };
    }
    let is_text = |address: u64| image.is_text(address_of(address));
    match frame.is_first() {
        true if is_parked(frame, memory, is_text) => End::Parked,
        true if is_unmarked_code(frame, memory, is_text) => End::ReturnAddressZero,
        _ => end,
    }
}

/// Returns the addresses at which the return address of an outermost frame would lie, which are the top of
/// its stack: by CFI, or else after nothing was pushed, or nothing but RBP.
fn return_slots(frame: &UnwoundFrame) -> [Option<u64>; 3] {
    let rsp = frame.registers.get(Register::Rsp);
    let rbp = frame.registers.get(Register::Rbp).filter(|&rbp| Some(rbp) >= rsp);
    match frame.cfa {
        Some(cfa) => [cfa.0.checked_sub(8), None, None],
        None => [rsp, rbp, rbp.and_then(|rbp| rbp.checked_add(8))],
    }
}

/// Returns true for a CPU that halts in a loop, or spins in one outside of the image, as in a copy of its
/// start-up code, and whose registers name no caller: no return address lies at RSP, and RBP points
/// nowhere into the stack.
fn is_parked(
    frame: &UnwoundFrame,
    memory: &dyn VirtualMemory,
    is_text: impl Fn(u64) -> bool,
) -> bool {
    let get = |register| frame.registers.get(register);
    let (Some(pc), Some(rsp)) = (get(Register::Rip), get(Register::Rsp)) else { return false };
    let rbp = get(Register::Rbp);
    let points_into_stack =
        |rbp: u64| rbp != rsp && rbp.checked_sub(rsp).is_some_and(|distance| distance < NEAR);
    let has_caller = memory
        .read_u64(VirtualAddress(rsp))
        .is_ok_and(|word| word.checked_sub(1).is_some_and(&is_text));
    if has_caller || rbp.is_some_and(points_into_stack) {
        return false;
    }
    match endless_loop(pc, memory) {
        Some(Loop { halts: true }) => true,
        Some(Loop { halts: false }) => !is_text(pc) && rbp == Some(0),
        None => false,
    }
}

/// Returns true for code outside of the image on a stack of zeros with an RBP of 0. A call to a bad address
/// would have left its return address at RSP.
fn is_unmarked_code(
    frame: &UnwoundFrame,
    memory: &dyn VirtualMemory,
    is_text: impl Fn(u64) -> bool,
) -> bool {
    let get = |register| frame.registers.get(register);
    let (Some(pc), Some(rsp)) = (get(Register::Rip), get(Register::Rsp)) else { return false };
    let is_code = !is_text(pc) && memory.read(VirtualAddress(pc), &mut [0]).is_ok();
    is_code && get(Register::Rbp) == Some(0) && memory.read_u64(VirtualAddress(rsp)) == Ok(0)
}

/// Loop that nothing leaves but an interrupt.
struct Loop {
    /// True if it contains a HLT.
    halts: bool,
}

/// Follows code that does nothing but halt, pause and jump, until it comes back to an instruction. `None`
/// for all other code.
fn endless_loop(pc: u64, memory: &dyn VirtualMemory) -> Option<Loop> {
    let (mut seen, mut halts, mut at) = (Vec::new(), Vec::new(), pc);
    for _ in 0..MAX_INSTRUCTIONS {
        if let Some(start) = seen.iter().position(|&earlier| earlier == at) {
            return Some(Loop { halts: halts[start..].contains(&true) });
        }
        seen.push(at);
        let byte = |offset: u64| {
            let mut byte = [0];
            let address = VirtualAddress(at.wrapping_add(offset));
            memory.read(address, &mut byte).ok().map(|()| byte[0])
        };
        let next = |length: u64| at.wrapping_add(length);
        let opcode = byte(0)?;
        halts.push(opcode == 0xf4);
        at = match opcode {
            // NOP, HLT, CLI and STI (SDM vol. 2).
            0x90 | 0xf4 | 0xfa | 0xfb => next(1),
            // PAUSE.
            0xf3 if byte(1)? == 0x90 => next(2),
            // JMP with a displacement of 8 and of 32 bits.
            0xeb => next(2).wrapping_add_signed(i64::from(byte(1)? as i8)),
            0xe9 => {
                let displacement = memory.read_u32(VirtualAddress(next(1))).ok()?;
                next(5).wrapping_add_signed(i64::from(displacement as i32))
            }
            _ => return None,
        };
    }
    None
}
