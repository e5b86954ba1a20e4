//! The location of a variable: from its entry to the bytes of its value.
//!
//! Owns location lists, frame bases and pieces. Owns no rendering. Called by
//! [`Variables`](super::Variables).

use gimli::{AttributeValue, Piece, UnitOffset};
use nmiscope_machine::{Register, VirtualAddress, VirtualMemory};

use super::ValueError;
use crate::dwarf::{Budget, Dwarf, Entry, Slice, Unit, Value, Work, read, read_entry};
use crate::expression::{ExpressionError, FrameContext};
use crate::types::TypeError;
use crate::unwind::UnwoundFrame;

/// Largest value that is assembled from more than memory, in bytes: a fat pointer.
pub(super) const MAX_VALUE: usize = 16;

/// A constant value that the debug information itself has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Constant<'t> {
    /// The number, sign-extended if its form has a sign.
    Number(i128),
    Bytes(Slice<'t>),
}

/// The location of a value.
pub(super) enum Location<'t> {
    /// The value has no location: it was optimized out.
    None,
    Constant(Constant<'t>),
    /// The expression that gives the location. It is not evaluated until the bytes are needed: that of a
    /// large structure in pieces is long, and its bytes are not shown.
    Expression(Slice<'t>),
}

/// A finder of the variables of a frame.
pub(super) struct Locator<'a, 't> {
    dwarf: &'a Dwarf<'t>,
    unit: &'a Unit<'t>,
    /// The address of the frame's PC in the image, without bias.
    address: u64,
    frame: FrameContext<'a>,
    budget: Budget<'a>,
}

impl<'a, 't> Locator<'a, 't> {
    pub(super) fn new(
        dwarf: &'a Dwarf<'t>,
        unit: &'a Unit<'t>,
        address: u64,
        frame: &'a UnwoundFrame,
        memory: &'a dyn VirtualMemory,
        bias: u64,
        budget: Budget<'a>,
    ) -> Self {
        let cfa = frame.cfa.map(|cfa| cfa.0);
        let frame =
            FrameContext { registers: &frame.registers, memory, cfa, frame_base: None, bias };
        Self { dwarf, unit, address, frame, budget }
    }

    /// The budget of work for the debug information.
    pub(super) fn work(&self) -> &'a Work {
        self.dwarf.work()
    }

    /// Evaluates the frame base of `function`, from which its variables count. A variable that needs the
    /// frame base reports an error if there is none.
    pub(super) fn find_frame_base(&mut self, function: UnitOffset) {
        let entry = read_entry(self.dwarf.work(), self.unit, function, "a function");
        let Ok(entry) = entry else { return };
        let Some(value) = entry.attr_value(gimli::DW_AT_frame_base) else { return };
        let Ok(Some(bytes)) = self.expression(value) else { return };
        let Ok(pieces) = self.pieces(bytes) else { return };
        self.frame.frame_base = match pieces[..] {
            [Piece { location: gimli::Location::Address { address }, .. }] => Some(address),
            // The register holds the base itself, not its address.
            [Piece { location: gimli::Location::Register { register }, .. }] => {
                Register::from_dwarf(register.0).and_then(|at| self.frame.registers.get(at))
            }
            _ => None,
        };
    }

    pub(super) fn locate(&mut self, entry: &Entry<'t>) -> Result<Location<'t>, TypeError> {
        let Some(value) = entry.attr_value(gimli::DW_AT_location) else {
            return Ok(constant(entry).map_or(Location::None, Location::Constant));
        };
        Ok(self.expression(value)?.map_or(Location::None, Location::Expression))
    }

    fn pieces(&self, bytes: Slice<'t>) -> Result<Vec<Piece<Slice<'t>>>, ExpressionError> {
        let dwarf = self.unit.sections(self.dwarf);
        let indexed = |index| dwarf.address(self.unit, gimli::DebugAddrIndex(index)).ok();
        self.frame.pieces(bytes, self.unit.encoding(), None, indexed)
    }

    /// The expression that holds at the frame's address; `None` where the variable has none.
    fn expression(&mut self, value: Value<'t>) -> Result<Option<Slice<'t>>, TypeError> {
        let found = match value.exprloc_value() {
            Some(expression) => Some(expression.0),
            None => self.listed(value)?,
        };
        Ok(found.filter(|bytes| !bytes.is_empty()))
    }

    fn listed(&mut self, value: Value<'t>) -> Result<Option<Slice<'t>>, TypeError> {
        let what = "a location list";
        let dwarf = self.unit.sections(self.dwarf);
        let Some(mut list) = dwarf.attr_locations(self.unit, value).map_err(read(what))? else {
            return Ok(None);
        };
        while let Some(raw) = list.next_raw().map_err(read(what))? {
            self.budget.spend(1)?;
            let entry = list.convert_raw(raw).map_err(read(what))?;
            if let Some(entry) = entry
                && (entry.range.begin..entry.range.end).contains(&self.address)
            {
                return Ok(Some(entry.data.0));
            }
        }
        Ok(None)
    }

    /// Reads the first `size` bytes of a value, at most [`MAX_VALUE`]. `None` if some of them have no
    /// location.
    pub(super) fn bytes(
        &self,
        location: &Location<'t>,
        size: usize,
    ) -> Result<Option<Vec<u8>>, ValueError> {
        let mut bytes = Vec::new();
        match location {
            Location::None => return Ok(None),
            Location::Constant(Constant::Number(number)) => {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Location::Constant(Constant::Bytes(constant)) => {
                bytes.extend_from_slice(&constant[..constant.len().min(MAX_VALUE)]);
            }
            Location::Expression(expression) => {
                let pieces = match self.pieces(*expression) {
                    Ok(pieces) => pieces,
                    // The value at the function's entry, which is not kept.
                    Err(ExpressionError::EntryValue) => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
                for piece in pieces {
                    let left = size.saturating_sub(bytes.len());
                    if left == 0 {
                        break;
                    }
                    match self.piece(&piece, left)? {
                        Some(part) => bytes.extend_from_slice(&part),
                        None => return Ok(None),
                    }
                }
            }
        }
        // Bytes that no piece covers have no location.
        let is_whole = bytes.len() >= size;
        bytes.truncate(size);
        Ok(is_whole.then_some(bytes))
    }

    /// Reads the bytes of a piece, at most `left`. `None` if they have no location.
    fn piece(&self, piece: &Piece<Slice<'t>>, left: usize) -> Result<Option<Vec<u8>>, ValueError> {
        let length = match piece.size_in_bits {
            None => left,
            Some(bits) if bits % 8 == 0 && piece.bit_offset.unwrap_or(0) == 0 => {
                usize::try_from(bits / 8).map_or(left, |length| length.min(left))
            }
            Some(_) => return Err(unsupported("a part of a byte is")),
        };
        let part = |bytes: &[u8]| {
            let part = bytes.get(..length).map(<[u8]>::to_vec);
            part.ok_or(unsupported("a value of more bytes than its register has is")).map(Some)
        };
        match &piece.location {
            gimli::Location::Address { address } => {
                let mut bytes = vec![0; length.min(MAX_VALUE)];
                let read = self.frame.memory.read(VirtualAddress(*address), &mut bytes);
                read.map_err(TypeError::from)?;
                Ok(Some(bytes))
            }
            gimli::Location::Register { register } => {
                let known = Register::from_dwarf(register.0);
                let value = known.and_then(|known| self.frame.registers.get(known));
                let unknown = ExpressionError::UnknownRegister { register: register.0 };
                part(&value.ok_or(unknown)?.to_le_bytes())
            }
            gimli::Location::Value { value } => {
                let number = value.to_u64(u64::MAX).map_err(ExpressionError::from)?;
                part(&number.to_le_bytes())
            }
            gimli::Location::Bytes { value } => part(value),
            // No location, or a pointer to a value that has none.
            _ => Ok(None),
        }
    }
}

fn unsupported(what: &'static str) -> ValueError {
    ExpressionError::Unsupported { what }.into()
}

/// The constant value of the entry itself (DW_AT_const_value).
pub(super) fn constant<'t>(entry: &Entry<'t>) -> Option<Constant<'t>> {
    let value = entry.attr_value(gimli::DW_AT_const_value)?;
    match value {
        AttributeValue::Block(bytes) => Some(Constant::Bytes(bytes)),
        _ => {
            let unsigned = value.udata_value().map(i128::from);
            unsigned.or_else(|| value.sdata_value().map(i128::from)).map(Constant::Number)
        }
    }
}
