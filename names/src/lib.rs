//! Symbol names for people.
//!
//! Owns demangling of Rust and C++ names, their short form, and the bound on the length of a name. Owns no lookup,
//! and does not escape control characters: a renderer decides what it may print. Called by the symbolizer,
//! which finds symbols by their full or short names, and by the reports, which print short names; neither
//! of the two knows the other.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

/// The longest linkage name that is demangled, and about the longest demangled name, in bytes. Real names
/// stay well below; without the bound, a table without a NUL would make every name as long as the table.
pub const MAX_NAME: usize = 4 << 10;

/// Pieces of text that demangling a name may produce, empty ones included: back references can unfold to
/// any number of them.
const MAX_PIECES: usize = 64 << 10;

/// Depth to which the grammar of a C++ name may nest, some ten templates in each other. The parser goes back
/// where a name breaks off, once for each way to read each level: its time grows exponentially with the depth.
const MAX_NESTING: u32 = 64;

/// Digits of a number in a C++ name, other than the value of a literal, from which on the name is not
/// demangled. The parser adds one to some numbers, and the largest of 64 bits has 19 digits.
const MAX_DIGITS: usize = 18;

/// Demangles a linkage name: the path of a Rust symbol, legacy or v0, without its hash; a C++ name of the
/// Itanium ABI with its parameters, as c++filt prints it; any other name unchanged. Text of more than 4 KiB,
/// which a short name can unfold to by back references, is cut there with an ellipsis.
pub fn demangle(linkage_name: &str) -> String {
    if linkage_name.len() > MAX_NAME {
        return linkage_name.to_owned();
    }
    let mut bounded = Bounded::default();
    // An error means that the bound was reached, and the ellipsis says so.
    let may_be_rust = !linkage_name.starts_with("_Z") || has_hash(linkage_name);
    if may_be_rust && let Ok(path) = rustc_demangle::try_demangle(linkage_name) {
        let _ = write!(bounded, "{path:#}");
        return bounded.text;
    }
    if linkage_name.starts_with("_Z")
        && !has_huge_number(linkage_name)
        && let Ok(symbol) = cpp_demangle::BorrowedSymbol::new_with_options(
            linkage_name.as_bytes(),
            &cpp_demangle::ParseOptions::default().recursion_limit(MAX_NESTING),
        )
    {
        let options = cpp_demangle::DemangleOptions::new();
        let result = symbol.structured_demangle(&mut bounded, &options);
        // Without a cut, an error is a name that has no text.
        if result.is_ok() || bounded.is_cut {
            return with_suffixes(&bounded.text);
        }
    }
    linkage_name.to_owned()
}

/// True if the last part of a path is the hash that each legacy Rust symbol has, and no C++ symbol.
fn has_hash(linkage_name: &str) -> bool {
    let hash = linkage_name.rfind("17h").and_then(|at| linkage_name.as_bytes().get(at + 3..));
    let hash = hash.and_then(|rest| rest.split_at_checked(16));
    hash.is_some_and(|(digits, rest)| {
        digits.iter().all(u8::is_ascii_hexdigit) && rest.starts_with(b"E")
    })
}

/// True if a C++ name has a number of [`MAX_DIGITS`] or more digits that is not the value of a literal. A
/// literal, as of `f<18446744073709551615ul>`, ends in `E`, and its value is never computed.
fn has_huge_number(linkage_name: &str) -> bool {
    let bytes = linkage_name.as_bytes();
    let mut start = 0;
    for run in bytes.chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit()) {
        let end = start + run.len();
        let is_long = run.len() >= MAX_DIGITS && run[0].is_ascii_digit();
        let is_literal = bytes.get(end) == Some(&b'E') && bytes[..start].last() != Some(&b'T');
        if is_long && !is_literal {
            return true;
        }
        start = end;
    }
    false
}

