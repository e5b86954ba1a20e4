//! A bound as people write it, on the command line and in a farm's suite: `2s` for all classes that have none of their own, `livelock=30s` for one.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::class::Class;
use crate::nearest;
use crate::units::{UnitError, parse_duration};

/// A bound: of one class, or of all that have none of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HangAfter {
    /// Whose; `None` for all.
    pub scope: Option<BoundScope>,
    /// How long; `None` to not look.
    pub bound: Option<Duration>,
}

/// What can have a bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundScope {
    /// A class of hangs.
    Class(Class),
    /// A vCPU that the host does not run.
    Starved,
}

/// The reason why a text is no bound.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HangAfterError {
    /// The bound of that class has an option of its own.
    #[error("for boot-stall, use --ready-within")]
    BootStall,
    /// There is no class of that name.
    #[error("no class `{name}`; {}", nearest::hint(name, &names_of_classes()))]
    NoClass {
        /// The name.
        name: String,
    },
    /// The bound is too short for two looks at the guest.
    #[error("too short to look twice: 200ms at least, or 0 to not look")]
    TooShort,
    /// The bound is no duration.
    #[error(transparent)]
    Unit(#[from] UnitError),
}

impl FromStr for HangAfter {
    type Err = HangAfterError;

    fn from_str(text: &str) -> Result<Self, HangAfterError> {
        let (scope, bound) = match text.split_once('=') {
            None => (None, text),
            Some(("starved", bound)) => (Some(BoundScope::Starved), bound),
            Some(("boot-stall", _)) => return Err(HangAfterError::BootStall),
            Some((name, bound)) => {
                let class = Class::from_str(name, false)
                    .map_err(|_| HangAfterError::NoClass { name: name.into() })?;
                (Some(BoundScope::Class(class)), bound)
            }
        };
        const LEAST: Duration = Duration::from_millis(200);
        let bound = Some(parse_duration(bound)?).filter(|bound| !bound.is_zero());
        if bound.is_some_and(|bound| bound < LEAST) {
            return Err(HangAfterError::TooShort);
        }
        Ok(Self { scope, bound })
    }
}

fn names_of_classes() -> Vec<&'static str> {
    let classes = Class::value_variants().iter().map(|class| class.name());
    let mut names: Vec<&'static str> = classes.filter(|class| *class != "boot-stall").collect();
    names.push("starved");
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bound_is_refused_with_a_hint() {
        let rows = [
            ("1ns", "too short to look twice"),
            ("2", "as in 2s or 500ms"),
            ("livelok=1s", "no class `livelok`; did you mean `livelock`?"),
            ("xyzzy=1s", "no class `xyzzy`; there are deadlock, "),
            ("boot-stall=1s", "--ready-within"),
        ];
        for (text, message) in rows {
            let error = HangAfter::from_str(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
