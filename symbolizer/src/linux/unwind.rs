//! Unwinding of Linux stacks: by ORC rows, else by call frame information, else by frame pointers.
//!
//! Owns the order of the three, and the steps by ORC from a frame to its caller: through calls, through the registers
//! that an entry from interrupts, exceptions and system calls saved, and from one stack to another
//! (arch/x86/kernel/unwind_orc.c, `unwind_next_frame`). Refuses to own the rows ([`super::orc`]), the steps by frame
//! pointers ([`super::frame_pointer`]) and which code is the kernel's: that comes from the caller, which knows modules.
//!
//! A kernel without ORC has frame pointers in nearly all functions, but none in a function's first instructions and in
//! some assembly, of which an image's call frame information knows a part.

use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use super::frame_pointer;
use super::orc::{OrcBase, OrcFrame, OrcRow};
use crate::expression::read;
use crate::image::Image;
use crate::program_counter::ProgramCounter;
use crate::unwind::{CfiSteps, End, Strategy, Trace, UnwoundFrame, new_frame, trace};

/// Registers in the order of `struct pt_regs` (arch/x86/include/uapi/asm/ptrace.h). The order is an ABI: entry code
/// pushes them, and debuggers read them.
const PT_REGS: [Register; 15] = {
    use Register::{R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rsi};
    [R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi]
};
/// Bytes from `struct pt_regs` to the five words that the CPU pushed: the registers, and `orig_ax`.
const CPU_FRAME: u64 = 8 * (PT_REGS.len() as u64 + 1);

/// The code that stacks of a kernel run through.
pub trait KernelCode {
    /// The ORC row of an instruction of the kernel or a module; `None` for other addresses and where there are
    /// no rows.
    fn row(&self, address: VirtualAddress) -> Option<OrcRow>;

    /// True for an address of the kernel's or a module's code.
    fn is_text(&self, address: VirtualAddress) -> bool;

    /// The first instruction of the function that holds an address; `None` where no symbol says.
    fn function_start(&self, address: VirtualAddress) -> Option<VirtualAddress>;

    /// The image whose call frame information covers an address, and its bias: what is added to the image's
    /// addresses to get the guest's. `None` where there is no image.
    fn image(&self, _address: VirtualAddress) -> Option<(&Image<'_>, u64)> {
        None
    }

    /// True if frames should have all registers that the image's call frame information restores, as variables need.
    /// ORC restores RBP alone.
    fn wants_registers(&self) -> bool {
        false
    }
}

/// Unwinds the stack of a vCPU in the kernel, or of a task that sleeps in it, from its registers. `memory` is the
/// kernel's address space.
pub fn unwind(
    code: &dyn KernelCode,
    registers: &UnwindRegisters,
    memory: &dyn VirtualMemory,
) -> Trace {
    let mut steps = Steps { code, memory, cfi: CfiSteps::new() };
    trace(registers, |frame| steps.step(frame))
}

/// The state of a walk up a stack.
struct Steps<'a> {
    code: &'a dyn KernelCode,
    memory: &'a dyn VirtualMemory,
    cfi: CfiSteps,
}

impl Steps<'_> {
    /// The caller of a frame, or what the frame interrupted.
    fn step(&mut self, frame: &mut UnwoundFrame) -> Result<UnwoundFrame, End> {
        let (code, memory, address) = (self.code, self.memory, frame.pc.address());
        // Programs have the lower half of the address space.
        if address.0 >> 63 == 0 && address.0 != 0 {
            return Err(End::UserMode { pc: address });
        }
        let lookup = frame.pc.lookup_address();
        if let Some(row) = code.row(lookup) {
            let mut next = by_row(code, frame, &row, memory)?;
            if code.wants_registers() && !next.is_interrupted() {
                self.add_registers(frame, &mut next);
            }
            return Ok(next);
        }
        if let Some(image) = code.image(lookup) {
            let is_text = |address| code.is_text(VirtualAddress(address));
            match self.cfi.caller(image, frame, memory, is_text) {
                Ok(Some(next)) => return next,
                Ok(None) => {}
                Err(error) => frame.cfi_fault = Some(error),
            }
        }
        frame_pointer::caller(code, frame, memory)
    }

    /// Adds the registers that call frame information restores to a caller, if it leads to the same one.
    fn add_registers(&mut self, frame: &UnwoundFrame, next: &mut UnwoundFrame) {
        let code = self.code;
        let Some(image) = code.image(frame.pc.lookup_address()) else { return };
        let is_text = |address| code.is_text(VirtualAddress(address));
        let by_cfi = self.cfi.caller(image, &mut frame.clone(), self.memory, is_text);
        let Ok(Some(Ok(by_cfi))) = by_cfi else { return };
        let stack_pointer = |frame: &UnwoundFrame| frame.registers.get(Register::Rsp);
        if by_cfi.pc == next.pc && stack_pointer(&by_cfi) == stack_pointer(next) {
            for register in Register::ALL {
                if let (Some(value), None) =
                    (by_cfi.registers.get(register), next.registers.get(register))
                {
                    next.registers.set(register, value);
                }
            }
        }
    }
}

