//! The source files that a unit's line table numbers.
//!
//! Owns the positions of the pieces of their paths, and joins the pieces of a path at its lookup: a unit of
//! a kernel names hundreds of files, and an answer needs a few. Called by `lines`.

use std::borrow::Cow;

use gimli::{AttributeValue, LineProgramHeader, Section, SectionId};

use super::Value;
use super::entries::Unit;
use super::sections::Slice;
use super::{Dwarf, DwarfError};
use crate::source;
use crate::strings::string_at;

/// The position of a string, without a lifetime. 32 bits reach through any section that is read.
#[derive(Clone, Copy, Debug)]
struct Text {
    table: Table,
    at: u32,
}

/// The section that has a string.
#[derive(Clone, Copy, Debug)]
enum Table {
    Own(SectionId),
    /// The `.debug_str` of the supplementary file.
    Shared,
}

#[derive(Clone, Copy, Debug)]
struct File {
    name: Option<Text>,
    /// The number of the directory; 0 is the compilation directory, in every version.
    directory: u32,
}

/// The numbered source files of a unit.
#[derive(Debug, Default)]
pub(super) struct Files {
    compilation: Option<Text>,
    /// Directories by their numbers, from 1 on.
    directories: Vec<Option<Text>>,
    /// Files by their numbers, from 0 on.
    files: Vec<File>,
}

impl Files {
    /// Takes the files of a line program's header. The unit's own name and directory come from its entry.
    pub(super) fn new<'a>(
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        header: &LineProgramHeader<Slice<'a>>,
        name: Option<Value<'a>>,
        directory: Option<Value<'a>>,
    ) -> Self {
        let (info, line) = (SectionId::DebugInfo, SectionId::DebugLine);
        let text = |value, section| Text::find(dwarf, unit, value, section);
        let numbered = header.file_names().iter().map(|file| File {
            name: text(file.path_name(), line),
            directory: file.directory_index().try_into().unwrap_or(u32::MAX),
        });
        // Up to version 4 the lists leave out number 0, which is the unit's own name and directory.
        let old = header.version() <= 4;
        let own = old.then(|| File { name: name.and_then(|name| text(name, info)), directory: 0 });
        Self {
            compilation: directory.and_then(|directory| text(directory, info)),
            directories: header
                .include_directories()
                .iter()
                .skip(usize::from(!old))
                .map(|&directory| text(directory, line))
                .collect(),
            files: own.into_iter().chain(numbered).collect(),
        }
    }

    /// The path of a file, joined with its directories. `None` for a number without a file.
    pub(super) fn path(
        &self,
        dwarf: &Dwarf<'_>,
        number: u64,
    ) -> Result<Option<String>, DwarfError> {
        let file = usize::try_from(number).ok().and_then(|number| self.files.get(number));
        let Some(file) = file else { return Ok(None) };
        let directory = match file.directory.checked_sub(1) {
            Some(index) => *self.directories.get(index as usize).unwrap_or(&None),
            None => None,
        };
        let text = |text: Option<Text>| text?.read(dwarf);
        let Some(name) = text(file.name) else { return Ok(None) };
        let (compilation, directory) = (text(self.compilation), text(directory));
        let pieces = [compilation.as_deref(), directory.as_deref(), Some(&*name)];
        let path = source::join(pieces.into_iter().flatten());
        dwarf.work().spend_text(path.len(), "the path of a source file")?;
        Ok(Some(path))
    }

    /// Bytes of memory that the files take.
    pub(super) fn bytes(&self) -> usize {
        self.files.capacity() * size_of::<File>()
            + self.directories.capacity() * size_of::<Option<Text>>()
    }
}

impl Text {
    /// Finds the text of a string attribute; an inline string lies in `section`.
    fn find<'a>(
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        value: Value<'a>,
        section: SectionId,
    ) -> Option<Self> {
        let own = Table::Own;
        let (table, at) = match value {
            AttributeValue::String(text) => {
                (own(section), text.offset_from(bytes(dwarf, own(section))?))
            }
            AttributeValue::DebugStrRef(at) => (own(SectionId::DebugStr), at.0),
            AttributeValue::DebugStrRefSup(at) => (Table::Shared, at.0),
            AttributeValue::DebugLineStrRef(at) => (own(SectionId::DebugLineStr), at.0),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                (own(SectionId::DebugStr), dwarf.string_offset(unit, index).ok()?.0)
            }
            _ => return None,
        };
        Some(Self { table, at: at.try_into().ok()? })
    }

    fn read<'a>(self, dwarf: &Dwarf<'a>) -> Option<Cow<'a, str>> {
        string_at(bytes(dwarf, self.table)?.slice(), self.at as usize)
    }
}

fn bytes<'a>(dwarf: &Dwarf<'a>, table: Table) -> Option<Slice<'a>> {
    match table {
        Table::Own(SectionId::DebugInfo) => Some(*dwarf.debug_info.reader()),
        Table::Own(SectionId::DebugLine) => Some(*dwarf.debug_line.reader()),
        Table::Own(SectionId::DebugLineStr) => Some(*dwarf.debug_line_str.reader()),
        Table::Own(SectionId::DebugStr) => Some(*dwarf.debug_str.reader()),
        Table::Own(_) => None,
        Table::Shared => Some(*dwarf.sup()?.debug_str.reader()),
    }
}
