//! Names to DWARF entries, for variables and types outside functions.
//!
//! Owns a pass over `.debug_info` and the names that it found. Called by [`Types`](super::Types) only.

use std::collections::HashMap;
use std::rc::Rc;

use gimli::{AttributeValue, DwTag};

use super::TypeError;
use crate::dwarf::{
    DebugInfo, Dwarf, DwarfError, Unit, UnitAt, Value, Work, cost_of_reading, cost_of_skipping,
    follow, read, read_entry, string,
};

/// Nested namespaces that are followed; names deeper than that are left out.
const MAX_NAMESPACES: usize = 64;
/// Bytes of memory that the names may take. Those of a distribution kernel take 12 MiB.
const MAX_BYTES: usize = 64 << 20;
/// Bytes of memory that a name takes beside its text: its place in a map, with the map's free places, and the
/// list of its entries.
const NAME: usize = 192;
/// Bytes of a name whose copying takes as long as a unit of work.
const COPIED: usize = 16;
/// Entries that are kept for one name; further ones are dropped.
const MAX_SAME_NAME: usize = 64;
/// Longest name that can be looked up, in bytes.
const MAX_PATH: usize = 1024;

/// The place of an entry: that of its unit, and its own offset in the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryAt {
    pub(super) unit: UnitAt,
    pub(super) entry: usize,
}

#[derive(Debug, Default)]
struct Variables {
    definitions: Vec<EntryAt>,
    /// Declarations, used only where there is no definition, as for a variable defined in assembly.
    declarations: Vec<EntryAt>,
}

#[derive(Debug)]
struct NamedType {
    at: EntryAt,
    /// The path of the type; the key of a map has the same text.
    path: Rc<str>,
    ambiguous: bool,
}

/// Entries by name, within a budget of memory.
#[derive(Debug)]
pub(super) struct Index {
    variables: HashMap<Rc<str>, Variables>,
    types: HashMap<Rc<str>, NamedType>,
    /// Bytes of memory that are left for names.
    left: usize,
    /// The first error of a unit that could not be read.
    broken: Option<DwarfError>,
}

impl Default for Index {
    fn default() -> Self {
        Self { variables: HashMap::new(), types: HashMap::new(), left: MAX_BYTES, broken: None }
    }
}

/// The attributes of an entry that the pass uses.
#[derive(Default)]
struct Attributes<'a> {
    name: Option<Value<'a>>,
    linkage_name: Option<Value<'a>>,
    completes: bool,
    declaration: bool,
}