fn by_row(
    code: &dyn KernelCode,
    frame: &mut UnwoundFrame,
    row: &OrcRow,
    memory: &dyn VirtualMemory,
) -> Result<UnwoundFrame, End> {
    let no_caller = || End::NoOrcCaller { pc: frame.pc.address() };
    match row.frame {
        OrcFrame::End => return Err(End::Outermost),
        OrcFrame::Undefined => return Err(no_caller()),
        OrcFrame::Call | OrcFrame::Registers | OrcFrame::PartialRegisters => {}
    }
    let cfa = stack_address(row, &frame.registers, memory)?.ok_or_else(no_caller)?;
    frame.cfa = Some(VirtualAddress(cfa));
    match row.frame {
        OrcFrame::Registers => interrupted(code, frame, memory, Saved::All(cfa), Strategy::Orc),
        OrcFrame::PartialRegisters => {
            interrupted(code, frame, memory, Saved::ByCpu(cfa), Strategy::Orc)
        }
        _ => caller(code, frame, row, memory, cfa),
    }
}

/// The address that a row computes of a frame's registers; `None` where a register is not known.
fn stack_address(
    row: &OrcRow,
    registers: &UnwindRegisters,
    memory: &dyn VirtualMemory,
) -> Result<Option<u64>, End> {
    let register = match row.sp_base {
        OrcBase::Sp | OrcBase::SpIndirect => Register::Rsp,
        OrcBase::Bp | OrcBase::BpIndirect => Register::Rbp,
        OrcBase::Ax => Register::Rax,
        OrcBase::Dx => Register::Rdx,
        OrcBase::Di => Register::Rdi,
        OrcBase::R10 => Register::R10,
        OrcBase::R13 => Register::R13,
        OrcBase::Undefined | OrcBase::PreviousSp => return Ok(None),
    };
    let Some(value) = registers.get(register) else { return Ok(None) };
    let offset = i64::from(row.sp_offset);
    Ok(Some(match row.sp_base {
        OrcBase::SpIndirect => read(memory, value, 8)?.wrapping_add_signed(offset),
        OrcBase::BpIndirect => read(memory, value.wrapping_add_signed(offset), 8)?,
        _ => value.wrapping_add_signed(offset),
    }))
}

/// The caller of a function. The words below its stack address are the return address and, further down, what
/// the function saved.
fn caller(
    code: &dyn KernelCode,
    frame: &UnwoundFrame,
    row: &OrcRow,
    memory: &dyn VirtualMemory,
    cfa: u64,
) -> Result<UnwoundFrame, End> {
    let return_address = read(memory, cfa.wrapping_sub(8), 8)?;
    let bp = match row.bp_base {
        OrcBase::PreviousSp => Some(cfa),
        OrcBase::Bp => frame.registers.get(Register::Rbp),
        // The function has not changed it.
        _ => None,
    };
    let saved = match (row.bp_base, bp) {
        (OrcBase::PreviousSp | OrcBase::Bp, None) => None,
        (OrcBase::PreviousSp | OrcBase::Bp, Some(at)) => {
            Some(read(memory, at.wrapping_add_signed(row.bp_offset.into()), 8)?)
        }
        _ => frame.registers.get(Register::Rbp),
    };
    if return_address == 0 {
        return Err(End::ReturnAddressZero);
    }
    if !is_return_address(code, return_address) {
        return Err(End::NotText { address: VirtualAddress(return_address) });
    }
    let known = [(Register::Rip, return_address), (Register::Rsp, cfa)].into_iter();
    let registers = known.chain(saved.map(|saved| (Register::Rbp, saved))).collect();
    let pc = ProgramCounter::Return(VirtualAddress(return_address));
    Ok(new_frame(pc, Strategy::Orc, registers))
}

/// True if the byte before an address is code: a call may be the last instruction of all.
pub(super) fn is_return_address(code: &dyn KernelCode, address: u64) -> bool {
    address.checked_sub(1).is_some_and(|call| code.is_text(VirtualAddress(call)))
}

/// The registers that an entry saved, by the address where they begin.
#[derive(Clone, Copy)]
pub(super) enum Saved {
    /// All registers of what was interrupted (`struct pt_regs`).
    All(u64),
    /// The five words that the CPU pushed.
    ByCpu(u64),
}

/// The frame that an entry interrupted.
pub(super) fn interrupted(
    code: &dyn KernelCode,
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
    saved: Saved,
    strategy: Strategy,
) -> Result<UnwoundFrame, End> {
    let (begin, pushed) = match saved {
        Saved::All(begin) => (begin, CPU_FRAME),
        Saved::ByCpu(begin) => (begin, 0),
    };
    let word = |at: u64| read(memory, begin.wrapping_add(at), 8);
    frame.is_signal_frame = true;
    // RIP, CS, RFLAGS, RSP, SS (SDM volume 3, 7.14.2).
    let [rip, cs, rsp] = [word(pushed)?, word(pushed + 8)?, word(pushed + 24)?];
    // The requested privilege level of CS.
    if cs & 3 != 0 {
        return Err(End::UserMode { pc: VirtualAddress(rip) });
    }
    // A kernel thread has interrupted nothing: its registers are zeros (`copy_thread`, arch/x86/kernel/process.c).
    if (rip, cs) == (0, 0) {
        return Err(End::ReturnAddressZero);
    }
    let mut registers: UnwindRegisters =
        [(Register::Rip, rip), (Register::Rsp, rsp)].into_iter().collect();
    if let Saved::All(_) = saved {
        for (register, at) in PT_REGS.into_iter().zip((0..).step_by(8)) {
            registers.set(register, word(at)?);
        }
    } else if let Some(bp) = frame.registers.get(Register::Rbp) {
        registers.set(Register::Rbp, bp);
    }
    let address = VirtualAddress(rip);
    if !code.is_text(address) && rip != 0 {
        return Err(End::NotText { address });
    }
    Ok(new_frame(ProgramCounter::Interrupted(address), strategy, registers))
}
