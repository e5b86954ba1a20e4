//! Variables and types of the guest by name, and reads through them.
//!
//! Owns the answers to "where is this variable" and "where in it is this member", from DWARF, so
//! that no caller knows a guest structure's layout by heart. Owns no memory: a [`Place`] reads
//! through whatever [`VirtualMemory`](crate::VirtualMemory) it is given. Called by the adapters of
//! the guest kernels and by the capture, and by `variables` for the types of locals.
//!
//! | file | owns |
//! |---|---|
//! | `index` | names to entries |
//! | `ty`, `parts` | what a type is made of |
//! | `place` | an address with a type |

mod index;
mod parts;
mod place;
mod ty;

use std::cell::OnceCell;
use std::rc::Rc;

use gimli::{AttributeValue, Operation, UnitOffset};
use nmiscope_machine::{ReadError, VirtualAddress};

use crate::dwarf::{DebugInfo, Dwarf, DwarfError, Entry, Unit, Value, follow, read, reference};
use crate::image::Image;
use index::{EntryAt, Index};
pub use place::Place;
pub use ty::{Encoding, Member, Type, TypeKind};

/// How many references lead from one entry to what it stands for, at most.
const MAX_REFERENCES: usize = 64;

/// Why a variable, a type or a value could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// The image has no debug information.
    #[error("look up types: the image has no debug information")]
    NoDebugInfo,
    /// The debug information is broken.
    #[error("look up types: broken debug information")]
    Malformed(#[from] DwarfError),
    /// No such variable or type in the debug information.
    #[error("find {name}: the debug information does not have it")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Several things have this name; a longer path tells them apart.
    #[error("find {name}: the name is ambiguous, give a path")]
    Ambiguous {
        /// What was asked for.
        name: String,
    },
    /// A variable that is nowhere in memory: optimized out, or thread-local.
    #[error("find {name}: neither the debug information nor a symbol gives its address")]
    NoAddress {
        /// What was asked for.
        name: String,
    },
    /// A type has no such member, also not inside what it wraps.
    #[error("find member {member} of {ty}: there is none")]
    NoMember {
        /// The type's name.
        ty: String,
        /// The member asked for.
        member: String,
    },
    /// Something was asked of a type that it cannot answer: an element of what is no array, the
    /// value of a structure, a bit-field's address.
    #[error("use {ty} as {wanted}: it is not")]
    Unsuitable {
        /// The type's name.
        ty: String,
        /// What it was to be.
        wanted: &'static str,
    },
    /// Past the end of an array.
    #[error("take element {index} of {ty}: it has {count}")]
    OutOfBounds {
        /// The array type's name.
        ty: String,
        /// The element asked for.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// The value is larger than the caller allows.
    #[error("read a {ty} of {size} bytes: at most {limit} are allowed")]
    TooLarge {
        /// The type's name.
        ty: String,
        /// Its size in bytes.
        size: u64,
        /// The caller's bound in bytes.
        limit: u64,
    },
    /// The address would lie past the end of the address space.
    #[error("find a part of a value at {address}: its address wraps around")]
    Wraps {
        /// Where the value starts.
        address: VirtualAddress,
    },
    /// The guest's memory could not be read.
    #[error("read a value")]
    Read(#[from] ReadError),
}

/// The variables and types of one image.
///
/// Looking a name up for the first time passes once over all entries of `.debug_info` outside
/// functions and remembers every name. That suits images of some megabytes; for a distribution
/// kernel's 164 MB it takes in the order of a second, and an index in the file (`.debug_names`)
/// should be consulted first.
pub struct Types<'i> {
    image: &'i Image<'i>,
    debug: &'i DebugInfo<'i>,
    dwarf: Dwarf<'i>,
    index: OnceCell<Result<Index, TypeError>>,
}

impl<'i> Types<'i> {
    /// Reads nothing but section headers yet.
    ///
    /// # Errors
    /// [`TypeError::NoDebugInfo`], or [`TypeError::Malformed`] when a section does not decompress.
    pub fn new(image: &'i Image<'_>) -> Result<Self, TypeError> {
        let debug = image.debug().ok_or(TypeError::NoDebugInfo)?;
        Ok(Self { image, debug, dwarf: debug.dwarf()?, index: OnceCell::new() })
    }

    /// A variable with static storage by its name: plain (`nmi_print_seq`), with its namespaces
    /// (`nmiscope_guest::printk::LOG`), or its linkage name. The address is from the debug
    /// information, or where that has none from the symbol of the same name.
    ///
    /// Of a per-CPU variable the address is the template's: see [`Place::offset_by`].
    ///
    /// # Errors
    /// [`TypeError::NotFound`], [`TypeError::Ambiguous`], [`TypeError::NoAddress`] or
    /// [`TypeError::Malformed`].
    pub fn variable<'t>(&'t self, name: &str) -> Result<Place<'t>, TypeError> {
        let candidates = self.index()?.variables(name);
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
            let name = name.to_owned();
            if without_address {
                TypeError::NoAddress { name }
            } else {
                TypeError::NotFound { name }
            }
        })
    }

    /// A type by its name, plain (`seq_buf`) or with its namespaces (`nmiscope_guest::SeqBuf`). C's
    /// tags and typedefs share one space of names here; the first definition wins.
    ///
    /// # Errors
    /// [`TypeError::NotFound`], [`TypeError::Ambiguous`] or [`TypeError::Malformed`].
    pub fn type_named<'t>(&'t self, name: &str) -> Result<Type<'t>, TypeError> {
        let at = self.index()?.type_named(name)?;
        let unit = self.debug.unit(&self.dwarf, at.unit)?;
        Type::new(self, Rc::new(unit), UnitOffset(at.entry))
    }

    /// The unit with its header at `offset`, for `variables`.
    pub(crate) fn unit(&self, offset: usize) -> Result<Rc<Unit<'_>>, TypeError> {
        Ok(Rc::new(self.debug.unit(&self.dwarf, offset)?))
    }

    /// The image that the types are of, and its debug information.
    pub(crate) fn parts(&self) -> (&'i Image<'i>, &'i DebugInfo<'i>, &Dwarf<'i>) {
        (self.image, self.debug, &self.dwarf)
    }

    fn index(&self) -> Result<&Index, TypeError> {
        self.index
            .get_or_init(|| Index::build(self.debug, &self.dwarf).map_err(TypeError::from))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn entry(&self, at: EntryAt) -> Result<(Rc<Unit<'_>>, Entry<'_>), TypeError> {
        let unit = self.debug.unit(&self.dwarf, at.unit)?;
        let entry = unit.entry(UnitOffset(at.entry)).map_err(read("a variable"))?;
        Ok((Rc::new(unit), entry))
    }

    fn address_of(
        &self,
        unit: &Unit<'_>,
        entry: &Entry<'_>,
        name: &str,
    ) -> Result<Option<VirtualAddress>, TypeError> {
        if let Some(AttributeValue::Exprloc(mut location)) = entry.attr_value(gimli::DW_AT_location)
        {
            let address = match Operation::parse(&mut location.0, unit.encoding()) {
                // One operation and no more: anything else is computed, or thread-local.
                Ok(_) if !location.0.is_empty() => None,
                Ok(Operation::Address { address }) => Some(address),
                Ok(Operation::AddressIndex { index }) => {
                    Some(self.dwarf.address(unit, index).map_err(read("an address"))?)
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
            entry = unit.entry(offset).map_err(read("a declaration"))?;
        }
        Err(TypeError::NotFound { name: "the type of a variable".to_owned() })
    }

    /// Where a reference leads.
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
