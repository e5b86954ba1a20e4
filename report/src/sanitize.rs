//! Text from a guest made harmless to a terminal: of control characters only line feed and tab get through.
//!
//! Owns which characters are dangerous, and their escapes. Called for every string that comes from a guest,
//! its image or the command line before a person sees it.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Returns true for a character on which a terminal may act, or that changes how others are shown: control
/// characters, and marks of the writing direction.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns true for text that [`line()`] would change.
pub fn needs_escapes(text: &str) -> bool {
    text.chars().any(is_dangerous)
}

/// Returns guest text as one line: every dangerous character is escaped, line feeds and tabs too.
pub fn line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_dangerous(character) {
            let _ = write!(safe, "{}", character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Returns text of several lines with every dangerous character escaped, except the line feeds.
pub fn lines(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Returns JSON with every dangerous character in its strings escaped. Line feeds belong to the layout:
/// those in strings are escaped already, like all characters below U+0020.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_dangerous(character) && character != '\n' {
            let _ = write!(safe, "\\u{:04x}", character as u32);
        } else {
            safe.push(character);
        }
    }
    safe
}

/// A writer that makes a guest's console harmless before a terminal gets it.
///
/// Line feeds and tabs are kept, carriage returns are dropped, other dangerous characters are escaped. The
/// bytes of an incomplete character are kept until the rest arrives.
pub struct TerminalFilter<W> {
    inner: W,
    partial: Vec<u8>,
    /// True if the last character that was written is not a line feed.
    is_in_line: bool,
}

impl<W: Write> TerminalFilter<W> {
    /// Creates a filter that writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, partial: Vec::new(), is_in_line: false }
    }

    /// Ends an unfinished line, so that other text may follow on a line of its own. The bytes of an
    /// incomplete character are escaped.
    ///
    /// # Errors
    /// `inner` cannot be written.
    pub fn end_line(&mut self) -> io::Result<()> {
        for byte in std::mem::take(&mut self.partial) {
            self.escape(byte)?;
        }
        if std::mem::take(&mut self.is_in_line) {
            writeln!(self.inner)?;
        }
        Ok(())
    }

    fn escape(&mut self, byte: u8) -> io::Result<()> {
        self.is_in_line = true;
        write!(self.inner, "\\x{byte:02x}")
    }

    fn pass(&mut self, text: &str) -> io::Result<()> {
        for part in text.split_inclusive(['\n', '\t', '\r']) {
            let (body, end) = match part.as_bytes().last() {
                Some(b'\n' | b'\t') => part.split_at(part.len() - 1),
                Some(b'\r') => (&part[..part.len() - 1], ""),
                _ => (part, ""),
            };
            if !(body.is_empty() && end.is_empty()) {
                self.is_in_line = end != "\n";
            }
            write!(self.inner, "{}{end}", line(body))?;
        }
        Ok(())
    }
}

impl<W: Write> Write for TerminalFilter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.partial);
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            match str::from_utf8(rest) {
                Ok(text) => {
                    self.pass(text)?;
                    rest = &[];
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.pass(str::from_utf8(good).unwrap_or_default())?;
                    let Some(length) = error.error_len() else {
                        self.partial = bad.to_vec();
                        break;
                    };
                    for byte in &bad[..length] {
                        self.escape(*byte)?;
                    }
                    rest = &bad[length..];
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns the beginning of a line, of `most` characters, with a mark where the rest is left out.
pub(crate) fn cut(mut line: String, most: usize) -> String {
    if let Some((end, _)) = line.char_indices().nth(most) {
        line.truncate(end);
        line.push('\u{2026}');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through_terminal(chunks: &[&[u8]]) -> String {
        let mut output = Vec::new();
        let mut terminal = TerminalFilter::new(&mut output);
        for chunk in chunks {
            terminal.write_all(chunk).unwrap();
        }
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(through_terminal(&[b"\x1b[2J\x07ok\r\n"]), "\\u{1b}[2J\\u{7}ok\n");
        assert_eq!(line("a\x1b]0;title\x07b"), "a\\u{1b}]0;title\\u{7}b");
    }

    #[test]
    fn eight_bit_controls_and_direction_marks_are_escaped_too() {
        assert_eq!(line("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(line("\u{202e}txt.exe"), "\\u{202e}txt.exe");
        assert_eq!(through_terminal(&[b"\x9b31m"]), "\\x9b31m");
    }

    #[test]
    fn a_character_may_come_in_pieces() {
        assert_eq!(through_terminal(&[b"na\xc3", b"\xafve\n"]), "naïve\n");
    }

    #[test]
    fn only_an_unfinished_line_is_ended() {
        let ended = |chunks: &[&[u8]]| {
            let mut output = Vec::new();
            let mut terminal = TerminalFilter::new(&mut output);
            for chunk in chunks {
                terminal.write_all(chunk).unwrap();
            }
            terminal.end_line().unwrap();
            terminal.end_line().unwrap();
            terminal.write_all(b"next").unwrap();
            String::from_utf8(output).unwrap()
        };
        assert_eq!(ended(&[]), "next");
        assert_eq!(ended(&[b"whole\r\n"]), "whole\nnext");
        assert_eq!(ended(&[b"whole\n\r"]), "whole\nnext");
        assert_eq!(ended(&[b"half\t"]), "half\t\nnext");
        assert_eq!(ended(&[b"line\nhalf", b"\r"]), "line\nhalf\nnext");
        assert_eq!(ended(&[b"na\xc3"]), "na\\xc3\nnext");
        assert_eq!(ended(&[b"\xff"]), "\\xff\nnext");
    }

    #[test]
    fn lines_and_tabs_stay() {
        assert_eq!(through_terminal(&[b"a\tb\nc"]), "a\tb\nc");
        assert_eq!(lines("a\tb\nc\x1b[2J\r\n"), "a\\tb\nc\\u{1b}[2J\\r\n");
    }

    #[test]
    fn escaped_json_parses_to_the_same_text() {
        let text = "a\u{9b}31m\u{7f}\u{202e}\n";
        let encoded = json(&serde_json::to_string_pretty(&[text]).unwrap());
        assert!(!encoded.chars().any(|c| is_dangerous(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<Vec<String>>(&encoded).unwrap(), [text]);
    }

    proptest! {
        #[test]
        fn nothing_dangerous_comes_out_whatever_goes_in(chunks: Vec<Vec<u8>>) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let output = through_terminal(&chunks);
            prop_assert!(!output.chars().any(|c| is_dangerous(c) && !matches!(c, '\n' | '\t')));
        }
    }
}
