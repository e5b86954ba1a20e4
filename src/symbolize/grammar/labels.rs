//! Words around an address that classify it: labels, segment selectors, modules, marks.
//!
//! Owns the lists of such words. Each function parses one word. Called by the reader of a line.

use super::Module;
use super::words::hex;

/// The meaning of an address, by the word before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// A program counter, whose value is exact.
    ProgramCounter,
    /// A link register, whose value is a return address.
    Link,
    /// A label of a value that is not code.
    Other,
}

/// Returns the label that a word is or begins with, and the rest of the word: `RIP:`, `rip=0xff..`, `pc`.
/// `None` for a word without a label.
pub(super) fn label_in(word: &[u8]) -> Option<(Label, &[u8])> {
    let end = word.iter().position(|byte| matches!(byte, b':' | b'=')).unwrap_or(word.len());
    let (key, rest) = (&word[..end], word.get(end + 1..).unwrap_or_default());
    // gdb's `$pc = 0xffffffff81234567`.
    let key = key.strip_prefix(b"$").unwrap_or(key);
    let label = match key.to_ascii_lowercase().as_slice() {
        b"rip" | b"eip" | b"ip" | b"pc" | b"epc" | b"nip" | b"sepc" => Label::ProgramCounter,
        b"idling" => Label::ProgramCounter,
        b"lr" | b"ra" => Label::Link,
        // A segment selector belongs to the address, not to the label.
        _ if end == word.len() || selector(word).0.is_some() => return None,
        _ if key.is_empty() => return None,
        _ => Label::Other,
    };
    Some((label, rest))
}

/// Splits a segment selector, as in `0010:`, from the rest of a word.
pub(super) fn selector(word: &[u8]) -> (Option<u64>, &[u8]) {
    let Some(colon) = word.iter().take(5).position(|&byte| byte == b':') else {
        return (None, word);
    };
    match (colon, hex(&word[..colon])) {
        (4, Some(selector)) => (Some(selector), &word[colon + 1..]),
        _ => (None, word),
    }
}

/// Returns true for a word between a label and the labelled address.
pub(super) fn is_transparent(word: &[u8]) -> bool {
    matches!(word, b":" | b"=" | b"is" | b"at" | b"?" | b"(" | b"==")
}

/// Returns true for the marks that arm64 puts behind a frame for its source (`dump_backtrace_entry()`):
/// a graph tracer, a kretprobe, the program counter, the link register.
pub(super) fn is_source_mark(word: &[u8]) -> bool {
    let marks = word.strip_prefix(b"(").and_then(|word| word.strip_suffix(b")"));
    marks.is_some_and(|marks| !marks.is_empty() && marks.iter().all(|mark| b"FKPL".contains(mark)))
}

/// Parses the number of a frame, `#12`.
pub(super) fn frame_number(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"#")?;
    if digits.is_empty() || digits.len() > 6 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses `[mod]`, and ignores the rest of the word: `[mod])`, `[mod],`.
pub(super) fn module_in(word: &[u8]) -> Option<Module<'_>> {
    let inner = word.strip_prefix(b"[")?;
    let end = inner.iter().position(|&byte| byte == b']')?;
    Some(Module { name: module_name(&inner[..end])?, build_id: None })
}

/// Parses `BUILDID]` behind a module's name, and ignores the rest of the word.
pub(super) fn build_id_in(word: &[u8]) -> Option<&str> {
    let end = word.iter().position(|&byte| byte == b']')?;
    let is_build_id = (8..=64).contains(&end) && word[..end].iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(&word[..end]).ok().filter(|_| is_build_id)
}

pub(super) fn module_name(bytes: &[u8]) -> Option<&str> {
    // `MODULE_NAME_LEN` of the kernel is 56 on 64-bit machines.
    let is_name = (1..56).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte));
    // syzkaller's mark behind a call that was inlined.
    let is_mark = bytes == b"inline" || bytes == b"inlined";
    std::str::from_utf8(bytes).ok().filter(|_| is_name && !is_mark)
}

/// Returns the text within `[..]`, if the word is bracketed.
pub(super) fn bracketed(word: &[u8]) -> Option<&[u8]> {
    word.strip_prefix(b"[")?.strip_suffix(b"]")
}

/// Returns the position of the first `wanted` in some bytes.
pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}
