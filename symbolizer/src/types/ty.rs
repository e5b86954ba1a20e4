//! The parts of a type: its size, members, elements, and the type that it wraps.
//!
//! Owns reading a type's entry and its children, and peeling wrappers: Rust puts a `u64` that two threads
//! share at the bottom of `AtomicU64`, `UnsafeCell` and a structure or two of its author's, and a reader of
//! guest memory wants the number. Owns no names and no addresses. Called by [`Types`](super::Types) and
//! [`Place`](super::Place).

use std::fmt;
use std::rc::Rc;

use gimli::{AttributeValue, UnitOffset};

use super::parts::{Parts, RawMember};
use super::{MAX_REFERENCES, TypeError, Types};
use crate::dwarf::{Entry, Unit, read_entry, string};

/// Structures that are searched for a member: the given one, and C's anonymous ones inside it.
const MAX_SEARCHED: usize = 256;
/// Anonymous structures and unions that may nest.
const MAX_ANONYMOUS: usize = 8;
/// Members that a wrapper may have; a type with more is not tried as one.
const MAX_WRAPPED: usize = 64;

/// The meaning of a base type's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// An integer without a sign.
    Unsigned,
    /// An integer with a sign, in two's complement.
    Signed,
    /// A truth value: `bool` or `_Bool`.
    Boolean,
    /// A character: Rust's `char`, C's `char` of either sign.
    Character,
    /// A floating-point number.
    Float,
    /// Another encoding, such as a decimal number.
    Other,
}

/// The kind of a type. Typedefs, `const`, `volatile` and their like are looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TypeKind {
    /// A number, truth value or character.
    Base(Encoding),
    /// A pointer or a reference.
    Pointer,
    /// An array.
    Array,
    /// A structure, class, tuple, or Rust enum with data.
    Structure,
    /// A union.
    Union,
    /// An enumeration whose variants have no data.
    Enumeration,
    /// Another kind, such as a function type.
    Other,
}

/// A type of the guest.
#[derive(Clone)]
pub struct Type<'t> {
    pub(super) types: &'t Types<'t>,
    pub(super) unit: Rc<Unit<'t>>,
    /// The entry of the type itself, not of a typedef that led to it.
    pub(super) entry: Entry<'t>,
    name: Option<String>,
    /// Number of an array's dimensions that were already indexed.
    dimension: usize,
}

/// A part of a type.
#[derive(Clone, Debug)]
pub struct Member<'t> {
    /// Bytes from the start of the outer type.
    pub offset: u64,
    /// The type of the part.
    pub ty: Type<'t>,
}

impl<'t> Type<'t> {
    pub(super) fn new(
        types: &'t Types<'t>,
        mut unit: Rc<Unit<'t>>,
        mut offset: UnitOffset,
    ) -> Result<Self, TypeError> {
        let mut name = None;
        for _ in 0..MAX_REFERENCES {
            let entry = read_entry(types.dwarf.work(), &unit, offset, "a type")?;
            if name.is_none() {
                let value = entry.attr_value(gimli::DW_AT_name);
                name = value
                    .and_then(|value| string(&types.dwarf, &unit, value))
                    .map(std::borrow::Cow::into_owned);
            }
            // The declaration of a type whose entry lies in a type unit.
            if let Some(signature) = entry.attr_value(gimli::DW_AT_signature) {
                (unit, offset) = types.follow_to(&unit, signature)?;
                continue;
            }
            match (is_alias(&entry), entry.attr_value(gimli::DW_AT_type)) {
                (true, Some(value)) => (unit, offset) = types.follow_to(&unit, value)?,
                _ => {
                    return Ok(Self { types, unit, entry, name, dimension: 0 });
                }
            }
        }
        Err(TypeError::Unsuitable { ty: name.unwrap_or_default(), wanted: "a type" })
    }

    /// The type's name; among several typedefs the outermost. Arrays and C's pointers have none of their
    /// own and get a name in Rust's manner.
    pub fn name(&self) -> String {
        self.name_within(4)
    }

