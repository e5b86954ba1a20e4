//! Unwinding a stack: registers and memory in, frames and the reason for their end out.
//!
//! Owns the order in which the ways to a caller are tried, and the bounds on a trace. Owns no symbols:
//! frames are addresses, and [`Image::frames`] names them. Pure: it reads the registers and memory that it
//! is given and nothing else, on a live guest as on a stored core.
//!
//! From each frame, in this order:
//! 1. the CFI that covers its address, from `.eh_frame`, else from `.debug_frame`;
//! 2. if the address is not even code: it was called, and the return address is at RSP;
//! 3. RBP as a frame pointer.
//!
//! A call's return address may already belong to the next function, so callers are looked up one byte
//! before it. The entry of an interrupt, exception or NMI is marked in its CFI (`.cfi_signal_frame`); its
//! caller was interrupted, is looked up at its exact address, may be at an address outside the code, and
//! may be on another stack, above or below. Switching stacks only needs the RSP that the CPU pushed.
//!
//! | file | owns |
//! |---|---|
//! | `cfi` | one step by a row of CFI |
//! | `frame_pointer` | the steps without CFI |
//! | `outermost` | the ends of stacks whose makers have not marked them |
//! | `trace` | the types of the result |

mod cfi;
mod frame_pointer;
mod outermost;
mod trace;

use std::collections::HashSet;

use gimli::UnwindContext;
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use crate::image::Image;
use crate::program_counter::ProgramCounter;
use cfi::ReturnAddress;
use frame_pointer::{Caller, FramePointer, bad_call, frame_pointer, moves_down};
pub use trace::{CfiError, End, FramePointerError, Strategy, Trace, UnwoundFrame};

/// The largest number of frames in a trace.
pub const MAX_FRAMES: usize = 1024;
/// Bytes of CFI that a trace may evaluate. The frames of a deep recursion take some hundred each.
const MAX_CFI: u64 = 1 << 20;

/// An unwinder for the stacks of a guest that runs an image.
#[derive(Clone, Copy, Debug)]
pub struct Unwinder<'i, 'data> {
    image: &'i Image<'data>,
    bias: u64,
}

impl<'i, 'data> Unwinder<'i, 'data> {
    /// Makes an unwinder for a guest that runs `image` where it was linked. Nothing is read yet; CFI is
    /// read at its first use and cached in the image.
    pub fn new(image: &'i Image<'data>) -> Self {
        Self { image, bias: 0 }
    }

    /// Sets the distance in bytes, modulo 2^64, between the addresses at which the guest runs the image and
    /// those it was linked for: KASLR. Registers, memory and the resulting frames have the guest's
    /// addresses; subtract `bias` before looking one up in the image.
    #[must_use]
    pub fn with_bias(self, bias: u64) -> Self {
        Self { bias, ..self }
    }

    /// Unwinds the stack of a vCPU that is about to run the instruction at the RIP in `registers`. `memory`
    /// is the address space that the vCPU uses.
    ///
    /// Never fails and always ends: [`End`] has the reason, and [`MAX_FRAMES`] is the bound. The cost is in
    /// the order of frames; for an image without `.eh_frame_hdr`, the first trace passes over its CFI once.
    pub fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        let mut walk = Walk { unwinder: *self, memory, cfi: CfiSteps::new() };
        trace(registers, |frame| walk.step(frame))
    }
}

/// The stack that begins with these registers. `step` finds the caller of a frame and completes the frame
/// itself; it is called for [`MAX_FRAMES`] frames at most, and never twice for one.
pub(crate) fn trace(
    registers: &UnwindRegisters,
    mut step: impl FnMut(&mut UnwoundFrame) -> Result<UnwoundFrame, End>,
) -> Trace {
    let mut frames = Vec::new();
    let Some(pc) = registers.get(Register::Rip) else {
        return Trace { frames, end: End::NoProgramCounter };
    };
    let pc = ProgramCounter::Interrupted(VirtualAddress(pc));
    let mut frame = new_frame(pc, Strategy::Registers, registers.clone());
    let mut seen = HashSet::new();
    loop {
        seen.insert(position(&frame));
        let next = step(&mut frame);
        frames.push(frame);
        let end = match next {
            Err(end) => end,
            Ok(next) if seen.contains(&position(&next)) => looped(&next),
            Ok(_) if frames.len() == MAX_FRAMES => End::TooManyFrames,
            Ok(next) => {
                frame = next;
                continue;
            }
        };
        return Trace { frames, end };
    }
}

