//! A value as text: numbers, names and strings, and the name of its type for all other values.
//!
//! Owns the form and its bounds. Owns no locations. Called by [`Variables`](super::Variables).

use nmiscope_machine::{VirtualAddress, VirtualMemory};
use nmiscope_names::demangle;

use super::VariableValue;
use super::location::{Location, Locator, MAX_VALUE};
use crate::types::{Encoding, Type, TypeError, TypeKind, Types};

/// Bytes of a string that are read from the guest.
const MAX_STRING: usize = 64;
/// Bytes that are shown of the name of a type or symbol.
const MAX_NAME: usize = 128;

pub(super) struct Renderer<'a, 't> {
    pub(super) types: &'t Types<'t>,
    pub(super) memory: &'a dyn VirtualMemory,
    pub(super) bias: u64,
}

impl<'t> Renderer<'_, 't> {
    pub(super) fn value(
        &self,
        ty: &Type<'t>,
        locator: &Locator<'_, 't>,
        location: &Location<'t>,
    ) -> VariableValue {
        let whole = ty.size().and_then(|size| usize::try_from(size).ok());
        // A value of no bytes is fully known, though compilers give it no location.
        if whole == Some(0) {
            return VariableValue::Text(match ty.kind() {
                TypeKind::Base(_) => bounded(ty.name()),
                _ => braced(ty),
            });
        }
        if matches!(location, Location::None) {
            return VariableValue::OptimizedOut;
        }
        let (inner, is_string) = match (inner(ty), string_parts(ty)) {
            (Err(error), _) | (_, Err(error)) => return VariableValue::Unavailable(error.into()),
            (Ok(inner), Ok(string)) => (inner, string),
        };
        let size = match whole {
            Some(size) if size <= MAX_VALUE && (inner.is_some() || is_string.is_some()) => size,
            _ => return VariableValue::Text(braced(ty)),
        };
        let bytes = match locator.bytes(location, size) {
            Ok(None) => return VariableValue::OptimizedOut,
            Ok(Some(bytes)) => bytes,
            Err(error) => return VariableValue::Unavailable(error),
        };
        let text = match (is_string, inner) {
            (Some(parts), _) => self.string(&bytes, parts),
            (None, Some((offset, scalar))) => self
                .scalar(&scalar, bytes.get(offset..).unwrap_or_default())
                .map(|text| if scalar.is_same(ty) { text } else { wrapped(ty, &text) }),
            (None, None) => Ok(braced(ty)),
        };
        text.map_or_else(|error| VariableValue::Unavailable(error.into()), VariableValue::Text)
    }

    /// Renders a number, pointer or enumeration from the bytes that begin with it.
    fn scalar(&self, ty: &Type<'t>, bytes: &[u8]) -> Result<String, TypeError> {
        let size = ty.size().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let mut padded = [0; MAX_VALUE];
        let bytes = bytes.get(..size).unwrap_or_default();
        padded[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u128::from_le_bytes(padded);
        let word = unsigned as u64;
        Ok(match ty.kind() {
            TypeKind::Pointer => self.pointer(word),
            TypeKind::Enumeration => match ty.enumerator(word)? {
                Some(name) => bounded(name),
                None => wrapped(ty, &unsigned.to_string()),
            },
            TypeKind::Base(Encoding::Signed) => {
                let unused = 128 - 8 * size.clamp(1, MAX_VALUE) as u32;
                (unsigned.cast_signed() << unused >> unused).to_string()
            }
            TypeKind::Base(Encoding::Boolean) if unsigned <= 1 => (unsigned == 1).to_string(),
            TypeKind::Base(Encoding::Character) if size == 1 => {
                format!("'{}'", (word as u8).escape_ascii())
            }
            TypeKind::Base(Encoding::Character) => {
                let character = u32::try_from(unsigned).ok().and_then(char::from_u32);
                character.map_or_else(|| hexadecimal(ty, word), |known| format!("{known:?}"))
            }
            TypeKind::Base(Encoding::Float) if size == 4 => f32::from_bits(word as u32).to_string(),
            TypeKind::Base(Encoding::Float) if size == 8 => f64::from_bits(word).to_string(),
            TypeKind::Base(Encoding::Unsigned) => unsigned.to_string(),
            _ => hexadecimal(ty, word),
        })
    }

    fn pointer(&self, address: u64) -> String {
        let (image, ..) = self.types.parts();
        match image.symbol_containing(VirtualAddress(address.wrapping_sub(self.bias))) {
            None => format!("{address:#x}"),
            Some(found) => {
                let name = bounded(demangle(&found.symbol.name));
                match found.offset {
                    0 => name,
                    offset => format!("{name}+{offset:#x}"),
                }
            }
        }
    }

    fn string(&self, bytes: &[u8], parts: StringParts) -> Result<String, TypeError> {
        let word = |at: usize| {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            word.map_or(0, |word| u64::from_le_bytes(*word))
        };
        let length = word(parts.length);
        let mut text = vec![0; usize::try_from(length).map_or(MAX_STRING, |n| n.min(MAX_STRING))];
        // An empty string's pointer need not point at anything.
        if !text.is_empty() {
            self.memory.read(VirtualAddress(word(parts.data)), &mut text)?;
        }
        Ok(quoted(&text, length > MAX_STRING as u64))
    }
}

