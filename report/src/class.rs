//! The classes of hangs: their names, their order and the words that a text has for them.
//!
//! Owns what a reader sees of a class; refuses to own when a guest hangs in it (`hang::class`). Used
//! by everything that makes, reads or counts hangs.

use std::fmt;

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
    /// The number of classes.
    pub const COUNT: usize = Self::Silent as usize + 1;

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

    /// The words before the time that a hang has lasted. `interrupts_on`: one to blame still takes
    /// interrupts; `asleep`: one to blame is a task that sleeps.
    pub fn symptom(self, interrupts_on: bool, asleep: bool) -> &'static str {
        match self {
            Self::Deadlock | Self::LockWait => "since",
            Self::DeadHalt => "halted with interrupts off since",
            Self::HardLockup if interrupts_on => "no timer tick since",
            Self::HardLockup => "interrupts off since",
            Self::SoftLockup => "schedules nothing since",
            Self::Livelock => "finishes none of its work since",
            Self::LostWakeup if asleep => "asleep with work to do since",
            Self::LostWakeup => "idles with work to do since",
            Self::BootStall => "not ready after",
            Self::Silent => "prints nothing since",
        }
    }

    /// True where those to blame wait for each other, in a cycle.
    pub fn is_cycle(self) -> bool {
        self == Self::Deadlock
    }

    /// True where the guest hangs before it is ready.
    pub fn is_before_ready(self) -> bool {
        self == Self::BootStall
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
