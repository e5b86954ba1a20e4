//! Variables and types of the guest by name, and reads through them.
//!
//! Owns the address of a variable and the place of a member in it, from DWARF, so that no caller has a
//! guest structure's layout built in. Owns no memory: a [`Place`] reads through the
//! [`VirtualMemory`](crate::VirtualMemory) it is given. Called by the adapters of the guest kernels and by
//! the capture, and by `variables` for the types of locals.
//!
//! | file | owns |
//! |---|---|
//! | `index` | names to entries |
//! | `ty`, `parts` | a type's size, members and elements |
//! | `place` | an address with a type |

mod index;
mod parts;
mod place;
mod ty;

use std::cell::OnceCell;
use std::rc::Rc;

use gimli::{AttributeValue, Operation, UnitOffset};
use nmiscope_machine::{ReadError, VirtualAddress};

use crate::dwarf::{
    DebugInfo, Dwarf, DwarfError, Entry, Unit, UnitAt, Value, follow, read, read_entry, reference,
};
use crate::image::Image;
use index::{EntryAt, Index};
pub use place::Place;
pub use ty::{Encoding, Member, Type, TypeKind};

/// References that are followed from an entry to the type or declaration it stands for.
const MAX_REFERENCES: usize = 64;

/// The reason why a variable, a type or a value is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// The image has no debug information.
    #[error("look up types: the image has no debug information")]
    NoDebugInfo,
    /// The debug information is broken.
    #[error("look up types: broken debug information")]
    Malformed(#[from] DwarfError),
    /// The debug information has no such variable or type.
    #[error("find {name}: the debug information does not have it")]
    NotFound {
        /// The name that was looked up.
        name: String,
    },
    /// Several things have this name; a longer path distinguishes them.
    #[error("find {name}: the name is ambiguous, give a path")]
    Ambiguous {
        /// The name that was looked up.
        name: String,
    },
    /// A variable without an address in memory: optimized out, or thread-local.
    #[error("find {name}: neither the debug information nor a symbol gives its address")]
    NoAddress {
        /// The name that was looked up.
        name: String,
    },
    /// A type has no such member, nor does any type that it wraps.
    #[error("find member {member} of {ty}: there is none")]
    NoMember {
        /// The name of the type.
        ty: String,
        /// The name of the member that was looked up.
        member: String,
    },
    /// A type cannot be used in this way: an element of something that is no array, the value of a
    /// structure, the address of a bit-field.
    #[error("use {ty} as {wanted}: it is not")]
    Unsuitable {
        /// The name of the type.
        ty: String,
        /// The use that was attempted.
        wanted: &'static str,
    },
    /// An element past the end of an array.
    #[error("take element {index} of {ty}: it has {count}")]
    OutOfBounds {
        /// The name of the array type.
        ty: String,
        /// The index of the element that was requested.
        index: u64,
        /// The number of elements in the array.
        count: u64,
    },
    /// The value is larger than the caller allows.
    #[error("read a {ty} of {size} bytes: at most {limit} are allowed")]
    TooLarge {
        /// The name of the type.
        ty: String,
        /// The size of the type in bytes.
        size: u64,
        /// The caller's bound in bytes.
        limit: u64,
    },
    /// The address would lie past the end of the address space.
    #[error("find a part of a value at {address}: its address wraps around")]
    Wraps {
        /// The guest-virtual address at which the value starts.
        address: VirtualAddress,
    },
    /// The guest's memory could not be read.
    #[error("read a value")]
    Read(#[from] ReadError),
}

/// The variables and types of one image.
///
/// The first lookup of a name passes over all entries of `.debug_info` outside functions and keeps every
/// name. That suits images of some megabytes; for a distribution kernel's 164 MB it takes in the order of a
/// second, and an index in the file (`.debug_names`) should be consulted first.
pub struct Types<'i> {
    image: &'i Image<'i>,
    debug: &'i DebugInfo<'i>,
    dwarf: Dwarf<'i>,
    index: OnceCell<Result<Index, TypeError>>,
}

impl<'i> Types<'i> {
    /// Prepares lookups; reads nothing but section headers yet.
    ///
    /// # Errors
    /// [`TypeError::NoDebugInfo`], or [`TypeError::Malformed`] when a section does not decompress.
    pub fn new(image: &'i Image<'_>) -> Result<Self, TypeError> {
        let debug = image.debug().ok_or(TypeError::NoDebugInfo)?;
        Ok(Self { image, debug, dwarf: debug.dwarf_with_locations()?, index: OnceCell::new() })
    }

