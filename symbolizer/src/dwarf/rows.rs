//! The rows of a line program.
//!
//! Owns the state machine of line programs (DWARF 5, 6.2.5), for the four columns that are kept. gimli reads
//! the header; its own machine keeps all columns and checks more, and takes four times as long for what is
//! the larger half of a lookup. Called by `lines`.

use gimli::{LineProgramHeader, Reader};

use super::sections::Slice;
use super::{DwarfError, read};

/// A row of the line table, or the end of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineRow {
    pub(super) address: u64,
    /// The number of the file in the header's list.
    pub(super) file: u64,
    /// The line, from 1; 0 for code that belongs to no line.
    pub(super) line: u64,
    /// The column, from 1; 0 for the left edge of the line.
    pub(super) column: u64,
    /// True for the address behind a sequence, which is no row.
    pub(super) is_end: bool,
}

/// A line program that is being run.
pub(super) struct Rows<'p, 'a> {
    header: &'p LineProgramHeader<Slice<'a>>,
    rest: Slice<'a>,
    row: LineRow,
    operation: u64,
    /// True for a sequence that the linker dropped, whose address is a mark for that.
    is_dropped: bool,
}

/// The state of the machine at the start of a sequence.
const START: LineRow = LineRow { address: 0, file: 1, line: 1, column: 0, is_end: false };

impl<'p, 'a> Rows<'p, 'a> {
    /// Starts the program of a header.
    pub(super) fn new(header: &'p LineProgramHeader<Slice<'a>>) -> Self {
        Self { header, rest: header.raw_program_buf(), row: START, operation: 0, is_dropped: false }
    }

    /// Runs the program to its next row; `None` at its end.
    ///
    /// # Errors
    /// The program breaks off, or an address wraps around.
    pub(super) fn next(&mut self) -> Result<Option<LineRow>, DwarfError> {
        self.run().map_err(read("a line program"))
    }

    fn run(&mut self) -> gimli::Result<Option<LineRow>> {
        let first_special = self.header.opcode_base();
        let (base, range) = (i64::from(self.header.line_base()), self.header.line_range());
        while let Some((&opcode, rest)) = self.rest.slice().split_first() {
            self.rest = Slice::new(rest, gimli::LittleEndian);
            let is_row = if opcode >= first_special {
                // Steps 1 and 2 of a special opcode (DWARF 5, 6.2.5.1).
                let adjusted = opcode - first_special;
                self.advance_line(base + i64::from(adjusted % range));
                self.advance(u64::from(adjusted / range))?;
                true
            } else if opcode == 0 {
                self.extended()?
            } else {
                self.standard(opcode)?
            };
            if !is_row {
                continue;
            }
            let row = self.row;
            let is_dropped = self.is_dropped;
            if row.is_end {
                (self.row, self.operation, self.is_dropped) = (START, 0, false);
            }
            if !is_dropped {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn advance_line(&mut self, by: i64) {
        self.row.line = match by {
            ..0 => self.row.line.saturating_sub(by.unsigned_abs()),
            _ => self.row.line.wrapping_add(by.unsigned_abs()),
        };
    }

    /// Advances the operation pointer: by whole instructions, but for a machine that has several operations in
    /// one.
    fn advance(&mut self, operations: u64) -> gimli::Result<()> {
        if self.is_dropped {
            return Ok(());
        }
        let most = u64::from(self.header.maximum_operations_per_instruction());
        let instructions = if most == 1 {
            operations
        } else {
            let operation = self.operation.wrapping_add(operations);
            self.operation = operation % most;
            operation / most
        };
        let length = u64::from(self.header.minimum_instruction_length());
        self.add(length.wrapping_mul(instructions))
    }

    fn add(&mut self, bytes: u64) -> gimli::Result<()> {
        let address = self.row.address.checked_add(bytes);
        self.row.address = address.ok_or(gimli::Error::AddressOverflow)?;
        Ok(())
    }

    /// Executes a standard opcode (DWARF 5, 6.2.5.2). Returns true if it makes a row.
    fn standard(&mut self, opcode: u8) -> gimli::Result<bool> {
        match gimli::DwLns(opcode) {
            gimli::DW_LNS_copy => return Ok(true),
            gimli::DW_LNS_advance_pc => {
                let operations = self.number()?;
                self.advance(operations)?;
            }
            gimli::DW_LNS_advance_line => {
                let by = self.signed_number()?;
                self.advance_line(by);
            }
            gimli::DW_LNS_set_file => self.row.file = self.number()?,
            gimli::DW_LNS_set_column => self.row.column = self.number()?,
            gimli::DW_LNS_const_add_pc => {
                let adjusted = 255 - self.header.opcode_base();
                self.advance(u64::from(adjusted / self.header.line_range()))?;
            }
            gimli::DW_LNS_fixed_advance_pc => {
                let bytes = self.rest.read_u16()?;
                if !self.is_dropped {
                    self.add(u64::from(bytes))?;
                    self.operation = 0;
                }
            }
            gimli::DW_LNS_negate_stmt
            | gimli::DW_LNS_set_basic_block
            | gimli::DW_LNS_set_prologue_end
            | gimli::DW_LNS_set_epilogue_begin => {}
            gimli::DW_LNS_set_isa => {
                self.number()?;
            }
            _ => {
                let lengths = self.header.standard_opcode_lengths().slice();
                let operands = lengths.get(usize::from(opcode) - 1);
                let end = gimli::Error::UnexpectedEof(self.rest.offset_id());
                for _ in 0..*operands.ok_or(end)? {
                    self.number()?;
                }
            }
        }
        Ok(false)
    }

    /// Executes an extended opcode (DWARF 5, 6.2.5.3). Returns true if it ends a sequence.
    fn extended(&mut self) -> gimli::Result<bool> {
        let length = self.number()?;
        let mut operands = self.rest.split(usize::try_from(length).unwrap_or(usize::MAX))?;
        match gimli::DwLne(operands.read_u8()?) {
            gimli::DW_LNE_end_sequence => {
                self.row.is_end = true;
                return Ok(true);
            }
            gimli::DW_LNE_set_address => {
                let size = self.header.address_size();
                let address = operands.read_address(size)?;
                // The linker marks a sequence whose code it has dropped by an address of -1 or -2, or
                // by one below where the sequence has come to: addresses only grow in one.
                let mark = u64::MAX >> (64 - 8 * u32::from(size).clamp(1, 8));
                self.is_dropped = address < self.row.address || address >= mark - 1;
                if !self.is_dropped {
                    (self.row.address, self.operation) = (address, 0);
                }
            }
            gimli::DW_LNE_set_discriminator => {
                operands.read_uleb128()?;
            }
            _ => {}
        }
        Ok(false)
    }

    /// Reads a signed number; nearly all take one byte.
    fn signed_number(&mut self) -> gimli::Result<i64> {
        match self.rest.slice().split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = Slice::new(rest, gimli::LittleEndian);
                // Bit 6 is the sign.
                Ok(i64::from((byte << 1).cast_signed() >> 1))
            }
            _ => self.rest.read_sleb128(),
        }
    }

    /// Reads a number; nearly all take one byte.
    fn number(&mut self) -> gimli::Result<u64> {
        match self.rest.slice().split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = Slice::new(rest, gimli::LittleEndian);
                Ok(u64::from(byte))
            }
            _ => self.rest.read_uleb128(),
        }
    }
}

