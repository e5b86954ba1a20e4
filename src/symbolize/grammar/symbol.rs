//! Symbols within a word, such as `func+0x14/0x90`.
//!
//! Owns the characters of a symbol's name. Called by the grammar.

use std::ops::Range;

use super::words::hex;

/// Longest name of a symbol: `KSYM_NAME_LEN` of the kernel is 512.
const MAX_NAME: usize = 512;

/// Iterates over each `func+0x14/0x90` in a word: name, offset, size, and its range in the word.
pub(super) fn symbols_in(word: &[u8]) -> impl Iterator<Item = (&str, u64, u64, Range<usize>)> {
    // End of the last symbol: no byte is parsed twice for a name.
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let plus = from + word[from..].windows(3).position(|window| window == b"+0x")?;
            let (begin, after) = (from, plus + 3);
            from = after;
            let Some((offset, size, length)) = offset_and_size(&word[after..]) else { continue };
            let Some(name) = name_before(&word[begin..plus]) else { continue };
            // A kernel finds a symbol by the address, so it never prints an offset beyond the size.
            if offset > size {
                continue;
            }
            from = after + length;
            return Some((name, offset, size, plus - name.len()..from));
        }
    })
}

/// Parses `14/0x90`: offset, size, and the length of this text in bytes.
fn offset_and_size(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let digits = hex_digits(bytes);
    let offset = hex(&bytes[..digits]).filter(|_| digits > 0)?;
    let rest = bytes[digits..].strip_prefix(b"/0x")?;
    let more = hex_digits(rest);
    let size = hex(&rest[..more]).filter(|_| more > 0)?;
    // In `0x90_` the word continues, so it is no number.
    let ends = rest.get(more).is_none_or(|&byte| !is_name_byte(byte) || byte == b'.');
    ends.then_some((offset, size, digits + 3 + more))
}

fn hex_digits(bytes: &[u8]) -> usize {
    bytes.iter().take(17).take_while(|byte| byte.is_ascii_hexdigit()).count()
}

/// Returns the name that ends at the end of `bytes`. A single colon separates (`0010:func`), two are part
/// of a path.
fn name_before(bytes: &[u8]) -> Option<&str> {
    let mut start = bytes.len();
    while start > 0 && bytes.len() - start < MAX_NAME {
        let byte = bytes[start - 1];
        if byte == b':' && start > 1 && bytes[start - 2] == b':' {
            start -= 2;
        } else if is_name_byte(byte) {
            start -= 1;
        } else {
            break;
        }
    }
    let name = std::str::from_utf8(&bytes[start..]).ok()?.trim_start_matches(':');
    is_name(name).then_some(name)
}

/// Parses `func+95`, with a decimal offset as crash and gdb print it, or `func+0x5f`.
pub(super) fn symbol_without_size(word: &[u8]) -> Option<(&str, u64)> {
    let plus = word.iter().position(|&byte| byte == b'+')?;
    let name = name_in(&word[..plus])?;
    let digits = std::str::from_utf8(&word[plus + 1..]).ok()?;
    let offset = match digits.strip_prefix("0x") {
        Some(digits) => hex(digits.as_bytes()).filter(|_| !digits.is_empty()),
        None => digits.parse().ok(),
    };
    Some((name, offset?))
}

/// Returns the name if the whole word is one.
pub(super) fn name_in(word: &[u8]) -> Option<&str> {
    name_before(word).filter(|name| name.len() == word.len())
}

fn is_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|first| !first.is_ascii_digit() && first != b'@')
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$' | b'@')
}
