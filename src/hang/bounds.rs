//! Bounds: the time for which each class of hang must last before it is reported.
//!
//! Owns the table; refuses to own the defaults (`class::default_bounds`). Filled by the command line,
//! read by the detector and by the classes.

use std::time::Duration;

use nmiscope_report::Class;

use crate::kernel::Patience;

/// Bounds of all classes, in the own time of the blamed party; `None` disables a class.
///
/// Each class has two: who spins or computes should be done soon, who sleeps may sleep for as long as a
/// device or another task needs. Linux too gives a sleeping task (`hung_task_timeout_secs`, 120 s) far more
/// time than a CPU that spins (`watchdog_thresh`, 10 s).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    by_class: [Option<Duration>; Class::COUNT],
    /// The bounds of hangs whose waiters are all asleep.
    of_sleepers: [Option<Duration>; Class::COUNT],
    /// The wall-clock time after which a vCPU without progress, which the host hardly runs, is reported
    /// as starved; `None` disables the report.
    pub starved: Option<Duration>,
}

impl Bounds {
    /// Bounds with every class disabled.
    pub(super) const NONE: Self =
        Self { by_class: [None; Class::COUNT], of_sleepers: [None; Class::COUNT], starved: None };

    /// Returns the bound of a class for parties that run; `None` if the class is disabled for them.
    pub fn get(&self, class: Class) -> Option<Duration> {
        self.by_class[class as usize]
    }

    /// Returns the bound of a class for parties that are all `asleep`, or else as [`Bounds::get`] does.
    pub fn get_for(&self, class: Class, asleep: bool) -> Option<Duration> {
        if asleep { self.of_sleepers[class as usize] } else { self.get(class) }
    }

    /// Sets the bound of a class, for parties that run and for those that sleep.
    pub fn set(&mut self, class: Class, bound: Option<Duration>) {
        self.by_class[class as usize] = bound;
        self.of_sleepers[class as usize] = bound;
    }

    /// Sets the bound of hangs whose waiters are all asleep, of every class.
    pub fn set_sleepers(&mut self, bound: Option<Duration>) {
        self.of_sleepers = [bound; Class::COUNT];
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

    /// Returns the bounds with `tighten` applied to that of each class. Sleepers get the same as parties
    /// that run, or their own bound if that is shorter: a suspicion need not wait for their patience.
    pub(super) fn tightened(&self, tighten: impl Fn(Duration) -> Duration) -> Self {
        let by_class = self.by_class.map(|bound| bound.map(&tighten));
        let mut of_sleepers = self.of_sleepers;
        for (sleeping, running) in of_sleepers.iter_mut().zip(by_class) {
            *sleeping = sleeping.map(|bound| running.map_or(tighten(bound), |run| run.min(bound)));
        }
        Self { by_class, of_sleepers, starved: self.starved }
    }

    /// Returns true if `age` has reached the class's bound.
    pub fn is_due(&self, class: Class, age: Duration) -> bool {
        self.get(class).is_some_and(|bound| age >= bound)
    }

    /// Returns true if `age` has reached half of the class's bound, which is enough to join a hang that
    /// is due.
    pub(super) fn is_half_due(&self, class: Class, age: Duration) -> bool {
        self.is_half_due_for(class, false, age)
    }

    /// Returns true if `age` has reached half of the class's bound for parties that are all `asleep`, or
    /// for those that run.
    pub(super) fn is_half_due_for(&self, class: Class, asleep: bool, age: Duration) -> bool {
        self.get_for(class, asleep).is_some_and(|bound| age >= bound / 2)
    }

    /// Returns the smaller of a class's two bounds; `None` if the class is disabled.
    pub(super) fn least(&self, class: Class) -> Option<Duration> {
        let both = [self.get_for(class, false), self.get_for(class, true)];
        both.into_iter().flatten().min()
    }

    /// Returns the time until the first of the class's bounds that is not reached; `None` if there is
    /// none, or `age` is zero.
    pub(super) fn remaining(&self, class: Class, age: Duration) -> Option<Duration> {
        let both = [self.get_for(class, false), self.get_for(class, true)];
        let bounds = both.into_iter().flatten().filter(|_| !age.is_zero());
        let remaining = bounds.filter_map(|bound| bound.checked_sub(age));
        remaining.filter(|remaining| !remaining.is_zero()).min()
    }

    /// Returns true if any class, or starvation, is enabled.
    pub fn any(&self) -> bool {
        let all = self.by_class.iter().chain(&self.of_sleepers);
        self.starved.is_some() || all.flatten().next().is_some()
    }
}
