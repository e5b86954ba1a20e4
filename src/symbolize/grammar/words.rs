//! The words of a line: the parts between white space, control characters and terminal escapes.
//!
//! Owns the ends of words, and the forms of numbers. Called by the grammar.

use std::ops::Range;

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) bytes: &'a [u8],
    /// Range of the word's bytes in the line.
    pub(super) span: Range<usize>,
}

/// Iterates over the words of a line. Colours and NUL bytes separate words as blanks do.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = Word<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += blank(&line[at..]);
        let start = at;
        while at < line.len() && !is_blank(line[at]) {
            at += 1;
        }
        (start < at).then(|| Word { bytes: &line[start..at], span: start..at })
    })
}

/// Returns the length of white space, control characters and escape sequences at the start of `bytes`.
pub(super) fn blank(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            0x1b => at += escape(&bytes[at..]),
            _ if is_blank(byte) => at += 1,
            _ => break,
        }
    }
    at
}

fn is_blank(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

/// Returns the length of the control sequence (ECMA-48, 5.4) at the start of `bytes`, such as a colour; 1
/// for an escape character that begins no sequence.
fn escape(bytes: &[u8]) -> usize {
    if bytes.get(1) != Some(&b'[') {
        return 1;
    }
    let parameters = bytes[2..].iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
    match bytes.get(2 + parameters) {
        Some(0x40..=0x7e) => 3 + parameters,
        _ => 1,
    }
}

/// Parses an address: 16 hexadecimal digits, up to 16 behind `0x`, or two halves as WinDbg prints them.
pub(super) fn address_in(word: &[u8]) -> Option<u64> {
    if let Some(digits) = word.strip_prefix(b"0x").or_else(|| word.strip_prefix(b"0X")) {
        return hex(digits);
    }
    if word.len() == 17 && word[8] == b'`' {
        return Some(hex(&word[..8])? << 32 | hex(&word[9..])?);
    }
    if word.len() == 16 { hex(word) } else { None }
}

/// Parses up to 16 hexadecimal digits.
pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    if digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
