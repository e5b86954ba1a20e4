//! DWARF expressions, evaluated for one frame.
//!
//! Owns the bound on the cost of an expression, and the values of a frame that it can use. Owns no tables:
//! the caller knows what an expression describes. Called by `unwind` for CFI and by `variables` for
//! locations.

use gimli::{Encoding, EvaluationResult, Format, Piece, Value};
use nmiscope_machine::{ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory};

use crate::dwarf::Slice;

/// Operations that an expression may execute. Compilers write fewer than ten; the longest known in CFI, for
/// a PLT entry, has eleven.
const MAX_OPERATIONS: u32 = 64;

/// The reason why an expression has no value in a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// The expression is inconsistent, or takes too many operations.
    #[error("evaluate a DWARF expression")]
    Malformed(#[from] gimli::Error),
    /// The expression needs a register whose value is not known in this frame.
    #[error("evaluate a DWARF expression: the value of {} is not known", name(*register))]
    UnknownRegister {
        /// The DWARF number of that register.
        register: u16,
    },
    /// The expression reads memory that cannot be read.
    #[error("evaluate a DWARF expression")]
    Unreadable(#[from] ReadError),
    /// The expression needs a value from the entry of the function, which is not kept.
    #[error("evaluate a DWARF expression: values at a function's entry are not kept")]
    EntryValue,
    /// The expression needs something that no frame here provides.
    #[error("evaluate a DWARF expression: {what} not supported here")]
    Unsupported {
        /// The name of the missing value.
        what: &'static str,
    },
}

/// A register's name, or its DWARF number if the register is not kept.
pub(crate) fn name(register: u16) -> String {
    match Register::from_dwarf(register) {
        Some(register) => register.to_string(),
        None => format!("DWARF register {register}"),
    }
}

/// Values of a frame that an expression can use.
pub(crate) struct FrameContext<'a> {
    pub(crate) registers: &'a UnwindRegisters,
    pub(crate) memory: &'a dyn VirtualMemory,
    /// The canonical frame address, guest-virtual; `None` where it is not known.
    pub(crate) cfa: Option<u64>,
    /// The value of the function's DW_AT_frame_base, guest-virtual; `None` where it is not known.
    pub(crate) frame_base: Option<u64>,
    /// The distance from an address of the image to its address in memory, modulo 2^64.
    pub(crate) bias: u64,
}

impl FrameContext<'_> {
    /// Evaluates an expression to a number. `initial` is put on its stack first.
    pub(crate) fn number(
        &self,
        bytes: Slice<'_>,
        initial: Option<u64>,
    ) -> Result<u64, ExpressionError> {
        let pieces = self.pieces(bytes, encoding(4), initial, |_| None)?;
        match pieces[..] {
            [Piece { location: gimli::Location::Address { address }, .. }] => Ok(address),
            _ => Err(ExpressionError::Unsupported { what: "a location where a number is due is" }),
        }
    }

    /// Evaluates an expression to the places that it names. `indexed` looks up `.debug_addr`.
    pub(crate) fn pieces<'a>(
        &self,
        bytes: Slice<'a>,
        encoding: Encoding,
        initial: Option<u64>,
        indexed: impl Fn(usize) -> Option<u64>,
    ) -> Result<Vec<Piece<Slice<'a>>>, ExpressionError> {
        let unsupported = |what| Err(ExpressionError::Unsupported { what });
        let encoding = Encoding { address_size: 8, ..encoding };
        let mut evaluation = gimli::Expression(bytes).evaluation(encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut state = evaluation.evaluate()?;
        // Each round executes an operation, so gimli's limit bounds this loop too.
        loop {
            state = match state {
                EvaluationResult::Complete => return Ok(evaluation.result()),
                EvaluationResult::RequiresRegister { register, base_type } if base_type.0 == 0 => {
                    evaluation.resume_with_register(Value::Generic(self.register(register)?))?
                }
                EvaluationResult::RequiresMemory { address, size, space: None, base_type }
                    if base_type.0 == 0 =>
                {
                    let value = read(self.memory, address, size)?;
                    evaluation.resume_with_memory(Value::Generic(value))?
                }
                EvaluationResult::RequiresFrameBase => match self.frame_base {
                    Some(base) => evaluation.resume_with_frame_base(base)?,
                    None => return unsupported("the frame base is"),
                },
                EvaluationResult::RequiresCallFrameCfa => match self.cfa {
                    Some(cfa) => evaluation.resume_with_call_frame_cfa(cfa)?,
                    None => return unsupported("the call frame's address is"),
                },
                EvaluationResult::RequiresRelocatedAddress(address) => {
                    evaluation.resume_with_relocated_address(address.wrapping_add(self.bias))?
                }
                EvaluationResult::RequiresIndexedAddress { index, relocate } => {
                    let Some(address) = indexed(index.0) else {
                        return unsupported("an address by its index is");
                    };
                    let bias = if relocate { self.bias } else { 0 };
                    evaluation.resume_with_indexed_address(address.wrapping_add(bias))?
                }
                EvaluationResult::RequiresEntryValue(_) => {
                    return Err(ExpressionError::EntryValue);
                }
                EvaluationResult::RequiresTls(_) => {
                    return unsupported("thread-local storage is");
                }
                _ => return unsupported("a typed or foreign value is"),
            };
        }
    }

    fn register(&self, register: gimli::Register) -> Result<u64, ExpressionError> {
        let known = Register::from_dwarf(register.0).and_then(|known| self.registers.get(known));
        known.ok_or(ExpressionError::UnknownRegister { register: register.0 })
    }
}

