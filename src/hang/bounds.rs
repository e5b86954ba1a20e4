//! Bounds: the time for which each class of hang must last before it is reported.
//!
//! Owns the table; refuses to own the defaults (`class::default_bounds`). Filled by the command line,
//! read by the detector and by the classes.

use std::time::Duration;

use nmiscope_report::Class;

use crate::kernel::Patience;

/// Bounds of all classes, in the own time of the blamed party; `None` disables a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    by_class: [Option<Duration>; Class::COUNT],
    /// The wall-clock time after which a vCPU without progress, which the host hardly runs, is reported
    /// as starved; `None` disables the report.
    pub starved: Option<Duration>,
}

impl Bounds {
    /// Bounds with every class disabled.
    pub(super) const NONE: Self = Self { by_class: [None; Class::COUNT], starved: None };

    /// Returns the bound of a class; `None` if the class is disabled.
    pub fn get(&self, class: Class) -> Option<Duration> {
        self.by_class[class as usize]
    }

    /// Sets the bound of a class.
    pub fn set(&mut self, class: Class, bound: Option<Duration>) {
        self.by_class[class as usize] = bound;
    }

    /// Returns the bounds of a guest whose kernel has times of its own.
    #[must_use]
    pub(super) fn with_patience(mut self, patience: Patience) -> Self {
        for class in [Class::HardLockup, Class::DeadHalt] {
            self.set(class, Some(patience.tick));
        }
        self.set(Class::SoftLockup, Some(patience.schedule));
        for class in [Class::Deadlock, Class::LockWait] {
            self.set(class, Some(patience.sleep));
        }
        self
    }

    /// Returns the bounds with `change` applied to that of each class.
    pub(super) fn map(&self, change: impl Fn(Duration) -> Duration) -> Self {
        Self { by_class: self.by_class.map(|bound| bound.map(&change)), starved: self.starved }
    }

    /// Returns true if `age` has reached the class's bound.
    pub fn is_due(&self, class: Class, age: Duration) -> bool {
        self.get(class).is_some_and(|bound| age >= bound)
    }

    /// Returns true if `age` has reached half of the class's bound, which is enough to join a hang that
    /// is due.
    pub(super) fn is_half_due(&self, class: Class, age: Duration) -> bool {
        self.get(class).is_some_and(|bound| age >= bound / 2)
    }

    /// Returns the time until the class's bound is reached; `None` if the class is disabled, `age` is
    /// zero, or the bound is reached.
    pub(super) fn remaining(&self, class: Class, age: Duration) -> Option<Duration> {
        let bound = self.get(class).filter(|_| !age.is_zero())?;
        bound.checked_sub(age).filter(|remaining| !remaining.is_zero())
    }

    /// Returns true if any class, or starvation, is enabled.
    pub fn any(&self) -> bool {
        self.starved.is_some() || self.by_class.iter().any(Option::is_some)
    }
}
