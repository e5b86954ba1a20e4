//! The fields of a register dump's lines.
//!
//! Owns the syntax: `NAME=VALUE` in a fixed order with nothing between. Refuses to own which lines
//! there are (`registers`). Everything is `None` where a line is not exactly of that form.

/// What is left of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a str);

impl<'a> Fields<'a> {
    /// The text up to `expected`, which is passed over.
    pub(super) fn expect(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// A hexadecimal number of at least `digits` digits, and at most 16.
    pub(super) fn hex(&mut self, digits: usize) -> Option<u64> {
        let end = self.0.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
        let (number, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        if !(digits..=16).contains(&number.len()) {
            return None;
        }
        self.0 = rest;
        u64::from_str_radix(number, 16).ok()
    }

    /// A hexadecimal number that fits, of exactly `digits` digits.
    pub(super) fn exactly<T: TryFrom<u64>>(&mut self, digits: usize) -> Option<T> {
        let before = self.0.len();
        let number = self.hex(digits)?;
        if before - self.0.len() != digits {
            return None;
        }
        T::try_from(number).ok()
    }

    /// A field with blanks behind its name, as in `R8 =`, of at least `digits` digits.
    pub(super) fn register(&mut self, name: &str, digits: usize) -> Option<u64> {
        self.expect(name)?;
        self.0 = self.0.trim_start_matches(' ');
        self.expect("=")?;
        self.hex(digits)
    }

    /// A field of one bit, with the blank before it.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.expect(name)?;
        let (set, rest) = match self.0.strip_prefix('0') {
            Some(rest) => (false, rest),
            None => (true, self.0.strip_prefix('1')?),
        };
        self.0 = rest;
        Some(set)
    }

    /// The first `length` bytes.
    pub(super) fn text(&mut self, length: usize) -> Option<&'a str> {
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    /// The end of the line; blanks may stand before it.
    pub(super) fn end(&self) -> Option<()> {
        self.0.trim_end_matches(' ').is_empty().then_some(())
    }
}