impl Index {
    pub(super) fn build<'a>(
        debug: &'a DebugInfo<'_>,
        dwarf: &Dwarf<'a>,
    ) -> Result<Self, DwarfError> {
        dwarf.work().begin_pass();
        let mut index = Self::default();
        let (own, shared) = (debug.units(dwarf)?, debug.supplementary_units(dwarf)?);
        index.broken = own.error().or(shared.error()).cloned();
        let own = own.offsets().iter().map(|&offset| UnitAt::Main(offset));
        let shared = shared.offsets().iter().map(|&offset| UnitAt::Supplementary(offset));
        let types = (0..debug.type_units(dwarf)?).map(UnitAt::Type);
        for at in own.chain(shared).chain(types) {
            let unit = debug.unit(dwarf, at);
            match unit.and_then(|unit| index.add_unit(debug, dwarf, &unit, at)) {
                Err(error) if error.is_budget_spent() => return Err(error),
                Err(error) => index.broken = index.broken.or(Some(error)),
                Ok(()) => {}
            }
        }
        Ok(index)
    }

    /// The first error of a unit whose names may be missing.
    pub(super) fn broken(&self) -> Option<&DwarfError> {
        self.broken.as_ref()
    }

    /// Takes the memory of a name off the budget.
    fn spend(&mut self, work: &Work, bytes: usize) -> Result<(), DwarfError> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| work.refuse("the names of variables and types"))?;
        Ok(())
    }

    pub(super) fn variables(&self, name: &str) -> &[EntryAt] {
        match self.variables.get(name) {
            None => &[],
            Some(found) if found.definitions.is_empty() => &found.declarations,
            Some(found) => &found.definitions,
        }
    }

    pub(super) fn type_named(&self, name: &str) -> Result<EntryAt, TypeError> {
        match self.types.get(name) {
            None => Err(TypeError::NotFound { name: name.to_owned() }),
            Some(found) if found.ambiguous => Err(TypeError::Ambiguous { name: name.to_owned() }),
            Some(found) => Ok(found.at),
        }
    }

    fn add_unit<'a>(
        &mut self,
        debug: &'a DebugInfo<'_>,
        dwarf: &Dwarf<'a>,
        unit: &Unit<'a>,
        unit_at: UnitAt,
    ) -> Result<(), DwarfError> {
        let mut namespaces = Namespaces::default();
        // Entries deeper than this lie inside a type or function, whose names are not looked up.
        let mut skip_below = isize::MAX;
        let mut entries = unit.entries_raw(None).map_err(read("a unit"))?;
        while !entries.is_empty() {
            let depth = entries.next_depth();
            let at = EntryAt { unit: unit_at, entry: entries.next_offset().0 };
            dwarf.work().spend(1, "a unit")?;
            let Some(abbreviation) = entries.read_abbreviation().map_err(read("a unit"))? else {
                continue;
            };
            if depth <= skip_below {
                skip_below = isize::MAX;
            }
            let tag = abbreviation.tag();
            if skip_below != isize::MAX || !is_wanted(tag) {
                dwarf.work().spend(cost_of_skipping(abbreviation), "a unit")?;
                entries.skip_attributes(abbreviation.attributes()).map_err(read("a unit"))?;
                // The root entry of a unit is at depth 0.
                if depth > 0 {
                    skip_below = skip_below.min(depth);
                }
                continue;
            }
            dwarf.work().spend(cost_of_reading(abbreviation), "a unit")?;
            let mut attributes = Attributes::default();
            for &attribute in abbreviation.attributes() {
                let attribute = entries.read_attribute(attribute).map_err(read("an entry"))?;
                attributes.note(attribute.name(), attribute.value());
            }
            namespaces.leave(depth);
            let text = |value: Option<Value<'a>>| {
                let name = string(dwarf, unit, value?)?;
                (name.len() <= MAX_PATH).then(|| name.into_owned())
            };
            match tag {
                gimli::DW_TAG_namespace => match text(attributes.name) {
                    Some(name) if namespaces.outer.len() < MAX_NAMESPACES => {
                        namespaces.enter(depth, &name);
                    }
                    _ => skip_below = depth,
                },
                gimli::DW_TAG_variable => {
                    let mut name = text(attributes.name);
                    let mut linkage_name = text(attributes.linkage_name);
                    if name.is_none() && attributes.completes {
                        (name, linkage_name) = completed(debug, dwarf, unit, at)?;
                    }
                    let length =
                        [&name, &linkage_name].into_iter().flatten().map(String::len).sum();
                    let names = [name, linkage_name];
                    let work = dwarf.work();
                    spend_copying(work, length)?;
                    self.add_variable(work, &mut namespaces, names, at, attributes.declaration)?;
                    skip_below = depth;
                }
                _ => {
                    if let Some(name) = text(attributes.name).filter(|_| !attributes.declaration) {
                        spend_copying(dwarf.work(), name.len())?;
                        self.add_type(dwarf.work(), &mut namespaces, &name, at)?;
                    }
                    skip_below = depth;
                }
            }
        }
        Ok(())
    }

    /// Adds a variable by its name, its linkage name and its path.
    fn add_variable(
        &mut self,
        work: &Work,
        namespaces: &mut Namespaces,
        [name, linkage_name]: [Option<String>; 2],
        at: EntryAt,
        declaration: bool,
    ) -> Result<(), DwarfError> {
        let path = match &name {
            Some(name) => namespaces.path(work, name)?.map(str::to_owned),
            None => None,
        };
        let mut keys = vec![];
        for key in [name, linkage_name, path].into_iter().flatten() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in keys {
            if !self.variables.contains_key(key.as_str()) {
                self.spend(work, NAME + key.len())?;
                self.variables.insert(key.as_str().into(), Variables::default());
            }
            let Some(found) = self.variables.get_mut(key.as_str()) else { continue };
            let list = if declaration { &mut found.declarations } else { &mut found.definitions };
            // Any declaration serves as well as another.
            if list.len() < if declaration { 1 } else { MAX_SAME_NAME } {
                list.push(at);
                // A list doubles when it grows.
                self.spend(work, 2 * size_of::<EntryAt>())?;
            }
        }
        Ok(())
    }

    /// Adds a type by its name and its path, which share one text.
    fn add_type(
        &mut self,
        work: &Work,
        namespaces: &mut Namespaces,
        name: &str,
        at: EntryAt,
    ) -> Result<(), DwarfError> {
        let Some(path) = namespaces.path(work, name)? else { return Ok(()) };
        let shared = match self.types.get_key_value(path) {
            Some((path, _)) => Rc::clone(path),
            None => {
                self.spend(work, NAME + path.len())?;
                let path: Rc<str> = path.into();
                let named = NamedType { at, path: Rc::clone(&path), ambiguous: false };
                self.types.insert(Rc::clone(&path), named);
                path
            }
        };
        if *shared == *name {
            return Ok(());
        }
        match self.types.get_mut(name) {
            Some(found) => found.ambiguous |= found.path != shared,
            None => {
                self.spend(work, NAME + name.len())?;
                self.types.insert(name.into(), NamedType { at, path: shared, ambiguous: false });
            }
        }
        Ok(())
    }
}

