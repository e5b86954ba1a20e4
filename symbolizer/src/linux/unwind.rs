//! Unwinding of Linux stacks by ORC rows.
//!
//! Owns the steps from a frame to its caller: through calls, through the registers that an entry from interrupts,
//! exceptions and system calls saved, and from one stack to another (arch/x86/kernel/unwind_orc.c, `unwind_next_frame`).
//! Refuses to own the rows ([`super::orc`]) and which code is the kernel's: both come from the caller, which knows
//! modules. Code without a row is tried by its frame pointer, as the kernel does for generated code.

use nmiscope_machine::{Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use super::orc::{OrcBase, OrcFrame, OrcRow};
use crate::expression::read;
use crate::program_counter::ProgramCounter;
use crate::unwind::{
    End, Strategy, Trace, UnwoundFrame, caller_by_frame_pointer, new_frame, trace,
};

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
}

/// Unwinds the stack of a vCPU in the kernel, or of a task that sleeps in it, from its registers. `memory` is the
/// kernel's address space.
pub fn unwind(
    code: &dyn KernelCode,
    registers: &UnwindRegisters,
    memory: &dyn VirtualMemory,
) -> Trace {
    trace(registers, |frame| step(code, frame, memory))
}

/// The caller of a frame, or what the frame interrupted.
fn step(
    code: &dyn KernelCode,
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
) -> Result<UnwoundFrame, End> {
    let address = frame.pc.address();
    // Programs have the lower half of the address space.
    if address.0 >> 63 == 0 && address.0 != 0 {
        return Err(End::UserMode { pc: address });
    }
    let Some(row) = code.row(frame.pc.lookup_address()) else {
        let is_return_address = |address| is_return_address(code, address);
        return caller_by_frame_pointer(frame, memory, is_return_address);
    };
    let no_caller = || End::NoOrcCaller { pc: frame.pc.address() };
    match row.frame {
        OrcFrame::End => return Err(End::Outermost),
        OrcFrame::Undefined => return Err(no_caller()),
        OrcFrame::Call | OrcFrame::Registers | OrcFrame::PartialRegisters => {}
    }
    let cfa = stack_address(&row, &frame.registers, memory)?.ok_or_else(no_caller)?;
    frame.cfa = Some(VirtualAddress(cfa));
    match row.frame {
        OrcFrame::Registers => interrupted(code, frame, memory, cfa, true),
        OrcFrame::PartialRegisters => interrupted(code, frame, memory, cfa, false),
        _ => caller(code, frame, &row, memory, cfa),
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

fn is_return_address(code: &dyn KernelCode, address: u64) -> bool {
    address.checked_sub(1).is_some_and(|call| code.is_text(VirtualAddress(call)))
}

/// The frame that an entry interrupted: all its registers, or what the CPU pushed.
fn interrupted(
    code: &dyn KernelCode,
    frame: &mut UnwoundFrame,
    memory: &dyn VirtualMemory,
    cfa: u64,
    all: bool,
) -> Result<UnwoundFrame, End> {
    let word = |at: u64| read(memory, cfa.wrapping_add(at), 8);
    frame.is_signal_frame = true;
    let pushed = if all { CPU_FRAME } else { 0 };
    // RIP, CS, RFLAGS, RSP, SS (SDM volume 3, 7.14.2).
    let [rip, cs, rsp] = [word(pushed)?, word(pushed + 8)?, word(pushed + 24)?];
    // The requested privilege level of CS.
    if cs & 3 != 0 {
        return Err(End::UserMode { pc: VirtualAddress(rip) });
    }
    let mut registers: UnwindRegisters =
        [(Register::Rip, rip), (Register::Rsp, rsp)].into_iter().collect();
    if all {
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
    Ok(new_frame(ProgramCounter::Interrupted(address), Strategy::Orc, registers))
}
