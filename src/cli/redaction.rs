//! `--redact` of the commands that capture a guest: parts of a report are redacted before they are printed.
//!
//! Owns the refusal of `--redact` with a core; refuses to own what is left out (`nmiscope_report::redact`).
//! Called by `run` and `attach`.

#[cfg(feature = "kvm")]
use std::borrow::{BorrowMut, Cow};

use anyhow::anyhow;
#[cfg(feature = "kvm")]
use nmiscope_report::redact::{Pseudonyms, Redact};

use crate::errors::BadRequest;

/// Returns the error for `--redact` with a core.
pub fn refused_for_core() -> anyhow::Error {
    BadRequest::from_error(anyhow!(
        "--redact cannot be used with a core, which holds the guest's memory: write the core alone, and \
         make a redacted report of it with `nmiscope report --redact`"
    ))
}

/// Redaction of the parts of one report, as they come; of none without `--redact`.
#[cfg(feature = "kvm")]
#[derive(Debug)]
pub struct Redaction(Option<Pseudonyms>);

#[cfg(feature = "kvm")]
impl Redaction {
    /// Creates the redaction of a report, or one that changes nothing.
    pub fn new(is_wanted: bool) -> Self {
        Self(is_wanted.then(Pseudonyms::default))
    }

    /// Returns true where parts are changed.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns a part as it may be printed.
    pub fn part<'a, T>(&mut self, part: &'a T) -> Cow<'a, T>
    where
        T: Redact + ToOwned + ?Sized,
        T::Owned: BorrowMut<T>,
    {
        let Some(pseudonyms) = &mut self.0 else { return Cow::Borrowed(part) };
        let mut part = part.to_owned();
        part.borrow_mut().redact(pseudonyms);
        Cow::Owned(part)
    }

    /// Returns a warning as it may be printed.
    pub fn warning<'a>(&mut self, warning: &'a str) -> Cow<'a, str> {
        match &mut self.0 {
            Some(pseudonyms) => Cow::Owned(pseudonyms.sentence(warning)),
            None => Cow::Borrowed(warning),
        }
    }
}