/// The identity of a frame within a trace: recursion gives equal PCs at different stack pointers.
fn position(frame: &UnwoundFrame) -> (VirtualAddress, Option<u64>) {
    (frame.pc.address(), frame.registers.get(Register::Rsp))
}

fn looped(frame: &UnwoundFrame) -> End {
    let stack_pointer = VirtualAddress(frame.registers.get(Register::Rsp).unwrap_or(0));
    End::Loop { pc: frame.pc.address(), stack_pointer }
}

pub(crate) fn new_frame(
    pc: ProgramCounter,
    strategy: Strategy,
    registers: UnwindRegisters,
) -> UnwoundFrame {
    let (cfa, cfi_fault) = (None, None);
    UnwoundFrame { pc, strategy, registers, cfa, is_signal_frame: false, cfi_fault }
}

/// The state of a walk up a stack.
struct Walk<'w, 'i, 'data> {
    unwinder: Unwinder<'i, 'data>,
    memory: &'w dyn VirtualMemory,
    cfi: CfiSteps,
}

impl Walk<'_, '_, '_> {
    /// Finds the caller of a frame, and completes the frame itself: its CFA, and its CFI's mark or fault.
    fn step(&mut self, frame: &mut UnwoundFrame) -> Result<UnwoundFrame, End> {
        let Unwinder { image, bias } = self.unwinder;
        let address_of = |address: u64| VirtualAddress(address.wrapping_sub(bias));
        self.caller(frame)
            .map_err(|end| outermost::outermost(end, frame, image, self.memory, address_of))
    }

    fn caller(&mut self, frame: &mut UnwoundFrame) -> Result<UnwoundFrame, End> {
        match self.by_cfi(frame) {
            Ok(Some(next)) => return next,
            Ok(None) => {}
            Err(error) => frame.cfi_fault = Some(error),
        }
        let mut unreadable = None;
        // A return address has been checked to be code, so only an interrupted PC can be outside it.
        let is_bad_call = frame.is_interrupted() && !self.is_text(frame.pc.address().0);
        if is_bad_call {
            let is_return_address = |address| self.is_return_address(address);
            match caller_at_stack_pointer(frame, self.memory, Strategy::BadCall, is_return_address)
            {
                Ok(Some(next)) => return Ok(next),
                Ok(None) => {}
                Err(error) => unreadable = Some(error),
            }
        }
        let by_rbp = self.by_frame_pointer(frame);
        match (by_rbp, unreadable) {
            (Err(End::NoCallerFound { .. } | End::FramePointerZero), Some(error)) => {
                Err(End::UnreadableStack(error))
            }
            // RBP 0 marks the outermost function, and this frame is no function.
            (Err(End::FramePointerZero), None) if is_bad_call => {
                let frame_pointer = FramePointerError::Zero;
                Err(End::NoCallerFound { pc: frame.pc.address(), frame_pointer })
            }
            (next, _) => next,
        }
    }

    /// Finds the caller by CFI. `None` if no CFI covers the frame.
    fn by_cfi(
        &mut self,
        frame: &mut UnwoundFrame,
    ) -> Result<Option<Result<UnwoundFrame, End>>, CfiError> {
        let Unwinder { image, bias } = self.unwinder;
        let is_text = |address: u64| image.is_text(VirtualAddress(address.wrapping_sub(bias)));
        self.cfi.caller((image, bias), frame, self.memory, is_text)
    }

    fn by_frame_pointer(&self, frame: &mut UnwoundFrame) -> Result<UnwoundFrame, End> {
        caller_by_frame_pointer(frame, self.memory, |address| self.is_return_address(address))
    }

    fn is_text(&self, address: u64) -> bool {
        self.unwinder.image.is_text(VirtualAddress(address.wrapping_sub(self.unwinder.bias)))
    }

    /// True if the byte before `address` is code: the call that returns there may be the last instruction
    /// of all.
    fn is_return_address(&self, address: u64) -> bool {
        address.checked_sub(1).is_some_and(|call| self.is_text(call))
    }
}

/// Steps by call frame information, of one trace.
pub(crate) struct CfiSteps {
    context: UnwindContext<usize>,
    /// Bytes of CFI that may still be evaluated.
    budget: u64,
}

