//! Parser of the fields in a line of QEMU's register text.
//!
//! Owns the syntax: `NAME=VALUE` fields in a fixed order. Refuses to own the set of lines (`registers`, the
//! caller). Every method returns `None` if the line deviates from the syntax.

/// The rest of a line that is still to be parsed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a str);

impl<'a> Fields<'a> {
    /// Skips `expected`, with which the rest must begin.
    pub(super) fn expect(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Parses a hexadecimal number of at least `digits` and at most 16 digits.
    pub(super) fn hex(&mut self, digits: usize) -> Option<u64> {
        let end = self.0.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
        let (number, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        if !(digits..=16).contains(&number.len()) {
            return None;
        }
        self.0 = rest;
        u64::from_str_radix(number, 16).ok()
    }

    /// Parses a hexadecimal number of exactly `digits` digits that fits into `T`.
    pub(super) fn exactly<T: TryFrom<u64>>(&mut self, digits: usize) -> Option<T> {
        let before = self.0.len();
        let number = self.hex(digits)?;
        if before - self.0.len() != digits {
            return None;
        }
        T::try_from(number).ok()
    }

    /// Parses a register of at least `digits` digits; blanks may follow its name, as in `R8 =`.
    pub(super) fn register(&mut self, name: &str, digits: usize) -> Option<u64> {
        self.expect(name)?;
        self.0 = self.0.trim_start_matches(' ');
        self.expect("=")?;
        self.hex(digits)
    }

    /// Parses a one-bit field; `name` includes the blank before it and the equals sign.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.expect(name)?;
        let (set, rest) = match self.0.strip_prefix('0') {
            Some(rest) => (false, rest),
            None => (true, self.0.strip_prefix('1')?),
        };
        self.0 = rest;
        Some(set)
    }

    /// Takes the next `length` bytes as text.
    pub(super) fn text(&mut self, length: usize) -> Option<&'a str> {
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    /// Checks that only blanks are left.
    pub(super) fn end(&self) -> Option<()> {
        self.0.trim_end_matches(' ').is_empty().then_some(())
    }
}
