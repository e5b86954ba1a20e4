//! Symbol names for people.
//!
//! Owns demangling of Rust names, their short form, and the bound on the length of a name. Owns no lookup,
//! and does not escape control characters: a renderer decides what it may print. Called by the symbolizer,
//! which finds symbols by their full or short names, and by the reports, which print short names; neither
//! of the two knows the other.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

/// The longest linkage name that is demangled, and about the longest demangled name, in bytes. Real names
/// stay well below; without the bound, a table without a NUL would make every name as long as the table.
pub const MAX_NAME: usize = 4 << 10;

/// Demangles a linkage name: the path of a Rust symbol, legacy or v0, without its hash; any other name
/// unchanged. A path of more than 4 KiB, which a short name can unfold to by back references, is cut there
/// with an ellipsis.
pub fn demangle(linkage_name: &str) -> String {
    if linkage_name.len() > MAX_NAME {
        return linkage_name.to_owned();
    }
    match rustc_demangle::try_demangle(linkage_name) {
        Ok(path) => {
            let mut bounded = Bounded(String::new());
            // An error means that the bound was reached, and the ellipsis says so.
            let _ = write!(bounded, "{path:#}");
            bounded.0
        }
        Err(_) => linkage_name.to_owned(),
    }
}

/// Text that stops growing at [`MAX_NAME`] bytes.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() <= MAX_NAME {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push('…');
        Err(fmt::Error)
    }
}

/// The last part of a path: `lock` of `sync::spinlock::SpinLock<T>::lock`. Colons inside angle brackets do
/// not separate parts. A closure keeps the name of its function.
pub fn short_name(name: &str) -> &str {
    let mut depth = 0usize;
    let mut start = 0;
    let bytes = name.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' => depth = depth.saturating_sub(1),
            b':' if depth == 0 && index > 0 && bytes[index - 1] == b':' => {
                // A closure is its function's, so that one is named too.
                let part = &name[index + 1..];
                if !part.starts_with("{{closure}}") && !part.starts_with("{closure#") {
                    start = index + 1;
                }
            }
            _ => {}
        }
    }
    &name[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_names_lose_their_hash_and_others_stay() {
        assert_eq!(demangle("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        // From the v0 mangling RFC (2603): `std::mem::align_of::<f64>`-like paths.
        assert_eq!(demangle("_RNvNtCs1234_7mycrate3foo3bar"), "mycrate::foo::bar");
        assert_eq!(demangle("nmi_vprintk.cold"), "nmi_vprintk.cold");
    }

    #[test]
    fn a_name_that_unfolds_without_end_is_cut_with_an_ellipsis() {
        // A tuple of a tuple of ... by back references: each level doubles the path.
        let mut name = String::from("_RIC1aThhE");
        let mut previous = "4".to_owned();
        for _ in 0..20 {
            let here = base62(name.len() - 2);
            name.push_str(&format!("TB{previous}_B{previous}_E"));
            previous = here;
        }
        name.push('E');
        let shown = demangle(&name);
        assert!(shown.ends_with('…') && shown.len() <= MAX_NAME + 8, "{} bytes", shown.len());
    }

    /// Encodes a number as v0 mangling does (RFC 2603): base 62, less one, and nothing for zero.
    fn base62(number: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let Some(mut rest) = number.checked_sub(1) else { return String::new() };
        let mut digits = vec![DIGITS[rest % 62]];
        while rest >= 62 {
            rest /= 62;
            digits.insert(0, DIGITS[rest % 62]);
        }
        String::from_utf8(digits).expect("digits")
    }

    #[test]
    fn names_are_shortened_to_their_last_part() {
        assert_eq!(short_name("nmiscope_guest::sync::SpinLock<T>::lock"), "lock");
        assert_eq!(short_name("<a::B as core::fmt::Display>::fmt"), "fmt");
        assert_eq!(short_name("main"), "main");
        assert_eq!(short_name("a::b::{{closure}}"), "b::{{closure}}");
        assert_eq!(short_name("a::b::{closure#1}"), "b::{closure#1}");
        assert_eq!(short_name("a::b::{{closure}}::{{closure}}"), "b::{{closure}}::{{closure}}");
        assert_eq!(short_name("a::b::{{closure}}::c"), "c");
        assert_eq!(short_name(""), "");
        assert_eq!(short_name("a::<"), "<");
    }
}