/// Writes integers of a C++ name as c++filt and LLVM do: `7ul` for `(unsigned long)7`.
fn with_suffixes(name: &str) -> String {
    const TYPES: [(&str, &str); 5] = [
        ("(unsigned int)", "u"),
        ("(unsigned long long)", "ull"),
        ("(unsigned long)", "ul"),
        ("(long long)", "ll"),
        ("(long)", "l"),
    ];
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(['(']) {
        let (before, cast) = rest.split_at(at);
        text.push_str(before);
        let number = TYPES.iter().find_map(|(ty, suffix)| {
            let digits = cast.strip_prefix(ty)?;
            let length = digits.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'-');
            let (digits, rest) = digits.split_at(length.count());
            (!digits.is_empty()).then_some((digits, suffix, rest))
        });
        rest = match number {
            Some((digits, suffix, behind)) => {
                text.push_str(digits);
                text.push_str(suffix);
                behind
            }
            None => {
                text.push('(');
                &cast[1..]
            }
        };
    }
    text + rest
}

/// Text that stops growing at [`MAX_NAME`] bytes.
#[derive(Default)]
struct Bounded {
    text: String,
    pieces: usize,
    is_cut: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.pieces += 1;
        if self.is_cut {
            return Err(fmt::Error);
        }
        if self.text.len() + text.len() <= MAX_NAME && self.pieces <= MAX_PIECES {
            self.text.push_str(text);
            return Ok(());
        }
        self.text.push('…');
        self.is_cut = true;
        Err(fmt::Error)
    }
}

/// The name of a C++ function without its parameters and what stands behind them: `Lock<int>::take` of
/// `Lock<int>::take(int&) const`. Other names unchanged.
pub fn without_parameters(name: &str) -> &str {
    const BEHIND: [&str; 4] = [" const", " volatile", " &", " &&"];
    let mut rest = name.split(" [clone ").next().unwrap_or(name);
    while let Some(shorter) = BEHIND.iter().find_map(|qualifier| rest.strip_suffix(qualifier)) {
        rest = shorter;
    }
    let mut depth = 0usize;
    for (at, byte) in rest.bytes().enumerate().rev() {
        match byte {
            b')' => depth += 1,
            _ if depth == 0 => break,
            b'(' if depth == 1 && at > 0 => return &rest[..at],
            b'(' => depth -= 1,
            _ => {}
        }
    }
    name
}

/// The last part of a path: `lock` of `sync::spinlock::SpinLock<T>::lock`, and `lock<int>` of the C++ function
/// `void sync::lock<int>(sync::Spin&)`. Colons inside angle brackets and parentheses do not separate parts. A
/// closure and a lambda keep the name of their function.
pub fn short_name(name: &str) -> &str {
    let path = without_parameters(name);
    let is_cpp = path.len() < name.len();
    let mut depth = 0usize;
    let mut start = 0;
    let bytes = path.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' | b'(' => depth += 1,
            b'>' | b')' => depth = depth.saturating_sub(1),
            b':' if depth == 0
                && index > 0
                && bytes[index - 1] == b':'
                && !belongs_to_function(&path[..index - 1], &path[index + 1..]) =>
            {
                start = index + 1;
            }
            // The type that a template returns stands before its name.
            b' ' if is_cpp && depth == 0 && !path[start..].contains("operator") => {
                start = index + 1;
            }
            _ => {}
        }
    }
    &path[start..]
}