/// The namespaces around an entry. Each is a prefix of the next, so that one text has them all.
#[derive(Debug, Default)]
struct Namespaces {
    /// Depth of each namespace, and the length of `text` outside it.
    outer: Vec<(isize, usize)>,
    /// Names of the namespaces with a `::` behind each, and the name of the last [`path`](Self::path).
    text: String,
    /// Length of the namespaces in `text`.
    length: usize,
}

impl Namespaces {
    /// Enters a namespace at this depth.
    fn enter(&mut self, depth: isize, name: &str) {
        self.outer.push((depth, self.length));
        self.text.truncate(self.length);
        self.text.push_str(name);
        self.text.push_str("::");
        self.length = self.text.len();
    }

    /// Leaves the namespaces that do not hold an entry at this depth.
    fn leave(&mut self, depth: isize) {
        while let Some((_, length)) = self.outer.pop_if(|(outer, _)| *outer >= depth) {
            self.length = length;
        }
    }

    /// The namespaces with a name behind them. `None` for a path that is too long to be looked up.
    fn path(&mut self, work: &Work, name: &str) -> Result<Option<&str>, DwarfError> {
        let length = self.length + name.len();
        if length > MAX_PATH {
            return Ok(None);
        }
        spend_copying(work, length)?;
        self.text.truncate(self.length);
        self.text.push_str(name);
        Ok(Some(&self.text))
    }
}

impl<'a> Attributes<'a> {
    fn note(&mut self, name: gimli::DwAt, value: Value<'a>) {
        match name {
            gimli::DW_AT_name => self.name = Some(value),
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                self.linkage_name = Some(value);
            }
            gimli::DW_AT_specification | gimli::DW_AT_abstract_origin => self.completes = true,
            gimli::DW_AT_declaration => self.declaration = value == AttributeValue::Flag(true),
            _ => {}
        }
    }
}

/// Takes the work of copying a name off the budget. The memory of a name is counted where it is kept: most are
/// those of types that each unit repeats.
fn spend_copying(work: &Work, length: usize) -> Result<(), DwarfError> {
    work.spend((length / COPIED) as u64, "the names of variables and types")
}

fn is_wanted(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_namespace
            | gimli::DW_TAG_variable
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_class_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_enumeration_type
            | gimli::DW_TAG_typedef
            | gimli::DW_TAG_base_type
    )
}

/// The name and linkage name of the declaration that the entry at `at` completes.
fn completed<'a>(
    debug: &'a DebugInfo<'_>,
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    at: EntryAt,
) -> Result<(Option<String>, Option<String>), DwarfError> {
    let found = read_entry(dwarf.work(), unit, gimli::UnitOffset(at.entry), "a variable")?;
    let Some((other, offset)) = follow(debug, dwarf, unit, &found)? else {
        return Ok((None, None));
    };
    let unit = other.as_ref().unwrap_or(unit);
    let entry = read_entry(dwarf.work(), unit, offset, "a declaration")?;
    let text = |at| string(dwarf, unit, entry.attr_value(at)?).map(std::borrow::Cow::into_owned);
    Ok((text(gimli::DW_AT_name), text(gimli::DW_AT_linkage_name)))
}