/// The encoding of expressions in CFI, which belong to no unit. Only the size of an address and of an
/// offset matters: CFI must not refer to another entry.
fn encoding(version: u16) -> Encoding {
    Encoding { address_size: 8, format: Format::Dwarf32, version }
}

/// Reads a little-endian number of `size` bytes, at most 8, zero-extended.
pub(crate) fn read(memory: &dyn VirtualMemory, address: u64, size: u8) -> Result<u64, ReadError> {
    let mut bytes = [0; 8];
    memory.read(VirtualAddress(address), &mut bytes[..usize::from(size.min(8))])?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use gimli::{EndianSlice, LittleEndian};

    use super::*;

    /// Memory in which each byte is the low byte of its address.
    struct Pattern;

    impl VirtualMemory for Pattern {
        fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
            if address.0 >= 0x1_0000 {
                return Err(ReadError::Wraps { address, length: buffer.len() });
            }
            for (byte, at) in buffer.iter_mut().zip(address.0..) {
                *byte = at as u8;
            }
            Ok(())
        }
    }

    fn number(bytes: &[u8], initial: Option<u64>) -> Result<u64, ExpressionError> {
        let registers = UnwindRegisters::new(VirtualAddress(0x40), VirtualAddress(0x1000));
        let frame = FrameContext {
            registers: &registers,
            memory: &Pattern,
            cfa: Some(0x1010),
            frame_base: None,
            bias: 0x100,
        };
        frame.number(EndianSlice::new(bytes, LittleEndian), initial)
    }

    #[test]
    fn operations_use_the_frames_registers_memory_and_cfa() {
        // DW_OP_breg7 (rsp) 8
        assert_eq!(number(&[0x77, 8], None), Ok(0x1008));
        // The same, dereferenced: DW_OP_deref, and one byte of it: DW_OP_deref_size 1
        assert_eq!(number(&[0x77, 8, 0x06], None), Ok(0x0f0e_0d0c_0b0a_0908));
        assert_eq!(number(&[0x77, 8, 0x94, 1], None), Ok(8));
        // DW_OP_plus_uconst 16 on an initial value
        assert_eq!(number(&[0x23, 16], Some(5)), Ok(21));
        // DW_OP_call_frame_cfa
        assert_eq!(number(&[0x9c], None), Ok(0x1010));
        // DW_OP_addr 0x1234 lies where the image was moved to
        assert_eq!(number(&[0x03, 0x34, 0x12, 0, 0, 0, 0, 0, 0], None), Ok(0x1334));
    }

    #[test]
    fn unknown_values_are_reported_with_their_reason() {
        // DW_OP_breg3 (rbx) 0
        let error = number(&[0x73, 0], None).expect_err("rbx is not known");
        assert_eq!(error, ExpressionError::UnknownRegister { register: 3 });
        assert!(error.to_string().ends_with("the value of rbx is not known"), "{error}");
        // DW_OP_const4u 0x20000, DW_OP_deref
        let unreadable = number(&[0x0c, 0, 0, 2, 0, 0x06], None);
        assert!(matches!(unreadable, Err(ExpressionError::Unreadable(_))), "{unreadable:?}");
        // DW_OP_fbreg 0; DW_OP_reg3 is no number
        for bytes in [&[0x91, 0][..], &[0x53]] {
            let error = number(bytes, None);
            assert!(matches!(error, Err(ExpressionError::Unsupported { .. })), "{error:?}");
        }
        // DW_OP_entry_value of one byte, DW_OP_reg5; DW_OP_stack_value
        assert_eq!(number(&[0xa3, 1, 0x55, 0x9f], None), Err(ExpressionError::EntryValue));
    }

    #[test]
    fn an_endless_expression_is_stopped() {
        // DW_OP_skip -3
        let error = number(&[0x2f, 0xfd, 0xff], None);
        assert_eq!(error, Err(ExpressionError::Malformed(gimli::Error::TooManyIterations)));
    }
}
