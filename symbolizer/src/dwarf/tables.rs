//! The tables of units that had a lookup.
//!
//! Owns the bound on the memory that they take: a log names addresses all over an image, and keeping the
//! tables of all of a kernel's units takes more memory than its debug information. Called by
//! [`DebugInfo`](super::DebugInfo).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::DwarfError;
use super::functions::FunctionTable;
use super::lines::LineTable;

/// Bytes of tables in a generation; there are two.
const MAX_GENERATION: usize = 16 << 20;
/// Bytes that an entry of the cache takes beside its tables.
const ENTRY: usize = 256;

/// The functions and lines of a unit.
#[derive(Debug)]
pub(super) struct UnitTables {
    pub(super) functions: FunctionTable,
    pub(super) lines: LineTable,
}

impl UnitTables {
    fn bytes(&self) -> usize {
        ENTRY + self.functions.bytes() + self.lines.bytes()
    }
}

type Tables = Result<Rc<UnitTables>, DwarfError>;

/// Tables by the offsets of their units. Those that were not used lately are dropped, a generation at a
/// time. A unit that could not be read is kept too, with the reason: it would cost the same again.
#[derive(Debug, Default)]
pub(super) struct TableCache {
    generations: RefCell<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: BTreeMap<usize, Tables>,
    old: BTreeMap<usize, Tables>,
    /// Bytes of memory that the tables in `young` take.
    bytes: usize,
}

impl TableCache {
    /// The tables of a unit; `read` makes them where they are not kept.
    pub(super) fn get(
        &self,
        unit: usize,
        read: impl FnOnce() -> Result<UnitTables, DwarfError>,
    ) -> Tables {
        let mut generations = self.generations.borrow_mut();
        if let Some(tables) = generations.young.get(&unit) {
            return tables.clone();
        }
        let tables = match generations.old.remove(&unit) {
            Some(tables) => tables,
            None => read().map(Rc::new),
        };
        generations.insert(unit, tables.clone());
        tables
    }
}

impl Generations {
    fn insert(&mut self, unit: usize, tables: Tables) {
        let bytes = tables.as_ref().map_or(ENTRY, |tables| tables.bytes());
        if self.bytes.saturating_add(bytes) > MAX_GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.young.insert(unit, tables);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_are_not_used_make_room_for_others() {
        let cache = TableCache::default();
        let failed = || Err(DwarfError::BudgetSpent { what: "a unit" });
        let units = 4 * MAX_GENERATION / ENTRY;
        for unit in 0..units {
            assert!(cache.get(unit, failed).is_err());
        }
        let generations = cache.generations.borrow();
        let kept = generations.young.len() + generations.old.len();
        assert!(kept <= units / 2 && generations.young.contains_key(&(units - 1)), "{kept}");
        drop(generations);
        cache.get(units - 1, || unreachable!("it is kept")).expect_err("as it was");
    }
}
