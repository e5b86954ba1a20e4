//! The entries below a type's own: members, dimensions, enumerators.
//!
//! Owns passing over a type's children and the bound on their number; refuses to own their meaning, and the
//! question whether a type has such children. Called by `ty`, which knows both.

use gimli::{AttributeValue, Operation};

use super::TypeError;
use crate::dwarf::{Dwarf, DwarfError, Entry, Unit, Value, read, string};

/// Entries below a type that are examined. The largest structures of a kernel have hundreds.
const MAX_CHILDREN: usize = 1 << 14;

/// A member of a type, before its own type is resolved.
pub(super) struct RawMember<'t> {
    pub(super) name: Option<String>,
    pub(super) offset: u64,
    pub(super) ty: Value<'t>,
    pub(super) is_bit_field: bool,
}

/// The children of a type's entry.
pub(super) struct Parts<'e, 't> {
    pub(super) dwarf: &'e Dwarf<'t>,
    pub(super) unit: &'e Unit<'t>,
    pub(super) entry: &'e Entry<'t>,
}

impl<'t> Parts<'_, 't> {
    /// The sizes of all dimensions of an array, outermost first; `None` for one without bounds.
    pub(super) fn dimensions(&self) -> Result<Vec<Option<u64>>, TypeError> {
        let mut dimensions = Vec::new();
        self.for_each(|child| {
            if child.tag() == gimli::DW_TAG_subrange_type {
                let number =
                    |at| child.attr_value(at).and_then(|value: Value<'_>| value.udata_value());
                let count = number(gimli::DW_AT_count);
                let last = number(gimli::DW_AT_upper_bound);
                dimensions.push(count.or_else(|| last?.checked_add(1)));
            }
        })?;
        Ok(dimensions)
    }

    /// The members of a structure or union, and true if there are variants beside them: a Rust enum with
    /// data.
    pub(super) fn members(&self) -> Result<(Vec<RawMember<'t>>, bool), TypeError> {
        let mut members = Vec::new();
        let mut is_enum = false;
        self.for_each(|child| match child.tag() {
            gimli::DW_TAG_variant_part => is_enum = true,
            // A static data member of C++ is no part of the object.
            gimli::DW_TAG_member if child.attr_value(gimli::DW_AT_external).is_none() => {
                if let Some(ty) = child.attr_value(gimli::DW_AT_type) {
                    members.push(RawMember {
                        name: self.name_of(child),
                        offset: self.member_offset(child),
                        ty,
                        is_bit_field: child.attr_value(gimli::DW_AT_bit_size).is_some(),
                    });
                }
            }
            _ => {}
        })?;
        Ok((members, is_enum))
    }

    /// The name of the first enumerator that equals `value` in the bits of `mask`.
    pub(super) fn enumerator(&self, value: u64, mask: u64) -> Result<Option<String>, TypeError> {
        let mut found = None;
        self.for_each(|child| {
            let number = child.attr_value(gimli::DW_AT_const_value).and_then(|number| {
                number.udata_value().or_else(|| number.sdata_value().map(|number| number as u64))
            });
            if found.is_none() && number.is_some_and(|number| number & mask == value & mask) {
                found = self.name_of(child);
            }
        })?;
        Ok(found)
    }

    /// The offset of a member in bytes: a constant, or in old DWARF the expression `DW_OP_plus_uconst`;
    /// absent in unions.
    fn member_offset(&self, member: &Entry<'t>) -> u64 {
        match member.attr_value(gimli::DW_AT_data_member_location) {
            Some(AttributeValue::Exprloc(mut location)) => {
                match Operation::parse(&mut location.0, self.unit.encoding()) {
                    Ok(Operation::PlusConstant { value }) => value,
                    _ => 0,
                }
            }
            Some(value) => value.udata_value().unwrap_or(0),
            None => 0,
        }
    }

    fn name_of(&self, child: &Entry<'t>) -> Option<String> {
        let value = child.attr_value(gimli::DW_AT_name)?;
        Some(string(self.dwarf, self.unit, value)?.into_owned())
    }

    fn for_each(&self, mut each: impl FnMut(&Entry<'t>)) -> Result<(), TypeError> {
        let offset = self.entry.offset();
        let mut entries = self.unit.entries_raw(Some(offset)).map_err(read("a type"))?;
        let mut entry = Entry::null();
        entries.read_entry(&mut entry).map_err(read("a type"))?;
        for _ in 0..MAX_CHILDREN {
            if entries.is_empty() || entries.next_depth() < 1 {
                return Ok(());
            }
            let is_child = entries.next_depth() == 1;
            let is_entry = entries.read_entry(&mut entry).map_err(read("a type's parts"))?;
            self.dwarf.work().spend(1 + entry.attrs().len() as u64, "a type's parts")?;
            if is_entry && is_child {
                each(&entry);
            }
        }
        Err(DwarfError::TooLarge { what: "the parts of a type" }.into())
    }
}
