//! The classes of hangs, and how long each may last before it is one.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The ways to hang.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A cycle of CPUs and tasks that wait for each other.
    Deadlock,
    /// A CPU halted with interrupts off: nothing but an NMI wakes it.
    DeadHalt,
    /// A CPU takes no timer interrupts and schedules nothing.
    HardLockup,
    /// A CPU takes interrupts, and schedules nothing.
    SoftLockup,
    /// Waits for a lock that nobody is going to release, although its holder is not stuck.
    LockWait,
    /// Work is there, its CPU makes progress with everything else, and does not do it.
    Livelock,
    /// Work is there, and its CPU idles.
    LostWakeup,
    /// The guest does not become ready.
    BootStall,
    /// A guest of which nothing is known prints nothing, and does not idle.
    Silent,
}

impl Class {
    /// Its name, as reports and the command line have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deadlock => "deadlock",
            Self::DeadHalt => "dead-halt",
            Self::HardLockup => "hard-lockup",
            Self::SoftLockup => "soft-lockup",
            Self::LockWait => "lock-wait",
            Self::Livelock => "livelock",
            Self::LostWakeup => "lost-wakeup",
            Self::BootStall => "boot-stall",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long each class may last, of the own time of whoever hangs; `None` not to look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    by_class: [Option<Duration>; Self::CLASSES],
    /// How long, by the wall clock, a vCPU may be without progress because the host does not run it.
    pub starved: Option<Duration>,
}

impl Bounds {
    /// By the last of them.
    const CLASSES: usize = Class::Silent as usize + 1;

    /// What the command line has unless told otherwise.
    pub const DEFAULT: Duration = Duration::from_secs(2);
    /// For a guest to become ready, to print something, or to be run by its host.
    pub const DEFAULT_PATIENT: Duration = Duration::from_secs(30);

    /// The same bound for all classes that are about standing still; [`Self::DEFAULT_PATIENT`] for
    /// the others.
    pub fn new(bound: Option<Duration>) -> Self {
        let patient = bound.and(Some(Self::DEFAULT_PATIENT));
        let mut bounds = Self { by_class: [bound; Self::CLASSES], starved: patient };
        bounds.set(Class::BootStall, patient);
        bounds.set(Class::Silent, patient);
        bounds
    }

    /// Of one class.
    pub fn of(&self, class: Class) -> Option<Duration> {
        self.by_class[class as usize]
    }

    /// Changes that of one class.
    pub fn set(&mut self, class: Class, bound: Option<Duration>) {
        self.by_class[class as usize] = bound;
    }

    /// Whether `age` is enough for a verdict of that class.
    pub fn is_due(&self, class: Class, age: Duration) -> bool {
        self.of(class).is_some_and(|bound| age >= bound)
    }

    /// Whether anything is looked for at all.
    pub fn any(&self) -> bool {
        self.starved.is_some() || self.by_class.iter().any(Option::is_some)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(Some(Self::DEFAULT))
    }
}
