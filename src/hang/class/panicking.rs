//! Panics: a kernel that panics and does not exit. That is not a hang, but has the bound of a hard
//! lockup.
//!
//! Due when the console has been silent for that bound, or when the kernel has panicked for longer than
//! it can need to print the reason.
//!
//! Owns this rule; refuses to own the report of a panic (`verdict`). Called by `judge`.

use std::time::Duration;

use nmiscope_report::Class;

use crate::hang::ages::Ages;
use crate::hang::bounds::Bounds;

/// Returns true if a panicking kernel has had enough time to exit.
pub fn is_over(bounds: &Bounds, ages: &Ages) -> bool {
    let bound = bounds.get(Class::HardLockup).unwrap_or(Bounds::DEFAULT);
    ages.console.own() >= bound || ages.panicking.own() >= bound.max(Bounds::DEFAULT_LONG)
}

/// Returns the time until the console has been silent for the bound.
pub fn remaining(bounds: &Bounds, ages: &Ages) -> Option<Duration> {
    bounds.remaining(Class::HardLockup, ages.console.own())
}
