//! The variables in scope at an address: of the function, and of each call inlined there.
//!
//! Owns the pass over a function's entries that finds them, and the bound on how many are kept. Owns no
//! names and no locations: `variables` reads those. Called by [`DebugInfo`](super::DebugInfo).

use gimli::{UnitOffset, UnitRef};

use super::entries::{Ranges, Unit, cost_of_reading};
use super::functions::{inlined_calls, skip_children};
use super::work::Budget;
use super::{Dwarf, DwarfError, read};

/// Variables that are kept for each function.
const MAX_VARIABLES: usize = 64;
/// Address ranges of blocks that a pass may read.
const MAX_RANGES: u64 = 1 << 22;

/// The entries of the variables at an address.
#[derive(Debug)]
pub(crate) struct Scopes {
    /// Offset of the unit's header in `.debug_info`; all entries here are in that unit.
    pub(crate) unit: usize,
    /// The function that the code belongs to.
    pub(crate) function: UnitOffset,
    /// Scopes of the functions, innermost inlined call first, the function itself last.
    pub(crate) scopes: Vec<Scope>,
}

/// The variables of a single function.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Parameters and variables in the order of their declaration, outer blocks before inner ones.
    pub(crate) variables: Vec<UnitOffset>,
    /// Number of variables beyond the ones kept.
    pub(crate) omitted: usize,
}

impl Scopes {
    pub(crate) fn read<'a>(
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        unit_offset: usize,
        function: UnitOffset,
        address: u64,
    ) -> Result<Self, DwarfError> {
        let calls = inlined_calls(dwarf, unit, function, address)?;
        let mut scopes = vec![Scope::default()];
        // Depths of the entries of the function and the inlined calls around the current entry.
        let mut open = vec![0];
        let dwarf = unit.sections(dwarf);
        let unit_ref = UnitRef::new(dwarf, unit);
        let work = dwarf.work();
        let mut budget =
            Budget::new(work, "the address ranges of one function's blocks", MAX_RANGES);
        let mut entries = unit.entries_raw(Some(function)).map_err(read("a function"))?;
        let mut first = true;
        while !entries.is_empty() {
            let depth = entries.next_depth();
            let offset = entries.next_offset();
            if !first && depth <= 0 {
                break;
            }
            work.spend(1, "a function")?;
            let Some(abbreviation) = entries.read_abbreviation().map_err(read("a function"))?
            else {
                continue;
            };
            work.spend(cost_of_reading(abbreviation), "a function")?;
            let mut ranges = Ranges::default();
            if is_block(abbreviation.tag()) {
                for &attribute in abbreviation.attributes() {
                    let attribute = entries.read_attribute(attribute).map_err(read("a block"))?;
                    ranges.note(unit_ref, attribute.name(), attribute.value())?;
                }
            } else {
                let skipped = entries.skip_attributes(abbreviation.attributes());
                skipped.map_err(read("a function"))?;
            }
            if first {
                first = false;
                continue;
            }
            while open.len() > 1 && open.last().is_some_and(|&outer| outer >= depth) {
                open.pop();
            }
            match abbreviation.tag() {
                gimli::DW_TAG_formal_parameter | gimli::DW_TAG_variable => {
                    if let Some(scope) = scopes.get_mut(open.len() - 1) {
                        scope.add(offset);
                    }
                    skip_children(work, &mut entries, depth)?;
                }
                tag if is_block(tag) && ranges.contain(unit_ref, &mut budget, address)? => {}
                gimli::DW_TAG_inlined_subroutine
                    // The next call of the chain, directly inside the last one that was found.
                    if open.len() == scopes.len()
                        && calls.get(scopes.len() - 1).is_some_and(|call| call.entry == offset) =>
                {
                    scopes.push(Scope::default());
                    open.push(depth);
                }
                _ => skip_children(work, &mut entries, depth)?,
            }
        }
        // Fewer were found where a call lies in a block that does not cover it.
        scopes.resize_with(calls.len() + 1, Scope::default);
        scopes.reverse();
        Ok(Self { unit: unit_offset, function, scopes })
    }
}

impl Scope {
    fn add(&mut self, variable: UnitOffset) {
        if self.variables.len() < MAX_VARIABLES {
            self.variables.push(variable);
        } else {
            self.omitted += 1;
        }
    }
}

fn is_block(tag: gimli::DwTag) -> bool {
    matches!(tag, gimli::DW_TAG_lexical_block | gimli::DW_TAG_try_block | gimli::DW_TAG_catch_block)
}
