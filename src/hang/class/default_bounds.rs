//! The bounds that classes have unless told otherwise.
//!
//! Owns the two durations and which classes are given the longer one. Called by the command line.

use std::time::Duration;

use clap::ValueEnum;
use nmiscope_report::Class;

use super::rule;
use crate::hang::bounds::Bounds;

impl Bounds {
    /// The bound of the command line unless told otherwise.
    pub const DEFAULT: Duration = Duration::from_secs(2);
    /// For a guest to become ready, to print something, or to be run by its host.
    pub const DEFAULT_LONG: Duration = Duration::from_secs(30);

    /// The same bound for all classes that are about standing still; [`Self::DEFAULT_PATIENT`] for
    /// the others.
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
