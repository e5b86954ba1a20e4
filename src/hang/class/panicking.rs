//! A kernel that panics and does not leave: no hang, and bounded as a hard lockup is.
//!
//! Due when its console has been silent for as long as that bound, or it has panicked for longer than
//! it takes to say why, however much it has to say.

use std::time::Duration;

use nmiscope_report::Class;

use crate::hang::ages::Ages;
use crate::hang::bounds::Bounds;

/// True where it has had its time.
pub fn is_over(bounds: &Bounds, ages: &Ages) -> bool {
    let bound = bounds.get(Class::HardLockup).unwrap_or(Bounds::DEFAULT);
    ages.console.own() >= bound || ages.panicking.own() >= bound.max(Bounds::DEFAULT_LONG)
}

/// The time until its console has been silent for long enough.
pub fn remaining(bounds: &Bounds, ages: &Ages) -> Option<Duration> {
    bounds.remaining(Class::HardLockup, ages.console.own())
}
