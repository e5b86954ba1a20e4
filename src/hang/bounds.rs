//! How long a hang of each class may last before it is one.
//!
//! Owns the table; refuses to own which bound a class has unless told otherwise (`class`). Filled by
//! the command line, read by the detector and by the classes.

use std::time::Duration;

use nmiscope_report::Class;

/// How long each class may last, of the own time of whoever hangs; `None` not to look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    by_class: [Option<Duration>; Class::COUNT],
    /// How long, by the wall clock, a vCPU may be without progress because the host does not run it.
    pub starved: Option<Duration>,
}

impl Bounds {
    /// Bounds that look for nothing.
    pub(super) const NONE: Self = Self { by_class: [None; Class::COUNT], starved: None };

    /// The bound of one class.
    pub fn get(&self, class: Class) -> Option<Duration> {
        self.by_class[class as usize]
    }

    /// Changes that of one class.
    pub fn set(&mut self, class: Class, bound: Option<Duration>) {
        self.by_class[class as usize] = bound;
    }

    /// The same bounds, each changed by `change`.
    pub(super) fn map(&self, change: impl Fn(Duration) -> Duration) -> Self {
        Self { by_class: self.by_class.map(|bound| bound.map(&change)), starved: self.starved }
    }

    /// Whether `age` is enough for a verdict of that class.
    pub fn is_due(&self, class: Class, age: Duration) -> bool {
        self.get(class).is_some_and(|bound| age >= bound)
    }

    /// Whether `age` is half of what a verdict of that class takes: enough to take part in one.
    pub(super) fn is_half_due(&self, class: Class, age: Duration) -> bool {
        self.get(class).is_some_and(|bound| age >= bound / 2)
    }

    /// The time until a verdict of that class is due; `None` if nothing has begun to age, or is
    /// already due.
    pub(super) fn remaining(&self, class: Class, age: Duration) -> Option<Duration> {
        let bound = self.get(class).filter(|_| !age.is_zero())?;
        bound.checked_sub(age).filter(|remaining| !remaining.is_zero())
    }

    /// Whether anything is looked for at all.
    pub fn any(&self) -> bool {
        self.starved.is_some() || self.by_class.iter().any(Option::is_some)
    }
}
