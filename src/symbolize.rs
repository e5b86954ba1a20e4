//! Symbols for text: a log goes in line by line, and comes out with a function and a source line
//! behind each address of a call trace. No I/O; `cli` reads and writes the lines.

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{Image, ProgramCounter, short_name};

use crate::diagnosis::Resolver;
use crate::report::Frame;
use crate::report::sanitize::line;

/// Annotates a log, one line after the other.
pub struct Annotator<'a> {
    image: &'a Image<'a>,
    resolver: Resolver<'a>,
    /// The line before said that the next address is that of an interrupted instruction.
    interrupted: bool,
}

impl<'a> Annotator<'a> {
    /// For a log of `image`.
    pub fn new(image: &'a Image<'a>, resolver: Resolver<'a>) -> Self {
        Self { image, resolver, interrupted: false }
    }

    /// The line, made harmless, with what it says in addresses said in names behind it.
    pub fn annotate(&mut self, text: &str) -> String {
        // What an instruction pointer holds is exact. All other addresses of a trace are returned
        // to, but for one that follows this mark.
        let exact = self.interrupted || text.contains("RIP") || text.contains("EIP");
        let mut annotated = line(text);
        let mut found = false;
        for address in addresses(text).filter(|&address| self.image.is_text(address)) {
            found = true;
            let counter = if exact {
                ProgramCounter::Interrupted(address)
            } else {
                ProgramCounter::Return(address)
            };
            annotated.push_str("  ");
            annotated.push_str(&one_line(&self.resolver.frame(counter, true)));
        }
        self.interrupted = text.contains("--- interrupted ---") || self.interrupted && !found;
        annotated
    }
}

/// A frame in one line: `spin_until_free at spinlock.rs:58 < lock at spinlock.rs:41`.
pub fn one_line(frame: &Frame) -> String {
    if frame.functions.is_empty() {
        return line(frame.missing.as_deref().unwrap_or("unknown"));
    }
    let functions = frame.functions.iter().map(|function| {
        let name = function.name.as_deref().map_or("??", short_name);
        let place = match (&function.file, function.line) {
            (Some(file), Some(line)) => format!(" at {file}:{line}"),
            (Some(file), None) => format!(" in {file}"),
            (None, _) => String::new(),
        };
        line(&format!("{name}{place}"))
    });
    functions.collect::<Vec<_>>().join(" < ")
}

/// The 64-bit addresses in a line: words of 16 hexadecimal digits, or of fewer after `0x`.
fn addresses(text: &str) -> impl Iterator<Item = VirtualAddress> {
    text.split(|character: char| !character.is_ascii_alphanumeric()).filter_map(|word| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        let is_address = digits.len() == 16 || (word.len() > digits.len() && digits.len() < 16);
        let value = is_address.then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
        Some(VirtualAddress(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<u64> {
        addresses(text).map(|address| address.0).collect()
    }

    #[test]
    fn addresses_are_found_as_kernels_print_them() {
        assert_eq!(found(" [<ffffffff80201234>] ?"), [0xffff_ffff_8020_1234]);
        assert_eq!(found("RIP: 0010:[<ffffffff80201234>]"), [0xffff_ffff_8020_1234]);
        assert_eq!(found("pc=0x401000, lr=0x0000000000401010"), [0x40_1000, 0x40_1010]);
    }

    #[test]
    fn other_numbers_are_left_alone() {
        assert!(found("took 1234567890123456789 ns, code deadbeef, 0xg").is_empty());
    }
}