/// True for a closure or a lambda behind its function, and for the operator by which a lambda is called.
fn belongs_to_function(before: &str, part: &str) -> bool {
    ["{{closure}}", "{closure#", "{lambda("].iter().any(|closure| part.starts_with(closure))
        || before.ends_with('}') && part.starts_with("operator()")
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
    fn unbalanced_parentheses_are_no_parameters() {
        for name in ["(", "f(", "f)", ")(", "()", "f(g", "f)g("] {
            assert_eq!(without_parameters(name), name, "{name}");
        }
        assert_eq!(without_parameters("f()g()"), "f()g");
    }

    /// Names of GCC 12's symbols, and what c++filt 2.40 prints for them.
    #[test]
    fn cpp_names_are_demangled_as_by_cxxfilt() {
        for (linkage_name, name) in [
            (
                "_ZN6zircon4LockINS_6ThreadELm7EE7AcquireERS1_",
                "zircon::Lock<zircon::Thread, 7ul>::Acquire(zircon::Thread&)",
            ),
            ("_ZN6zircon6ThreadclEi", "zircon::Thread::operator()(int)"),
            ("_ZZ6_startENKUliE_clEi", "_start::{lambda(int)#1}::operator()(int) const"),
            ("_Z3addi.cold", "add(int) [clone .cold]"),
            ("_ZN12_GLOBAL__N_15countE", "(anonymous namespace)::count"),
            ("_Z", "_Z"),
            ("_Zebra", "_Zebra"),
        ] {
            assert_eq!(demangle(linkage_name), name);
        }
    }

    /// The parser overflows on the first of these; c++filt 2.40 leaves it unchanged too.
    #[test]
    fn cpp_names_with_a_huge_number_stay_as_they_are() {
        for name in [
            "_Z1fIiEvT9223372036854775807_",
            "_Z1fIiEvT9223372036854775807E",
            "_Z1fIiEvT92233720368547758070_",
            "_Z1fIiEvS9223372036854775807_",
            "_Z9223372036854775807f",
        ] {
            assert_eq!(demangle(name), name);
        }
        let largest = "_Z1fILm18446744073709551615EEvv";
        assert_eq!(demangle(largest), "void f<18446744073709551615ul>()");
        assert_eq!(demangle("_Z1fIiiEvT0_"), "void f<int, int>(int)");
    }

    #[test]
    fn a_cpp_name_that_unfolds_without_end_is_cut_with_an_ellipsis() {
        // f(A<A<..>, A<..>>) by substitutions: each level has the one before it twice.
        let mut name = String::from("_Z1f1AI");
        name.push_str("1BS0_E");
        for level in 0..34 {
            let digit = |number: usize| char::from(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number]);
            let previous = digit(level + 1);
            name.push_str(&format!("S_IS{previous}_S{previous}_E"));
        }
        let shown = demangle(&name);
        assert!(shown.ends_with('…') && shown.len() <= MAX_NAME + 8, "{} bytes", shown.len());
    }

    #[test]
    fn cpp_names_that_nest_deeper_than_the_bound_stay_as_they_are() {
        let nested = |depth| {
            let (begin, end) = ("6vectorI".repeat(depth), "E".repeat(depth));
            demangle(&format!("_Z1f{begin}i{end}"))
        };
        let expected = format!("f({}int{})", "vector<".repeat(10), "> ".repeat(10).trim_end());
        assert_eq!(nested(10), expected);
        assert!(nested(50).starts_with("_Z1f6vectorI6vector"));
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
        let acquire = "zircon::Lock<zircon::Thread, 7ul>::Acquire(zircon::Thread&) const";
        assert_eq!(short_name(acquire), "Acquire");
        assert_eq!(short_name("void ns::f<int>(std::vector<int>)"), "f<int>");
        assert_eq!(short_name("void f<int>(int)"), "f<int>");
        assert_eq!(short_name("a::b(int) [clone .cold]"), "b");
        assert_eq!(short_name("T::operator()(int)"), "operator()");
        assert_eq!(short_name("T::operator bool() const"), "operator bool");
        assert_eq!(
            short_name("a::f(int)::{lambda(x::y)#1}::operator()(x::y) const"),
            "f(int)::{lambda(x::y)#1}::operator()"
        );
        assert_eq!(short_name("(anonymous namespace)::g(int)"), "g");
        assert_eq!(short_name("a::<"), "<");
    }
}
