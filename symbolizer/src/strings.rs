//! Strings of an image's tables.
//!
//! Owns the bound on the length of a string: a table without a NUL would otherwise make every name as long
//! as the table. Used for the container, the symbol table and DWARF.

use std::borrow::Cow;

use nmiscope_names::MAX_NAME;

/// The NUL-terminated string at `offset`, or its first [`MAX_NAME`] bytes and an ellipsis. `None`
/// past the end.
pub(crate) fn string_at(table: &[u8], offset: usize) -> Option<Cow<'_, str>> {
    let rest = table.get(offset..).filter(|rest| !rest.is_empty())?;
    let cut = &rest[..rest.len().min(MAX_NAME)];
    match memchr::memchr(0, cut) {
        Some(end) => Some(String::from_utf8_lossy(&cut[..end])),
        None => Some(format!("{}…", String::from_utf8_lossy(cut)).into()),
    }
}

/// A string as text, or its first [`MAX_NAME`] bytes and an ellipsis.
pub(crate) fn bounded(string: &[u8]) -> Cow<'_, str> {
    match string.get(..MAX_NAME) {
        Some(cut) if string.len() > MAX_NAME => format!("{}…", String::from_utf8_lossy(cut)).into(),
        _ => String::from_utf8_lossy(string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_without_an_end_is_cut_visibly() {
        let table = vec![b'a'; MAX_NAME * 2];
        let name = string_at(&table, 1).expect("inside the table");
        assert!(name.ends_with('…') && name.len() < MAX_NAME + 8);
        assert_eq!(string_at(b"ab\0", 0).as_deref(), Some("ab"));
        assert_eq!(string_at(b"ab\0", 3), None);
        assert_eq!(string_at(b"ab\0", usize::MAX), None);
    }
}
