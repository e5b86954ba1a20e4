//! BTF: the types of a kernel, as the kernel keeps them in its read-only data.
//!
//! Owns the decoding of types and lookups by name (Documentation/bpf/btf.rst, include/uapi/linux/btf.h). Refuses to own
//! which structures matter. A module's BTF builds on the kernel's and is not read.
//!
//! Chains of types are bounded: a structure that contains itself, or a typedef of itself, ends a lookup.

use std::cell::OnceCell;
use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
/// Bytes of the header that are known here.
const HEADER: usize = 24;
/// Bytes of a type before what depends on its kind.
const TYPE: usize = 12;
/// The most types, names and members that a lookup passes on its way.
const MAX_DEPTH: usize = 64;

/// The reason why types are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The bytes do not begin with a BTF header of version 1 whose parts lie within them.
    #[error("read BTF: it has no header, or is cut off")]
    Header,
    /// A type is cut off or of a kind that is not known, so that no later type can be found.
    #[error("read BTF: type {number} cannot be read")]
    Type {
        /// The number of the type; the first is 1.
        number: u32,
    },
    /// No structure, union, enumeration or typedef has that name.
    #[error("look up the type {0} in BTF: there is none")]
    NoType(String),
    /// The type has no such member.
    #[error("look up the member {path} of {structure} in BTF: there is none")]
    NoMember {
        /// The name of the structure.
        structure: String,
        /// The path to the member.
        path: String,
    },
}

/// The place of a member in its outermost structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the beginning of the structure to the first byte with a bit of the member.
    pub offset: u64,
    /// The size of the member's type in bytes; 0 for an array of no length.
    pub size: u64,
    /// The lowest bit of a bit field in that byte; 0 for other members.
    pub bit: u8,
    /// The number of bits of a bit field; 0 for other members.
    pub bits: u8,
}

/// The kinds of types (`BTF_KIND_*`).
mod kind {
    pub(super) const INT: u8 = 1;
    pub(super) const POINTER: u8 = 2;
    pub(super) const ARRAY: u8 = 3;
    pub(super) const STRUCT: u8 = 4;
    pub(super) const UNION: u8 = 5;
    pub(super) const ENUM: u8 = 6;
    pub(super) const TYPEDEF: u8 = 8;
    pub(super) const VOLATILE: u8 = 9;
    pub(super) const CONST: u8 = 10;
    pub(super) const RESTRICT: u8 = 11;
    pub(super) const FUNCTION_PROTOTYPE: u8 = 13;
    pub(super) const VARIABLE: u8 = 14;
    pub(super) const DATA_SECTION: u8 = 15;
    pub(super) const DECLARATION_TAG: u8 = 17;
    pub(super) const TYPE_TAG: u8 = 18;
    pub(super) const ENUM64: u8 = 19;
    /// Kinds without anything behind the common part: forward declarations, functions, floats, and the
    /// kinds that lead to another type.
    pub(super) const BARE: [u8; 8] = [POINTER, 7, TYPEDEF, VOLATILE, CONST, RESTRICT, 12, 16];
}

/// A type as it lies in the table.
#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    kind: u8,
    /// The number of members, values or parameters.
    length: usize,
    /// Bit 31 of `info`: members' offsets hold the sizes of bit fields; values are signed.
    flag: bool,
    /// The size in bytes, or the number of the type that this one leads to.
    size_or_type: u32,
    /// The offset of what follows the common part.
    rest: usize,
}

/// The types of a kernel.
#[derive(Clone, Debug)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// The offset of each type, from number 1 on.
    offsets: Vec<u32>,
    by_name: OnceCell<HashMap<Vec<u8>, u32>>,
}

