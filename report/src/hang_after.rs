//! Bounds of hangs as people write them, on the command line and in a farm's suite: `2s` for all classes
//! without a bound of their own, `livelock=30s` for one, `sleepers=60s` for all that only sleep.
//!
//! Owns their syntax; refuses to own the defaults. Called by the command line and by suites.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::class::Class;
use crate::nearest;
use crate::units::{UnitError, parse_duration};

/// A bound of one class, or of all classes without one of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HangAfter {
    /// Scope of the bound; `None` for all classes without one of their own.
    pub scope: Option<BoundScope>,
    /// Age from which a hang is reported; `None` disables detection.
    pub bound: Option<Duration>,
}

/// The scopes that can have a bound of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundScope {
    /// A single class of hangs.
    Class(Class),
    /// vCPUs that the host does not schedule.
    Starved,
    /// Hangs whose waiters are all asleep, of each class without a bound of its own.
    Sleepers,
}

/// The reason why a text is not a bound.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HangAfterError {
    /// The bound of boot stalls has an option of its own.
    #[error("for boot-stall, use --ready-within")]
    BootStall,
    /// No class has that name.
    #[error("no class `{name}`; {}", nearest::hint(name, &names_of_classes()))]
    NoClass {
        /// Name that the user wrote.
        name: String,
    },
    /// The bound is too short for two samples of the guest.
    #[error("too short to sample the guest twice: at least 200ms, or 0 to disable detection")]
    TooShort,
    /// The bound is not a duration.
    #[error(transparent)]
    Unit(#[from] UnitError),
}

impl FromStr for HangAfter {
    type Err = HangAfterError;

    fn from_str(text: &str) -> Result<Self, HangAfterError> {
        let (scope, bound) = match text.split_once('=') {
            None => (None, text),
            Some(("starved", bound)) => (Some(BoundScope::Starved), bound),
            Some(("sleepers", bound)) => (Some(BoundScope::Sleepers), bound),
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
    names.extend(["starved", "sleepers"]);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bound_is_refused_with_a_hint() {
        let rows = [
            ("1ns", "too short to sample the guest twice"),
            ("2", "as in 2s or 500ms"),
            ("livelok=1s", "no class `livelok`; did you mean `livelock`?"),
            ("xyzzy=1s", "no class `xyzzy`; there are deadlock, "),
            ("sleeper=1s", "no class `sleeper`; did you mean `sleepers`?"),
            ("sleepers=1ns", "too short to sample the guest twice"),
            ("boot-stall=1s", "--ready-within"),
        ];
        for (text, message) in rows {
            let error = HangAfter::from_str(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