impl CfiSteps {
    pub(crate) fn new() -> Self {
        Self { context: UnwindContext::new(), budget: MAX_CFI }
    }

    /// Finds the caller of a frame by the CFI of an image that lies at a bias in the guest. `is_text` decides
    /// which addresses of the guest are code. `None` if no CFI covers the frame.
    pub(crate) fn caller(
        &mut self,
        (image, bias): (&Image<'_>, u64),
        frame: &mut UnwoundFrame,
        memory: &dyn VirtualMemory,
        is_text: impl Fn(u64) -> bool,
    ) -> Result<Option<Result<UnwoundFrame, End>>, CfiError> {
        let address = frame.pc.lookup_address().0.wrapping_sub(bias);
        let Some(found) = image.call_frames().covering(address)? else {
            return Ok(None);
        };
        self.budget = self.budget.checked_sub(found.cost()).ok_or(CfiError::TooLarge)?;
        let row = found.row(&mut self.context, address)?;
        let applied = cfi::apply(&found, row, &frame.registers, memory, bias)?;
        frame.cfa = Some(VirtualAddress(applied.cfa));
        frame.is_signal_frame = found.is_signal_frame();
        let mut registers = applied.caller;
        let pc = match applied.return_address {
            ReturnAddress::None => return Ok(Some(Err(End::Outermost))),
            ReturnAddress::Unreadable(error) => return Ok(Some(Err(error.into()))),
            ReturnAddress::At(pc) => pc,
        };
        registers.set(Register::Rip, pc);
        let address = VirtualAddress(pc);
        if found.is_signal_frame() {
            let pc = ProgramCounter::Interrupted(address);
            return Ok(Some(Ok(new_frame(pc, Strategy::Cfi, registers))));
        }
        let next = if pc == 0 {
            Err(End::ReturnAddressZero)
        } else if !pc.checked_sub(1).is_some_and(is_text) {
            Err(End::NotText { address })
        } else {
            let next = new_frame(ProgramCounter::Return(address), Strategy::Cfi, registers);
            let stack = |frame: &UnwoundFrame| frame.registers.get(Register::Rsp);
            match (stack(frame), stack(&next)) {
                (Some(from), Some(to)) if moves_down(from, to) => Err(looped(&next)),
                _ => Ok(next),
            }
        };
        Ok(Some(next))
    }
}

/// Finds the caller of a frame by its RBP.
pub(crate) fn caller_by_frame_pointer(
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
    is_return_address: impl Fn(u64) -> bool,
) -> Result<UnwoundFrame, End> {
    match frame_pointer(&frame.registers, memory, is_return_address) {
        Ok(FramePointer::Caller(caller)) => Ok(called(frame, *caller, Strategy::FramePointer)),
        Ok(FramePointer::Zero) => Err(End::FramePointerZero),
        Ok(FramePointer::NoReturnAddress { cfa }) => {
            frame.cfa = Some(VirtualAddress(cfa));
            Err(End::ReturnAddressZero)
        }
        // The chain of RBP itself turned back.
        Err(FramePointerError::BelowStack { frame_pointer, .. })
            if frame.strategy == Strategy::FramePointer =>
        {
            Err(End::Loop { pc: frame.pc.address(), stack_pointer: frame_pointer })
        }
        Err(frame_pointer) => {
            let pc = frame.pc.address();
            Err(match frame.cfi_fault.clone() {
                Some(source) => End::BadCfi { pc, source },
                None => End::NoCallerFound { pc, frame_pointer },
            })
        }
    }
}

/// Finds the caller of a frame whose return address lies at its RSP, with all registers still the caller's.
pub(crate) fn caller_at_stack_pointer(
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
    strategy: Strategy,
    is_return_address: impl Fn(u64) -> bool,
) -> Result<Option<UnwoundFrame>, ReadError> {
    let caller = bad_call(&frame.registers, memory, is_return_address)?;
    Ok(caller.map(|caller| called(frame, caller, strategy)))
}

fn called(frame: &mut UnwoundFrame, caller: Caller, strategy: Strategy) -> UnwoundFrame {
    frame.cfa = Some(VirtualAddress(caller.cfa));
    let pc = ProgramCounter::Return(VirtualAddress(caller.return_address));
    new_frame(pc, strategy, caller.registers)
}
