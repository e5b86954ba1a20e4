//! Names to DWARF entries, for variables and types outside functions.
//!
//! Owns a pass over `.debug_info` and the names that it found. Called by [`Types`](super::Types) only.

use std::collections::HashMap;

use gimli::{AttributeValue, DwTag};

use super::TypeError;
use crate::dwarf::{
    DebugInfo, Dwarf, DwarfError, Unit, UnitAt, Value, cost_of_reading, cost_of_skipping, follow,
    read, read_entry, string,
};

/// Nested namespaces that are followed; names deeper than that are left out.
const MAX_NAMESPACES: usize = 64;
/// Names that are kept: some ten times the number in a distribution kernel.
const MAX_NAMES: usize = 1 << 22;
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
    path: String,
    ambiguous: bool,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    variables: HashMap<String, Variables>,
    types: HashMap<String, NamedType>,
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
        let own = debug.units(dwarf)?.iter().map(|&offset| UnitAt::Main(offset));
        let shared = debug.supplementary_units(dwarf)?;
        let shared = shared.iter().map(|&offset| UnitAt::Supplementary(offset));
        for at in own.chain(shared) {
            let unit = debug.unit(dwarf, at)?;
            index.add_unit(debug, dwarf, &unit, at)?;
            if index.variables.len() + index.types.len() > MAX_NAMES {
                return Err(DwarfError::TooLarge { what: "the names of variables and types" });
            }
        }
        Ok(index)
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
        let mut namespaces: Vec<(isize, String)> = Vec::new();
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
            namespaces.retain(|&(outer, _)| outer < depth);
            let text = |value: Option<Value<'a>>| {
                let name = string(dwarf, unit, value?)?;
                (name.len() <= MAX_PATH).then(|| name.into_owned())
            };
            match tag {
                gimli::DW_TAG_namespace => match text(attributes.name) {
                    Some(name) if namespaces.len() < MAX_NAMESPACES => {
                        namespaces.push((depth, name));
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
                    dwarf.work().spend_text(length, "the names of variables")?;
                    self.add_variable(&namespaces, name, linkage_name, at, attributes.declaration);
                    skip_below = depth;
                }
                _ => {
                    if let Some(name) = text(attributes.name).filter(|_| !attributes.declaration) {
                        dwarf.work().spend_text(name.len(), "the names of types")?;
                        self.add_type(&namespaces, name, at);
                    }
                    skip_below = depth;
                }
            }
        }
        Ok(())
    }

    fn add_variable(
        &mut self,
        namespaces: &[(isize, String)],
        name: Option<String>,
        linkage_name: Option<String>,
        at: EntryAt,
        declaration: bool,
    ) {
        let path = name.as_deref().and_then(|name| path(namespaces, name));
        let mut keys = vec![];
        for key in [name, linkage_name, path].into_iter().flatten() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in keys {
            let found = self.variables.entry(key).or_default();
            let list = if declaration { &mut found.declarations } else { &mut found.definitions };
            // Any declaration serves as well as another.
            if list.len() < if declaration { 1 } else { MAX_SAME_NAME } {
                list.push(at);
            }
        }
    }

    fn add_type(&mut self, namespaces: &[(isize, String)], name: String, at: EntryAt) {
        let Some(path) = path(namespaces, &name) else {
            return;
        };
        if path != name {
            let found = NamedType { at, path: path.clone(), ambiguous: false };
            self.types.entry(path.clone()).or_insert(found);
        }
        let found = self.types.entry(name).or_insert(NamedType {
            at,
            path: path.clone(),
            ambiguous: false,
        });
        found.ambiguous |= found.path != path;
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

/// Joins namespaces and a name. `None` for a path that is too long to be looked up.
fn path(namespaces: &[(isize, String)], name: &str) -> Option<String> {
    let length = namespaces.iter().map(|(_, outer)| outer.len() + 2).sum::<usize>() + name.len();
    if length > MAX_PATH {
        return None;
    }
    let mut path = String::with_capacity(length);
    for (_, outer) in namespaces {
        path.push_str(outer);
        path.push_str("::");
    }
    path.push_str(name);
    Some(path)
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
