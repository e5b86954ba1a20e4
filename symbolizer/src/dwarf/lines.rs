//! The line table of a unit.
//!
//! Owns finding the row for an address, and with that the place in the source. Called by
//! [`DebugInfo`](super::DebugInfo), which keeps a table for each unit with a lookup.

use gimli::{AttributeValue, ColumnType, LineRow};

use super::entries::{Unit, root};
use super::files::Files;
use super::sections::Dwarf;
use super::{DwarfError, read};
use crate::ranges::RangeMap;
use crate::source::Location;

/// Bytes that a row takes in a line program, at the least that compilers achieve.
const BYTES_PER_ROW: usize = 3;

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
        let root = root(unit)?;
        let Some(AttributeValue::DebugLineRef(offset)) = root.attr_value(gimli::DW_AT_stmt_list)
        else {
            return Ok(table);
        };
        let program = dwarf
            .debug_line
            .program(offset, unit.address_size(), None, None)
            .map_err(read("a line program's header"))?;
        let (name, directory) =
            (root.attr_value(gimli::DW_AT_name), root.attr_value(gimli::DW_AT_comp_dir));
        table.files = Files::new(dwarf, unit, program.header(), name, directory);
        table.rows.reserve(program.header().raw_program_buf().len() / BYTES_PER_ROW);
        let mut sequences = Vec::new();
        let mut sequence: Option<Sequence> = None;
        let mut program = program.rows();
        while let Some((_, row)) = program.next_row().map_err(read("a line program"))? {
            let address = row.address();
            if !row.end_sequence() {
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
    fn add(&mut self, begin: u64, row: &LineRow) {
        let Some(Ok(offset)) = row.address().checked_sub(begin).map(u32::try_from) else { return };
        let row = Row {
            offset,
            file: row.file_index().try_into().unwrap_or(u32::MAX),
            line: row.line().and_then(|line| line.get().try_into().ok()).unwrap_or(0),
            column: match row.column() {
                ColumnType::LeftEdge => 0,
                ColumnType::Column(column) => column.get().try_into().unwrap_or(0),
            },
        };
        match self.rows.last_mut() {
            Some(last) if last.offset == offset && offset != 0 => *last = row,
            _ => self.rows.push(row),
        }
    }

    /// Finds the last row at or before `address` in the sequence that holds it.
    pub(super) fn find(&self, dwarf: &Dwarf<'_>, address: u64) -> Option<Location> {
        let Sequence { begin, first, count } = self.sequences.containing(address).next()?;
        let rows = self.rows.get(first..first.checked_add(count)?)?;
        let offset = address.checked_sub(begin)?;
        let row = rows[..rows.partition_point(|row| u64::from(row.offset) <= offset)].last()?;
        self.location(dwarf, row.file.into(), row.line, row.column.into())
    }

    /// Makes a place in the source from the numbers that DWARF stores. `None` for an unknown file.
    pub(super) fn location(
        &self,
        dwarf: &Dwarf<'_>,
        file: u64,
        line: u32,
        column: u32,
    ) -> Option<Location> {
        Some(Location {
            file: self.files.path(dwarf, file)?,
            line: (line != 0).then_some(line),
            column: (line != 0 && column != 0).then_some(column),
        })
    }
}
