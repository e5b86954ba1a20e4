//! The line table of a unit.
//!
//! Owns finding the row for an address, and with that the place in the source. Called by
//! [`DebugInfo`](super::DebugInfo), which keeps a table for each unit with a lookup.

use gimli::{AttributeValue, DebugLineOffset, Reader, Section};

use super::entries::{Unit, root};
use super::files::Files;
use super::rows::{LineRow, Rows};
use super::{Dwarf, DwarfError, read};
use crate::ranges::RangeMap;
use crate::source::Location;

/// Bytes that a row takes in a line program, at the least that compilers achieve.
const BYTES_PER_ROW: usize = 3;
/// Rows that a unit may have. A large program that was optimized as one unit has a million.
const MAX_ROWS: usize = 1 << 22;
/// Length in bytes of the header, which lists directories and files. A kernel's units have some thousand.
const MAX_HEADER: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Row {
    /// Bytes from the start of the sequence.
    offset: u32,
    file: u32,
    /// The line; 0 for code that belongs to no line.
    line: u32,
    /// The column; 0 for the left edge, an unknown column, or one beyond 16 bits.
    column: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sequence {
    begin: u64,
    /// The index of the first row of the sequence.
    first: usize,
    count: usize,
}

/// Rows of a line program by address, without lifetimes.
#[derive(Debug)]
pub(super) struct LineTable {
    rows: Vec<Row>,
    sequences: RangeMap<Sequence>,
    files: Files,
}

impl LineTable {
    /// Reads all of a unit's line program. Sequences that start outside `is_text` are leftovers of
    /// functions that the linker dropped.
    pub(super) fn read<'a>(
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        is_text: impl Fn(u64) -> bool,
    ) -> Result<Self, DwarfError> {
        let mut table =
            Self { rows: Vec::new(), sequences: RangeMap::new([]), files: Files::default() };
        let root = root(dwarf.work(), unit)?;
        let Some(AttributeValue::DebugLineRef(offset)) = root.attr_value(gimli::DW_AT_stmt_list)
        else {
            return Ok(table);
        };
        let header = header_length(dwarf, offset).map_err(read("a line program's header"))?;
        if header > MAX_HEADER {
            return Err(DwarfError::TooLarge { what: "a line program's header" });
        }
        dwarf.work().spend(header, "a line program's header")?;
        let program = dwarf
            .debug_line
            .program(offset, unit.address_size(), None, None)
            .map_err(read("a line program's header"))?;
        // Each instruction takes a byte at least, and makes a row at most.
        let length = program.header().raw_program_buf().len();
        dwarf.work().spend(length as u64, "a line program")?;
        let (name, directory) =
            (root.attr_value(gimli::DW_AT_name), root.attr_value(gimli::DW_AT_comp_dir));
        table.files = Files::new(dwarf, unit, program.header(), name, directory);
        table.rows.reserve(length.min(MAX_ROWS) / BYTES_PER_ROW);
        let mut sequences = Vec::new();
        let mut sequence: Option<Sequence> = None;
        let mut program = Rows::new(program.header());
        while let Some(row) = program.next()? {
            let address = row.address;
            if table.rows.len() > MAX_ROWS {
                return Err(dwarf.work().refuse("a line program"));
            }
            if !row.is_end {
                let first = table.rows.len();
                let Sequence { begin, .. } =
                    *sequence.get_or_insert(Sequence { begin: address, first, count: 0 });
                table.add(begin, row);
            } else if let Some(mut sequence) = sequence.take() {
                sequence.count = table.rows.len() - sequence.first;
                if is_text(sequence.begin) {
                    sequences.push((sequence.begin, address, sequence));
                } else {
                    table.rows.truncate(sequence.first);
                }
            }
        }
        table.sequences = RangeMap::new(sequences);
        Ok(table)
    }

    /// Adds a row to the sequence that begins at `begin`. A row at the address of the previous one replaces
    /// it: the last one counts. A row before `begin`, or 4 GiB behind it, is dropped: no code lies there.
    fn add(&mut self, begin: u64, row: LineRow) {
        let Some(Ok(offset)) = row.address.checked_sub(begin).map(u32::try_from) else { return };
        let row = Row {
            offset,
            file: row.file.try_into().unwrap_or(u32::MAX),
            line: row.line.try_into().unwrap_or(0),
            column: row.column.try_into().unwrap_or(0),
        };
        match self.rows.last_mut() {
            Some(last) if last.offset == offset && offset != 0 => *last = row,
            _ => self.rows.push(row),
        }
    }

    /// Finds the last row at or before `address` in the sequence that holds it.
    pub(super) fn find(
        &self,
        dwarf: &Dwarf<'_>,
        address: u64,
    ) -> Result<Option<Location>, DwarfError> {
        match self.row(address) {
            Some(row) => self.location(dwarf, row.file.into(), row.line, row.column.into()),
            None => Ok(None),
        }
    }

    fn row(&self, address: u64) -> Option<&Row> {
        let Sequence { begin, first, count } = self.sequences.containing(address).next()?;
        let rows = self.rows.get(first..first.checked_add(count)?)?;
        let offset = address.checked_sub(begin)?;
        rows[..rows.partition_point(|row| u64::from(row.offset) <= offset)].last()
    }

    /// Bytes of memory that the table takes.
    pub(super) fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.sequences.bytes() + self.files.bytes()
    }

    /// Makes a place in the source from the numbers that DWARF stores. `None` for an unknown file.
    pub(super) fn location(
        &self,
        dwarf: &Dwarf<'_>,
        file: u64,
        line: u32,
        column: u32,
    ) -> Result<Option<Location>, DwarfError> {
        let file = self.files.path(dwarf, file)?;
        Ok(file.map(|file| Location {
            file,
            line: (line != 0).then_some(line),
            column: (line != 0 && column != 0).then_some(column),
        }))
    }
}

/// The length in bytes of the header of a line program (DWARF 5, 6.2.4), which gimli reads as a whole.
fn header_length(dwarf: &Dwarf<'_>, at: DebugLineOffset) -> gimli::Result<u64> {
    let mut rest = *dwarf.debug_line.reader();
    rest.skip(at.0)?;
    let (_, format) = rest.read_initial_length()?;
    if rest.read_u16()? >= 5 {
        // The sizes of an address and of a segment selector.
        rest.skip(2)?;
    }
    Ok(rest.read_length(format)? as u64)
}