/// The scalar that a type is or wraps, and its offset in bytes. `None` for a type of several parts.
fn inner<'t>(ty: &Type<'t>) -> Result<Option<(usize, Type<'t>)>, TypeError> {
    let inner = ty.peel()?;
    let is_scalar =
        matches!(inner.ty.kind(), TypeKind::Base(_) | TypeKind::Pointer | TypeKind::Enumeration);
    let offset = usize::try_from(inner.offset).ok();
    Ok(offset.filter(|_| is_scalar).map(|offset| (offset, inner.ty)))
}

/// Offsets of the two words of a string slice, in bytes.
#[derive(Clone, Copy)]
struct StringParts {
    data: usize,
    length: usize,
}

/// The offsets of the parts of a `&str`; `None` for any other type.
fn string_parts(ty: &Type<'_>) -> Result<Option<StringParts>, TypeError> {
    if ty.kind() != TypeKind::Structure || !matches!(ty.name().as_str(), "&str" | "&mut str") {
        return Ok(None);
    }
    let offset = |name| match ty.member(name) {
        Ok(member) => Ok(usize::try_from(member.offset).ok()),
        Err(TypeError::NoMember { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let parts = offset("data_ptr")?.zip(offset("length")?);
    Ok(parts.map(|(data, length)| StringParts { data, length }))
}

/// Renders a Rust string literal, with bytes that are no UTF-8 as `\x` escapes.
fn quoted(bytes: &[u8], is_cut: bool) -> String {
    let mut text = String::from("\"");
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.extend(chunk.valid().escape_debug());
        // A character that was cut in two is no invalid one.
        if !(is_cut && chunks.peek().is_none() && chunk.invalid().len() < 4) {
            text.extend(chunk.invalid().escape_ascii().map(char::from));
        }
    }
    text.push('"');
    if is_cut {
        text.push('…');
    }
    text
}

fn braced(ty: &Type<'_>) -> String {
    format!("{{{}}}", bounded(ty.name()))
}

fn wrapped(ty: &Type<'_>, text: &str) -> String {
    format!("{}({text})", bounded(ty.name()))
}

fn hexadecimal(ty: &Type<'_>, number: u64) -> String {
    wrapped(ty, &format!("{number:#x}"))
}

/// A name, cut with an ellipsis if it is longer than [`MAX_NAME`].
pub(super) fn bounded(mut name: String) -> String {
    if name.len() > MAX_NAME {
        name.truncate(name.floor_char_boundary(MAX_NAME));
        name.push('…');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_and_cut_visibly() {
        assert_eq!(quoted(b"cpu 1\n\x1b[2J\"", false), r#""cpu 1\n\u{1b}[2J\"""#);
        assert_eq!(quoted(b"a\xff\xfeb", false), r#""a\xff\xfeb""#);
        assert_eq!(quoted("ab\u{e9}".as_bytes(), true), "\"ab\u{e9}\"…");
        assert_eq!(quoted(&"ab\u{e9}".as_bytes()[..3], true), "\"ab\"…");
        assert_eq!(quoted(&"ab\u{e9}".as_bytes()[..3], false), r#""ab\xc3""#);
        assert_eq!(quoted(b"", false), "\"\"");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(bounded("abc".to_owned()), "abc");
        let cut = bounded("\u{e9}".repeat(100));
        assert_eq!(cut.chars().count(), 65);
        assert!(bounded(format!("a{}", "\u{e9}".repeat(100))).ends_with('…'));
    }
}
