//! Text of one line that is safe to show.
//!
//! Owns the bound on its length; refuses to own escaping for HTML (the templates). Called by `index` and by
//! those who fill its rows.

use std::fmt;

use crate::sanitize;

/// Maximum length of a line in characters.
const MAX_CHARACTERS: usize = 4096;

/// Text of one line without control characters and marks of the writing direction, of bounded length. Its
/// default is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SafeLine(String);

impl SafeLine {
    /// Makes text safe, and cuts it to a length that is enough for any honest name or sentence.
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        // An escape has up to ten characters. Text far beyond the cut is not examined.
        let end = text.char_indices().nth(MAX_CHARACTERS).map(|(end, _)| end);
        let safe = Self(sanitize::line(&text[..end.unwrap_or(text.len())]));
        let safe = if end.is_some() { Self(safe.0 + "…") } else { safe };
        safe.cut(MAX_CHARACTERS)
    }

    /// Returns the line cut to at most this many characters.
    pub fn cut(mut self, most: usize) -> Self {
        if self.0.char_indices().nth(most).is_some() {
            let last = self.0.char_indices().nth(most.saturating_sub(1));
            self.0.truncate(last.map_or(0, |(last, _)| last));
            self.0.push('…');
        }
        self
    }

    /// Returns the line as plain text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for a line without text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for SafeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_safe_and_bounded() {
        assert_eq!(SafeLine::new("a\x1b[2J\n\u{202e}b").as_str(), "a\\u{1b}[2J\\n\\u{202e}b");
        assert_eq!(SafeLine::new("äöü").cut(2).as_str(), "ä…");
        assert_eq!(SafeLine::new("äö").cut(2).as_str(), "äö");
        for text in ["x".repeat(10_000), "\u{7}".repeat(10_000)] {
            let line = SafeLine::new(text);
            assert_eq!(line.as_str().chars().count(), MAX_CHARACTERS);
            assert!(line.as_str().ends_with('…'));
        }
    }
}