    fn name_within(&self, depth: usize) -> String {
        if let Some(name) = self.name.as_ref().filter(|_| self.dimension == 0) {
            return name.clone();
        }
        let inner = |ty: Option<Type<'t>>| match (ty, depth) {
            (_, 0) => "…".to_owned(),
            (None, _) => "void".to_owned(),
            (Some(ty), _) => ty.name_within(depth - 1),
        };
        match self.kind() {
            TypeKind::Pointer => format!("*{}", inner(self.pointee().ok().flatten())),
            TypeKind::Array => {
                let count = self.count().ok().flatten().map_or("?".to_owned(), |n| n.to_string());
                format!("[{}; {count}]", inner(self.element_type().ok().flatten()))
            }
            TypeKind::Structure => "(anonymous structure)".to_owned(),
            TypeKind::Union => "(anonymous union)".to_owned(),
            TypeKind::Enumeration => "(anonymous enumeration)".to_owned(),
            TypeKind::Base(_) | TypeKind::Other => "(unnamed)".to_owned(),
        }
    }

    /// The kind of the type.
    pub fn kind(&self) -> TypeKind {
        match self.entry.tag() {
            gimli::DW_TAG_base_type => TypeKind::Base(self.encoding()),
            gimli::DW_TAG_pointer_type
            | gimli::DW_TAG_reference_type
            | gimli::DW_TAG_rvalue_reference_type => TypeKind::Pointer,
            gimli::DW_TAG_array_type => TypeKind::Array,
            gimli::DW_TAG_structure_type | gimli::DW_TAG_class_type => TypeKind::Structure,
            gimli::DW_TAG_union_type => TypeKind::Union,
            gimli::DW_TAG_enumeration_type => TypeKind::Enumeration,
            _ => TypeKind::Other,
        }
    }

    fn encoding(&self) -> Encoding {
        match self.entry.attr_value(gimli::DW_AT_encoding) {
            Some(AttributeValue::Encoding(encoding)) => match encoding {
                gimli::DW_ATE_unsigned => Encoding::Unsigned,
                gimli::DW_ATE_signed => Encoding::Signed,
                gimli::DW_ATE_boolean => Encoding::Boolean,
                gimli::DW_ATE_float => Encoding::Float,
                gimli::DW_ATE_UTF
                | gimli::DW_ATE_ASCII
                | gimli::DW_ATE_signed_char
                | gimli::DW_ATE_unsigned_char => Encoding::Character,
                _ => Encoding::Other,
            },
            _ => Encoding::Other,
        }
    }

    /// The size in bytes. `None` where the debug information has none: for a type that is only declared, or
    /// an array without bounds.
    pub fn size(&self) -> Option<u64> {
        self.size_within(MAX_REFERENCES)
    }

    fn size_within(&self, depth: usize) -> Option<u64> {
        let own = self.entry.attr_value(gimli::DW_AT_byte_size).and_then(|size| size.udata_value());
        match self.kind() {
            TypeKind::Array if self.dimension > 0 || own.is_none() => {
                let count = self.count().ok()??;
                let element = self.element_type().ok()??.size_within(depth.checked_sub(1)?)?;
                count.checked_mul(element)
            }
            TypeKind::Pointer => own.or(Some(8)),
            _ => own,
        }
    }

    /// Finds a member by its name. Members of C's anonymous structures and unions count as the outer type's
    /// own. Members of a tuple are `0`, `1` and so on, or `__0` as rustc names them.
    ///
    /// # Errors
    /// [`TypeError::NoMember`]; [`TypeError::Unsuitable`] for a bit-field;
    /// [`TypeError::Malformed`].
    pub fn member(&self, name: &str) -> Result<Member<'t>, TypeError> {
        self.find_member(name, MAX_ANONYMOUS, &mut { MAX_SEARCHED })?
            .ok_or_else(|| TypeError::NoMember { ty: self.name(), member: name.to_owned() })
    }

    fn find_member(
        &self,
        name: &str,
        depth: usize,
        budget: &mut usize,
    ) -> Result<Option<Member<'t>>, TypeError> {
        let tuple = name.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("__{name}"));
        if depth == 0 || *budget == 0 {
            return Ok(None);
        }
        *budget -= 1;
        let (members, _) = self.raw_members()?;
        for member in &members {
            let own = member.name.as_deref();
            if own == Some(name) || (own.is_some() && own == tuple.as_deref()) {
                if member.is_bit_field {
                    let ty = format!("{}.{name}", self.name());
                    return Err(TypeError::Unsuitable { ty, wanted: "bytes" });
                }
                return self.resolve(member).map(Some);
            }
        }
        for member in members.iter().filter(|member| member.name.is_none()) {
            let outer = self.resolve(member)?;
            if let Some(mut found) = outer.ty.find_member(name, depth - 1, budget)? {
                found.offset = found.offset.saturating_add(outer.offset);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The type below all wrappers, and its offset in this one: down through every structure with a single
    /// member that has a size, and every union whose members that have a size are of one type.
    /// `PhantomData` and alignment markers have no size. A type that is no wrapper is returned itself.
    ///
    /// # Errors
    /// [`TypeError::Malformed`].
    pub fn peel(&self) -> Result<Member<'t>, TypeError> {
        let mut at = Member { offset: 0, ty: self.clone() };
        for _ in 0..MAX_REFERENCES {
            match at.ty.wrapped()? {
                None => break,
                Some(inner) => {
                    at = Member { offset: at.offset.saturating_add(inner.offset), ty: inner.ty };
                }
            }
        }
        Ok(at)
    }

    /// The type that this one wraps, a single level down. `None` if it is no wrapper.
    pub(super) fn wrapped(&self) -> Result<Option<Member<'t>>, TypeError> {
        let (members, is_enum) = self.raw_members()?;
        if is_enum
            || members.len() > MAX_WRAPPED
            || members.iter().any(|member| member.is_bit_field)
        {
            return Ok(None);
        }
        let mut only: Option<Member<'t>> = None;
        for member in &members {
            let member = self.resolve(member)?;
            match &only {
                _ if member.ty.size() == Some(0) => {}
                None => only = Some(member),
                Some(first) if self.kind() == TypeKind::Union && first.ty.is_same(&member.ty) => {}
                Some(_) => return Ok(None),
            }
        }
        Ok(only)
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.unit.is_same(&other.unit)
            && self.entry.offset() == other.entry.offset()
            && self.dimension == other.dimension
    }

    /// The number of elements of an array; `None` without bounds (C's flexible array member).
    ///
    /// # Errors
    /// [`TypeError::Unsuitable`] if this is no array; [`TypeError::Malformed`].
    pub fn count(&self) -> Result<Option<u64>, TypeError> {
        Ok(self.dimensions()?.get(self.dimension).copied().flatten())
    }

    /// The offset and type of element `index` of an array.
    ///
    /// # Errors
    /// [`TypeError::OutOfBounds`]; [`TypeError::Unsuitable`] if this is no array or its elements
    /// have no size; [`TypeError::Malformed`].
    pub fn element(&self, index: u64) -> Result<Member<'t>, TypeError> {
        if let Some(count) = self.count()?
            && index >= count
        {
            return Err(TypeError::OutOfBounds { ty: self.name(), index, count });
        }
        let ty = self.element_type()?;
        let ty = ty.ok_or_else(|| self.unsuitable("an array of a type"))?;
        let offset = ty.size().and_then(|size| size.checked_mul(index));
        let offset = offset.ok_or_else(|| self.unsuitable("an array of sized elements"))?;
        Ok(Member { offset, ty })
    }

    /// The type that a pointer points at; `None` for C's `void *`.
    ///
    /// # Errors
    /// [`TypeError::Unsuitable`] if this is no pointer; [`TypeError::Malformed`].
    pub fn pointee(&self) -> Result<Option<Type<'t>>, TypeError> {
        if self.kind() != TypeKind::Pointer {
            return Err(self.unsuitable("a pointer"));
        }
        self.referenced_type()
    }

    /// The name of an enumeration's value; `None` if no enumerator has it.
    ///
    /// # Errors
    /// [`TypeError::Unsuitable`] if this is no enumeration; [`TypeError::Malformed`].
    pub fn enumerator(&self, value: u64) -> Result<Option<String>, TypeError> {
        if self.kind() != TypeKind::Enumeration {
            return Err(self.unsuitable("an enumeration"));
        }
        let mask = match self.size() {
            Some(size @ 1..=7) => (1 << (8 * size)) - 1,
            _ => u64::MAX,
        };
        self.parts().enumerator(value, mask)
    }

    /// The sizes of all dimensions of an array, outermost first, also of those already indexed.
    fn dimensions(&self) -> Result<Vec<Option<u64>>, TypeError> {
        if self.kind() != TypeKind::Array {
            return Err(self.unsuitable("an array"));
        }
        self.parts().dimensions()
    }

    /// The members, and true if there are variants beside them: a Rust enum with data.
    fn raw_members(&self) -> Result<(Vec<RawMember<'t>>, bool), TypeError> {
        match self.kind() {
            TypeKind::Structure | TypeKind::Union => self.parts().members(),
            _ => Ok((Vec::new(), false)),
        }
    }

    fn parts(&self) -> Parts<'_, 't> {
        Parts { dwarf: &self.types.dwarf, unit: &self.unit, entry: &self.entry }
    }

    pub(super) fn unsuitable(&self, wanted: &'static str) -> TypeError {
        TypeError::Unsuitable { ty: self.name(), wanted }
    }

    /// The type of an array's elements; `None` if the debug information has none. Fails without using the
    /// array's name, which is made from this.
    fn element_type(&self) -> Result<Option<Type<'t>>, TypeError> {
        if self.dimension + 1 < self.dimensions()?.len() {
            return Ok(Some(Self { dimension: self.dimension + 1, ..self.clone() }));
        }
        self.referenced_type()
    }

    /// The type that DW_AT_type names; `None` without that attribute.
    fn referenced_type(&self) -> Result<Option<Type<'t>>, TypeError> {
        let Some(value) = self.entry.attr_value(gimli::DW_AT_type) else {
            return Ok(None);
        };
        let (unit, offset) = self.types.follow_to(&self.unit, value)?;
        Type::new(self.types, unit, offset).map(Some)
    }

    fn resolve(&self, member: &RawMember<'t>) -> Result<Member<'t>, TypeError> {
        let (unit, offset) = self.types.follow_to(&self.unit, member.ty)?;
        Ok(Member { offset: member.offset, ty: Type::new(self.types, unit, offset)? })
    }
}

fn is_alias(entry: &Entry<'_>) -> bool {
    matches!(
        entry.tag(),
        gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type
    )
}

impl fmt::Debug for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Type({})", self.name())
    }
}