impl Btf {
    /// Reads the table of types at the beginning of `bytes`; what follows it is left out.
    ///
    /// # Errors
    /// [`BtfError::Header`] or [`BtfError::Type`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let (types, strings) = Self::parts(bytes).ok_or(BtfError::Header)?;
        let mut btf = Self {
            types: types.to_vec(),
            strings: strings.to_vec(),
            offsets: Vec::new(),
            by_name: OnceCell::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let number = btf.offsets.len() as u32 + 1;
            let end = btf.type_at(at).and_then(|found| btf.end_of(found));
            let end = end.filter(|&end| end <= types.len()).ok_or(BtfError::Type { number })?;
            btf.offsets.push(at as u32);
            at = end;
        }
        Ok(btf)
    }

    fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let header = header(bytes)?;
        let body = bytes.get(header.length..)?;
        let part = |(offset, length): (usize, usize)| body.get(offset..offset.checked_add(length)?);
        let (types, strings) = (part(header.types)?, part(header.strings)?);
        let is_table = strings.first() == Some(&0) && strings.last() == Some(&0);
        is_table.then_some((types, strings))
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let [name, info, size_or_type] = words(&self.types, at)?;
        Some(Type {
            name,
            kind: (info >> 24) as u8 & 0x1f,
            length: info as usize & 0xffff,
            flag: info >> 31 != 0,
            size_or_type,
            rest: at + TYPE,
        })
    }

    /// The offset behind a type; `None` for an unknown kind.
    fn end_of(&self, found: Type) -> Option<usize> {
        let each = match found.kind {
            kind::INT | kind::VARIABLE | kind::DECLARATION_TAG => return found.rest.checked_add(4),
            kind::ARRAY => return found.rest.checked_add(12),
            kind::STRUCT | kind::UNION | kind::DATA_SECTION | kind::ENUM64 => 12,
            kind::ENUM | kind::FUNCTION_PROTOTYPE => 8,
            kind::TYPE_TAG => 0,
            bare if kind::BARE.contains(&bare) => 0,
            _ => return None,
        };
        Some(found.rest + each * found.length)
    }

    fn name(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The type of that number; `None` for number 0, which is `void`, and for one that is not there.
    fn numbered(&self, number: u32) -> Option<Type> {
        let index = (number as usize).checked_sub(1)?;
        self.type_at(*self.offsets.get(index)? as usize)
    }

    /// The number and type behind typedefs, qualifiers and tags.
    fn stripped(&self, mut number: u32) -> Option<(u32, Type)> {
        for _ in 0..MAX_DEPTH {
            let found = self.numbered(number)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    number = found.size_or_type
                }
                _ => return Some((number, found)),
            }
        }
        None
    }

    /// The size of a type in bytes.
    fn size_of_type(&self, mut number: u32) -> Option<u64> {
        let mut factor = 1u64;
        for _ in 0..MAX_DEPTH {
            let (_, found) = self.stripped(number)?;
            match found.kind {
                kind::POINTER => return factor.checked_mul(8),
                kind::ARRAY => {
                    let [element, _, length] = words(&self.types, found.rest)?;
                    factor = factor.checked_mul(length.into())?;
                    number = element;
                }
                _ => return factor.checked_mul(found.size_or_type.into()),
            }
        }
        None
    }

    fn named(&self, name: &str) -> Result<u32, BtfError> {
        let by_name = self.by_name.get_or_init(|| self.index_names());
        by_name.get(name.as_bytes()).copied().ok_or_else(|| BtfError::NoType(name.to_owned()))
    }

    /// Names of structures, unions, enumerations and typedefs. A structure wins over a typedef of its name, and
    /// the first of several structures over the others.
    fn index_names(&self) -> HashMap<Vec<u8>, u32> {
        let mut structures = HashMap::new();
        let mut typedefs = Vec::new();
        for (&offset, number) in self.offsets.iter().zip(1..) {
            let Some(found) = self.type_at(offset as usize) else { continue };
            let name = self.name(found.name);
            match found.kind {
                _ if name.is_empty() => {}
                kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => {
                    structures.entry(name.to_vec()).or_insert(number);
                }
                kind::TYPEDEF => typedefs.push((name.to_vec(), number)),
                _ => {}
            }
        }
        for (name, number) in typedefs {
            structures.entry(name).or_insert(number);
        }
        structures
    }

    /// The size of a structure, union or typedef in bytes.
    ///
    /// # Errors
    /// [`BtfError::NoType`].
    pub fn size_of(&self, name: &str) -> Result<u64, BtfError> {
        let size = self.size_of_type(self.named(name)?);
        size.ok_or_else(|| BtfError::NoType(name.to_owned()))
    }

    /// The place of a member, by a path such as `core_layout.base`. Members of unnamed structures and unions are
    /// members of what contains them.
    ///
    /// # Errors
    /// [`BtfError::NoType`] or [`BtfError::NoMember`].
    pub fn field(&self, structure: &str, path: &str) -> Result<Field, BtfError> {
        let mut number = self.named(structure)?;
        let no_member = || BtfError::NoMember { structure: structure.into(), path: path.into() };
        let (mut bits_before, mut bits) = (0u64, 0);
        for name in path.split('.') {
            let mut budget = MAX_DEPTH * MAX_DEPTH;
            let found = self.member(number, name.as_bytes(), MAX_DEPTH, &mut budget);
            let (offset, size, next) = found.ok_or_else(no_member)?;
            bits_before = bits_before.checked_add(offset).ok_or_else(no_member)?;
            (bits, number) = (size, next);
        }
        let size = self.size_of_type(number).ok_or_else(no_member)?;
        Ok(Field { offset: bits_before / 8, size, bit: (bits_before % 8) as u8, bits })
    }

    /// The offset in bits, the bits of a bit field, and the type of a member. Arrays stand for their
    /// elements.
    fn member(
        &self,
        number: u32,
        wanted: &[u8],
        depth: usize,
        budget: &mut usize,
    ) -> Option<(u64, u8, u32)> {
        *budget = budget.checked_sub(1)?;
        let depth = depth.checked_sub(1)?;
        let (_, found) = self.stripped(number)?;
        if found.kind == kind::ARRAY {
            let [element] = words(&self.types, found.rest)?;
            return self.member(element, wanted, depth, budget);
        }
        if !matches!(found.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        let members = (0..found.length).filter_map(|at| words(&self.types, found.rest + 12 * at));
        let mut unnamed = Vec::new();
        for [name, number, offset] in members {
            let (offset, bits) = match found.flag {
                true => (offset & 0xff_ffff, (offset >> 24) as u8),
                false => (offset, 0),
            };
            match self.name(name) {
                name if name == wanted => return Some((offset.into(), bits, number)),
                [] => unnamed.push((offset, number)),
                _ => {}
            }
        }
        unnamed.into_iter().find_map(|(offset, number)| {
            let (inner, bits, number) = self.member(number, wanted, depth, budget)?;
            Some((u64::from(offset).checked_add(inner)?, bits, number))
        })
    }

    /// The value of an enumerator of a named enumeration.
    ///
    /// # Errors
    /// [`BtfError::NoType`] or [`BtfError::NoMember`].
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Result<i64, BtfError> {
        let no_type = || BtfError::NoType(enumeration.into());
        let (_, found) = self.stripped(self.named(enumeration)?).ok_or_else(no_type)?;
        let value = |at: usize| match found.kind {
            kind::ENUM => {
                let [name, value] = words(&self.types, found.rest + 8 * at)?;
                let value = if found.flag { i64::from(value as i32) } else { value.into() };
                Some((name, value))
            }
            kind::ENUM64 => {
                let [name, low, high] = words(&self.types, found.rest + 12 * at)?;
                Some((name, (u64::from(high) << 32 | u64::from(low)) as i64))
            }
            _ => None,
        };
        let mut values = (0..found.length).filter_map(value);
        let value = values.find(|&(offset, _)| self.name(offset) == name.as_bytes());
        let missing = || BtfError::NoMember { structure: enumeration.into(), path: name.into() };
        value.map(|(_, value)| value).ok_or_else(missing)
    }
}

/// The header's lengths and offsets; parts are relative to its end.
struct Header {
    length: usize,
    types: (usize, usize),
    strings: (usize, usize),
}

fn header(bytes: &[u8]) -> Option<Header> {
    let [magic_and_version, length, type_offset, type_length, string_offset, string_length] =
        words(bytes, 0)?;
    let is_header = magic_and_version as u16 == MAGIC
        && (magic_and_version >> 16) as u8 == 1
        && length as usize >= HEADER;
    is_header.then_some(Header {
        length: length as usize,
        types: (type_offset as usize, type_length as usize),
        strings: (string_offset as usize, string_length as usize),
    })
}

fn words<const N: usize>(bytes: &[u8], at: usize) -> Option<[u32; N]> {
    let (words, _) = bytes.get(at..at.checked_add(4 * N)?)?.as_chunks::<4>();
    Some(std::array::from_fn(|index| u32::from_le_bytes(words[index])))
}
