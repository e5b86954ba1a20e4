//! Default bounds of the classes.
//!
//! Owns the three durations, and the choice between them for each class. Called by the command line.

use std::time::Duration;

use clap::ValueEnum;
use nmiscope_report::Class;

use super::rule;
use crate::hang::bounds::Bounds;

impl Bounds {
    /// The default bound of a class.
    pub const DEFAULT: Duration = Duration::from_secs(2);
    /// The default bound of classes that need patience: to become ready, to print, and to be run by the
    /// host.
    pub const DEFAULT_LONG: Duration = Duration::from_secs(30);
    /// The default bound of hangs whose waiters are all asleep: that of Linux (`hung_task_timeout_secs`).
    pub const DEFAULT_SLEEPERS: Duration = Duration::from_secs(120);

    /// Makes bounds with `bound` for each class of parties without progress, asleep or not, and
    /// [`Self::DEFAULT_LONG`] for the others and for starvation. `None` disables all.
    pub fn new(bound: Option<Duration>) -> Self {
        let patient = bound.and(Some(Self::DEFAULT_LONG));
        let mut bounds = Self::NONE;
        bounds.starved = patient;
        for &class in Class::value_variants() {
            bounds.set(class, if rule(class).has_long_bound() { patient } else { bound });
        }
        bounds
    }

    /// Returns the bound of sleepers where only the bound `general` of the others is given. A shorter one
    /// than the default shortens that of sleepers in proportion; a longer one is theirs too if it exceeds
    /// their default.
    pub fn sleepers_for(general: Duration) -> Duration {
        let ratio = Self::DEFAULT_SLEEPERS.as_secs() / Self::DEFAULT.as_secs();
        let in_proportion = general.saturating_mul(ratio as u32);
        in_proportion.min(Self::DEFAULT_SLEEPERS).max(general)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        let mut bounds = Self::new(Some(Self::DEFAULT));
        bounds.set_sleepers(Some(Self::DEFAULT_SLEEPERS));
        bounds
    }
}
