//! Passing over the entries of a unit that are not needed, at the cost of a few instructions each.
//!
//! Owns the plan for each abbreviation: most entries have attributes of fixed sizes, so that the length to
//! skip, or the place of the reference to the sibling, is known from the abbreviation alone. Owns no meaning
//! of entries: those that have to be read are returned, for a [`Walk`](super::walk::Walk). Called by
//! `functions`.

use gimli::{Abbreviation, UnitOffset};

use super::entries::cost_of_skipping;
use super::sections::Slice;
use super::{Dwarf, DwarfError, Work};

/// Codes of abbreviations that get a plan. Compilers number them from 1 on; a kernel's units have some
/// hundred.
const MAX_PLANS: u64 = 4096;
/// Work that is spent at once, which takes less time than to spend it entry by entry.
const BATCH: u64 = 4096;

/// The decision about an entry that its abbreviation allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Entries of this kind have to be read.
    Entry,
    /// Entries of this kind are not needed, but their children are.
    Children,
    /// Entries of this kind are not needed, and their children are not either.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    Unknown,
    Read,
    /// Skip these bytes behind the code, to the next entry.
    Skip {
        length: usize,
        cost: u64,
    },
    /// Skip to the sibling, whose offset is in the four bytes at `at` behind the code.
    Jump {
        at: usize,
        length: usize,
        cost: u64,
    },
}

/// A position between two entries of a unit.
pub(super) struct Skim<'u, 'a> {
    unit: &'u gimli::Unit<Slice<'a>>,
    work: &'u Work,
    /// The unit with its header: offsets in it are those of references.
    bytes: &'a [u8],
    at: usize,
    plans: Vec<Plan>,
    wanted: fn(&Abbreviation) -> Wanted,
    /// Work that was done and not yet spent.
    due: u64,
    has_jumped: bool,
}

impl<'u, 'a> Skim<'u, 'a> {
    /// Starts at the first entry; `wanted` decides by an abbreviation which entries are read.
    pub(super) fn new(
        dwarf: &'u Dwarf<'a>,
        unit: &'u gimli::Unit<Slice<'a>>,
        wanted: fn(&Abbreviation) -> Wanted,
    ) -> Self {
        let section = gimli::Section::reader(&dwarf.debug_info).slice();
        let start = unit.header.debug_info_offset().map_or(usize::MAX, |offset| offset.0);
        let rest = section.get(start..).unwrap_or_default();
        let length = unit.header.length_including_self().min(rest.len());
        Self {
            unit,
            work: dwarf.work(),
            bytes: &rest[..length],
            at: unit.header.root_offset().0,
            plans: Vec::new(),
            wanted,
            due: 0,
            has_jumped: false,
        }
    }

    /// Passes over entries up to one that has to be read. Returns its offset; `None` at the end of the unit.
    pub(super) fn next(&mut self) -> Result<Option<UnitOffset>, DwarfError> {
        while let Some(&first) = self.bytes.get(self.at) {
            if self.due > BATCH {
                self.spend()?;
            }
            if first == 0 {
                // The end of a list of children.
                (self.at, self.due) = (self.at + 1, self.due + 1);
                continue;
            }
            let plan = if first < 0x80 { self.plan(u64::from(first)) } else { self.long_plan() };
            if !self.follow(plan) {
                self.spend()?;
                return Ok(Some(UnitOffset(self.at)));
            }
        }
        self.spend()?;
        Ok(None)
    }

    /// Goes on at an offset, behind an entry that was read.
    pub(super) fn go_to(&mut self, offset: UnitOffset) {
        // Only forward: nothing is read twice.
        self.at = offset.0.max(self.at + 1);
    }

    /// True if children may have been skipped.
    pub(super) fn has_jumped(&self) -> bool {
        self.has_jumped
    }

    fn spend(&mut self) -> Result<(), DwarfError> {
        self.work.spend(std::mem::take(&mut self.due), "a unit")
    }

    /// Passes over the entry by its plan. False if it has to be read instead.
    fn follow(&mut self, (plan, code_length): (Plan, usize)) -> bool {
        let start = self.at + code_length;
        match plan {
            Plan::Unknown | Plan::Read => false,
            Plan::Skip { length, cost } => {
                let end = start + length;
                self.due += cost;
                let is_inside = end <= self.bytes.len();
                self.at = if is_inside { end } else { self.at };
                is_inside
            }
            Plan::Jump { at, length, cost } => {
                self.due += cost;
                let sibling = self.bytes.get(start + at..).and_then(|rest| rest.first_chunk());
                let sibling = sibling.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
                let is_ahead = sibling >= start + length && sibling < self.bytes.len();
                self.has_jumped |= is_ahead;
                self.at = if is_ahead { sibling } else { self.at };
                is_ahead
            }
        }
    }

    /// The plan for a code of one byte, and the length of the code.
    fn plan(&mut self, code: u64) -> (Plan, usize) {
        let index = code as usize;
        if self.plans.len() <= index {
            self.plans.resize(index + 1, Plan::Unknown);
        }
        if matches!(self.plans[index], Plan::Unknown) {
            self.plans[index] = self.make_plan(code);
        }
        (self.plans[index], 1)
    }

    fn long_plan(&mut self) -> (Plan, usize) {
        let rest = &self.bytes[self.at..];
        let mut reader = Slice::new(rest, gimli::LittleEndian);
        match gimli::Reader::read_uleb128(&mut reader) {
            Ok(code) if code < MAX_PLANS => (self.plan(code).0, rest.len() - reader.len()),
            _ => (Plan::Read, 0),
        }
    }

    fn make_plan(&self, code: u64) -> Plan {
        let Some(entry) = self.unit.abbreviations.get(code) else { return Plan::Read };
        let wanted = (self.wanted)(entry);
        if wanted == Wanted::Entry {
            return Plan::Read;
        }
        let mut length = 0;
        let mut sibling = None;
        for attribute in entry.attributes() {
            if attribute.name() == gimli::DW_AT_sibling && sibling.is_none() {
                sibling = Some((length, attribute.form()));
            }
            match attribute.size(&self.unit.header) {
                Some(size) => length += size,
                None => return Plan::Read,
            }
        }
        let cost = cost_of_skipping(entry);
        match sibling {
            Some((at, gimli::DW_FORM_ref4))
                if wanted == Wanted::Nothing && entry.has_children() =>
            {
                Plan::Jump { at, length, cost }
            }
            Some(_) if wanted == Wanted::Nothing && entry.has_children() => Plan::Read,
            _ => Plan::Skip { length, cost },
        }
    }
}
