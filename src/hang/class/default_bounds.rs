//! Default bounds of the classes.
//!
//! Owns the two durations, and the choice between them for each class. Called by the command line.

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

    /// Makes bounds with `bound` for each class of parties without progress, and [`Self::DEFAULT_LONG`]
    /// for the others and for starvation. `None` disables all.
    pub fn new(bound: Option<Duration>) -> Self {
        let patient = bound.and(Some(Self::DEFAULT_LONG));
        let mut bounds = Self::NONE;
        bounds.starved = patient;
        for &class in Class::value_variants() {
            bounds.set(class, if rule(class).has_long_bound() { patient } else { bound });
        }
        bounds
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(Some(Self::DEFAULT))
    }
}
