//! The line table of one unit.
//!
//! Owns finding the row for an address, and the path of a file. Called by
//! [`DebugInfo`](super::DebugInfo), which keeps one table per unit that was asked about.

use super::DwarfError;
use super::entries::{Unit, string};
use super::read;
use super::sections::Dwarf;
use crate::ranges::RangeMap;
use crate::source::{self, Location};

#[derive(Clone, Copy, Debug)]
struct Row {
    address: u64,
    file: u64,
    /// 0: code that belongs to no line.
    line: u32,
    /// 0: the left edge, or unknown.
    column: u32,
}

/// Rows by address, without lifetimes: files are looked up in the unit when asked for.
#[derive(Debug)]
pub(crate) struct LineTable {
    rows: Vec<Row>,
    /// Sequences as first row and number of rows.
    sequences: RangeMap<(usize, usize)>,
}

impl LineTable {
    /// Reads all of a unit's line program. Sequences that start outside `is_text` are leftovers of
    /// functions that the linker dropped.
    pub(crate) fn read(unit: &Unit<'_>, is_text: impl Fn(u64) -> bool) -> Result<Self, DwarfError> {
        let mut rows: Vec<Row> = Vec::new();
        let mut sequences = Vec::new();
        let Some(program) = unit.line_program.clone() else {
            return Ok(Self { rows, sequences: RangeMap::new(sequences) });
        };
        let mut first = 0;
        let mut program = program.rows();
        while let Some((_, row)) = program.next_row().map_err(read("a line program"))? {
            let address = row.address();
            if row.end_sequence() {
                match rows.get(first).map(|row| row.address) {
                    Some(begin) if is_text(begin) => {
                        sequences.push((begin, address, (first, rows.len() - first)));
                    }
                    _ => rows.truncate(first),
                }
                first = rows.len();
                continue;
            }
            rows.push(Row {
                address,
                file: row.file_index(),
                line: row.line().and_then(|line| line.get().try_into().ok()).unwrap_or(0),
                column: match row.column() {
                    gimli::ColumnType::LeftEdge => 0,
                    gimli::ColumnType::Column(column) => column.get().try_into().unwrap_or(0),
                },
            });
        }
        rows.truncate(first);
        Ok(Self { rows, sequences: RangeMap::new(sequences) })
    }

    /// The last row at or before `address` in the sequence that holds it.
    pub(crate) fn find(
        &self,
        dwarf: &Dwarf<'_>,
        unit: &Unit<'_>,
        address: u64,
    ) -> Option<Location> {
        let (first, count) = self.sequences.containing(address).next()?;
        let rows = self.rows.get(first..first.checked_add(count)?)?;
        let row = rows[..rows.partition_point(|row| row.address <= address)].last()?;
        location(dwarf, unit, row.file, row.line, row.column)
    }
}

/// A place in the source from the numbers that DWARF stores. `None` without a file.
pub(crate) fn location(
    dwarf: &Dwarf<'_>,
    unit: &Unit<'_>,
    file: u64,
    line: u32,
    column: u32,
) -> Option<Location> {
    let header = unit.line_program.as_ref()?.header();
    let file = header.file(file)?;
    let text = |value| string(dwarf, unit, value);
    let compilation = unit.comp_dir.map(|directory| directory.to_string_lossy());
    // Directory 0 is the compilation directory, in every version.
    let directory = match file.directory_index() {
        0 => None,
        _ => file.directory(header).and_then(text),
    };
    let name = text(file.path_name())?;
    let pieces = [compilation.as_deref(), directory.as_deref(), Some(&name)];
    Some(Location {
        file: source::join(pieces.into_iter().flatten()),
        line: (line != 0).then_some(line),
        column: (line != 0 && column != 0).then_some(column),
    })
}
