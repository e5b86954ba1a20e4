//! A step to the caller by call frame information: a row's rules, applied to registers and memory.
//!
//! Owns the rules that DWARF (version 5, section 6.4) and the psABI leave to an unwinder: the defaults for
//! registers without a rule. Called by the loop in `unwind`.

use gimli::{CfaRule, RegisterRule};
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualMemory};

use super::trace::CfiError;
use crate::call_frames::{CallFrame, Row};
use crate::expression::{FrameContext, read};

/// The caller of a frame, computed from a row.
pub(super) struct Applied {
    pub(super) cfa: u64,
    pub(super) return_address: ReturnAddress,
    /// Registers of the caller, except RIP, which the loop decides.
    pub(super) caller: UnwindRegisters,
}

/// The return address of a frame, or its absence.
pub(super) enum ReturnAddress {
    /// The rule is "undefined": the frame has no caller.
    None,
    At(u64),
    Unreadable(ReadError),
}

/// The value of a register in the caller.
enum Value {
    Known(u64),
    Unknown,
    Unreadable(ReadError),
}

pub(super) fn apply(
    call_frame: &CallFrame<'_>,
    row: &Row,
    registers: &UnwindRegisters,
    memory: &dyn VirtualMemory,
    bias: u64,
) -> Result<Applied, CfiError> {
    let mut frame = FrameContext { registers, memory, cfa: None, frame_base: None, bias };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let base = Register::from_dwarf(register.0).and_then(|known| registers.get(known));
            let base = base.ok_or(CfiError::UnknownRegister { register: register.0 })?;
            base.wrapping_add_signed(*offset)
        }
        CfaRule::Expression(expression) => {
            frame.number(call_frame.expression(expression)?, None)?
        }
    };
    frame.cfa = Some(cfa);
    let mut caller = UnwindRegisters::default();
    for register in Register::ALL.into_iter().filter(|&register| register != Register::Rip) {
        let rule = row.register(gimli::Register(register as u16));
        let value = match rule {
            // The CFA is where the stack pointer was before the call, by its definition.
            None if register == Register::Rsp => Value::Known(cfa),
            // The entry of an interrupt has not changed registers that it has not saved.
            None if register.is_callee_saved() || call_frame.is_signal_frame() => {
                registers.get(register).map_or(Value::Unknown, Value::Known)
            }
            None => Value::Unknown,
            Some(rule) => value(call_frame, &frame, &rule, cfa, register),
        };
        if let Value::Known(value) = value {
            caller.set(register, value);
        }
    }
    let return_address = match row.register(call_frame.return_address_column()) {
        Some(RegisterRule::Undefined) => ReturnAddress::None,
        None => return Err(CfiError::NoReturnAddress),
        Some(rule) => match value(call_frame, &frame, &rule, cfa, Register::Rip) {
            Value::Known(address) => ReturnAddress::At(address),
            Value::Unreadable(error) => ReturnAddress::Unreadable(error),
            Value::Unknown => return Err(CfiError::NoReturnAddress),
        },
    };
    Ok(Applied { cfa, return_address, caller })
}

fn value(
    call_frame: &CallFrame<'_>,
    frame: &FrameContext<'_>,
    rule: &RegisterRule<usize>,
    cfa: u64,
    register: Register,
) -> Value {
    let known = |value: Option<u64>| value.map_or(Value::Unknown, Value::Known);
    let at = |address| match read(frame.memory, address, 8) {
        Ok(value) => Value::Known(value),
        Err(error) => Value::Unreadable(error),
    };
    let number = |expression| {
        let bytes = call_frame.expression(expression).ok()?;
        frame.number(bytes, Some(cfa)).ok()
    };
    match rule {
        RegisterRule::SameValue => known(frame.registers.get(register)),
        RegisterRule::Offset(offset) => at(cfa.wrapping_add_signed(*offset)),
        RegisterRule::ValOffset(offset) => Value::Known(cfa.wrapping_add_signed(*offset)),
        RegisterRule::Register(other) => {
            known(Register::from_dwarf(other.0).and_then(|other| frame.registers.get(other)))
        }
        RegisterRule::Expression(expression) => number(expression).map_or(Value::Unknown, at),
        RegisterRule::ValExpression(expression) => known(number(expression)),
        RegisterRule::Constant(value) => Value::Known(*value),
        // RegisterRule::Undefined, and rules for other machines only.
        _ => Value::Unknown,
    }
}