#[cfg(test)]
mod tests {
    use gimli::{ColumnType, DebugLine, DebugLineOffset, LittleEndian};
    use proptest::prelude::*;

    use super::*;

    /// A section with a line program of version 4.
    fn section(line_range: u8, opcode_base: u8, operations: u8, program: &[u8]) -> Vec<u8> {
        let lengths = [0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 2, 0, 1];
        let lengths = &lengths[..usize::from(opcode_base) - 1];
        let mut header = vec![1, operations, 1, 0xfb, line_range, opcode_base];
        header.extend(lengths);
        header.extend([0, b'a', 0, 0, 0, 0, 0]);
        let mut section = u32::to_le_bytes((6 + header.len() + program.len()) as u32).to_vec();
        section.extend([4, 0]);
        section.extend(u32::to_le_bytes(header.len() as u32));
        section.extend(header);
        section.extend(program);
        section
    }

    /// The rows of gimli's machine, and whether it failed behind them.
    fn expected(section: &[u8]) -> (Vec<LineRow>, bool) {
        let lines = DebugLine::new(section, LittleEndian);
        let program = lines.program(DebugLineOffset(0), 8, None, None).expect("a header");
        let mut program = program.rows();
        let mut rows = Vec::new();
        loop {
            match program.next_row() {
                Err(_) => return (rows, true),
                Ok(None) => return (rows, false),
                Ok(Some((_, row))) => rows.push(LineRow {
                    address: row.address(),
                    file: row.file_index(),
                    line: row.line().map_or(0, std::num::NonZero::get),
                    column: match row.column() {
                        ColumnType::LeftEdge => 0,
                        ColumnType::Column(column) => column.get(),
                    },
                    is_end: row.end_sequence(),
                }),
            }
        }
    }

    fn found(section: &[u8]) -> (Vec<LineRow>, bool) {
        let lines = DebugLine::new(section, LittleEndian);
        let program = lines.program(DebugLineOffset(0), 8, None, None).expect("a header");
        let mut program = Rows::new(program.header());
        let mut rows = Vec::new();
        loop {
            match program.next() {
                Err(_) => return (rows, true),
                Ok(None) => return (rows, false),
                Ok(Some(row)) => rows.push(row),
            }
        }
    }

    /// Instructions, most of them whole.
    fn program() -> impl Strategy<Value = Vec<u8>> {
        let address = prop_oneof![Just(0), Just(0x1000), Just(u64::MAX), any::<u64>()];
        let instruction = prop_oneof![
            8 => any::<u8>().prop_map(|opcode| vec![opcode]),
            4 => (1..15_u8, any::<[u8; 2]>()).prop_map(|(opcode, operands)| [&[opcode], &operands[..]].concat()),
            2 => address.prop_map(|address| [&[0, 9, 2], &u64::to_le_bytes(address)[..]].concat()),
            2 => Just(vec![0, 1, 1]),
            1 => Just(vec![0, 2, 4, 7]),
        ];
        prop::collection::vec(instruction, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn rows_are_those_of_gimlis_machine(
            line_range in 1..20_u8,
            opcode_base in 1..16_u8,
            operations in 1..4_u8,
            program in program(),
        ) {
            let section = section(line_range, opcode_base, operations, &program);
            prop_assert_eq!(found(&section), expected(&section));
        }
    }
}