    /// Finds a variable with static storage by its name: plain (`nmi_print_seq`), with its namespaces
    /// (`nmiscope_guest::printk::LOG`), or its linkage name. The address comes from the debug information,
    /// or where that has none from the symbol of the same name.
    ///
    /// A per-CPU variable has the address of its template: see [`Place::offset_by`].
    ///
    /// # Errors
    /// [`TypeError::NotFound`], [`TypeError::Ambiguous`], [`TypeError::NoAddress`] or
    /// [`TypeError::Malformed`].
    pub fn variable<'t>(&'t self, name: &str) -> Result<Place<'t>, TypeError> {
        let candidates = self.index()?.variables(name);
        self.dwarf.work().begin();
        let mut found: Option<Place<'t>> = None;
        let mut without_address = false;
        for &at in candidates {
            let (unit, entry) = self.entry(at)?;
            let Some(address) = self.address_of(&unit, &entry, name)? else {
                without_address = true;
                continue;
            };
            match &found {
                Some(place) if place.address() == address => {}
                Some(_) => {
                    return Err(TypeError::Ambiguous { name: name.to_owned() });
                }
                None => found = Some(Place::new(address, self.type_of(&unit, &entry)?)),
            }
        }
        found.ok_or_else(|| {
            if without_address {
                TypeError::NoAddress { name: name.to_owned() }
            } else {
                self.not_found(name)
            }
        })
    }

    /// Finds a type by its name, plain (`seq_buf`) or with its namespaces (`nmiscope_guest::SeqBuf`). C's
    /// tags and typedefs share a single space of names here; the first definition wins.
    ///
    /// # Errors
    /// [`TypeError::NotFound`], [`TypeError::Ambiguous`] or [`TypeError::Malformed`].
    pub fn type_named<'t>(&'t self, name: &str) -> Result<Type<'t>, TypeError> {
        let at = self.index()?.type_named(name).map_err(|error| match error {
            TypeError::NotFound { name } => self.not_found(&name),
            other => other,
        })?;
        self.dwarf.work().begin();
        let unit = self.debug.unit(&self.dwarf, at.unit)?;
        Type::new(self, Rc::new(unit), UnitOffset(at.entry))
    }

    /// Reads the unit with its header at `offset`, for `variables`.
    pub(crate) fn unit(&self, offset: usize) -> Result<Rc<Unit<'_>>, TypeError> {
        Ok(Rc::new(self.debug.unit(&self.dwarf, UnitAt::Main(offset))?))
    }

    /// The image of these types, and its debug information.
    pub(crate) fn parts(&self) -> (&'i Image<'i>, &'i DebugInfo<'i>, &Dwarf<'i>) {
        (self.image, self.debug, &self.dwarf)
    }

    /// The error for a name that the index lacks, which a broken unit may have.
    fn not_found(&self, name: &str) -> TypeError {
        let broken = self.index().ok().and_then(Index::broken);
        broken.map_or(TypeError::NotFound { name: name.to_owned() }, |error| error.clone().into())
    }

    fn index(&self) -> Result<&Index, TypeError> {
        self.index
            .get_or_init(|| Index::build(self.debug, &self.dwarf).map_err(TypeError::from))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn entry(&self, at: EntryAt) -> Result<(Rc<Unit<'_>>, Entry<'_>), TypeError> {
        let unit = self.debug.unit(&self.dwarf, at.unit)?;
        let entry = read_entry(self.dwarf.work(), &unit, UnitOffset(at.entry), "a variable")?;
        Ok((Rc::new(unit), entry))
    }

    fn address_of<'t>(
        &'t self,
        unit: &Unit<'t>,
        entry: &Entry<'t>,
        name: &str,
    ) -> Result<Option<VirtualAddress>, TypeError> {
        if let Some(AttributeValue::Exprloc(mut location)) = entry.attr_value(gimli::DW_AT_location)
        {
            let address = match Operation::parse(&mut location.0, unit.encoding()) {
                // A single operation: anything longer is computed, or thread-local.
                Ok(_) if !location.0.is_empty() => None,
                Ok(Operation::Address { address }) => Some(address),
                Ok(Operation::AddressIndex { index }) => {
                    let dwarf = unit.sections(&self.dwarf);
                    Some(dwarf.address(unit, index).map_err(read("an address"))?)
                }
                _ => None,
            };
            return Ok(address.map(VirtualAddress));
        }
        let linkage = entry
            .attr_value(gimli::DW_AT_linkage_name)
            .and_then(|value| crate::dwarf::string(&self.dwarf, unit, value));
        let symbol = self.image.symbol(linkage.as_deref().unwrap_or(name));
        Ok(symbol.map(|symbol| symbol.address))
    }

    /// The type of a variable's entry, its own or that of the declaration it completes.
    pub(crate) fn type_of<'t>(
        &'t self,
        unit: &Rc<Unit<'t>>,
        entry: &Entry<'t>,
    ) -> Result<Type<'t>, TypeError> {
        let mut unit = Rc::clone(unit);
        let mut entry = entry.clone();
        for _ in 0..MAX_REFERENCES {
            if let Some(value) = entry.attr_value(gimli::DW_AT_type) {
                let (unit, offset) = self.follow_to(&unit, value)?;
                return Type::new(self, unit, offset);
            }
            let Some((other, offset)) = follow(self.debug, &self.dwarf, &unit, &entry)? else {
                break;
            };
            if let Some(other) = other {
                unit = Rc::new(other);
            }
            entry = read_entry(self.dwarf.work(), &unit, offset, "a declaration")?;
        }
        Err(TypeError::NotFound { name: "the type of a variable".to_owned() })
    }

    /// Resolves a reference to the unit and the entry that it leads to.
    fn follow_to<'t>(
        &'t self,
        unit: &Rc<Unit<'t>>,
        value: Value<'t>,
    ) -> Result<(Rc<Unit<'t>>, UnitOffset), TypeError> {
        match reference(self.debug, &self.dwarf, unit, value)? {
            Some((None, offset)) => Ok((Rc::clone(unit), offset)),
            Some((Some(other), offset)) => Ok((Rc::new(other), offset)),
            None => Err(TypeError::NotFound { name: "a type outside this file".to_owned() }),
        }
    }
}
