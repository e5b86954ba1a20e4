//! The classes of hangs: their names, their order, and their wording in texts.
//!
//! Owns what a reader sees of a class; refuses to own when a guest hangs in it (the tool's detector).
//! Called by everything that makes, reads or counts hangs.

use std::fmt;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Class of a hang. The classes are in the order in which they explain a guest, the best explanation first.
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
    /// A CPU is halted with interrupts off: only an NMI wakes it.
    DeadHalt,
    /// A CPU takes no timer interrupts and schedules nothing.
    HardLockup,
    /// A CPU takes interrupts and schedules nothing.
    SoftLockup,
    /// CPUs or tasks wait for a lock that is not going to be released, although its holder is not stuck.
    LockWait,
    /// Work is pending, and its CPU runs but finishes none of it.
    Livelock,
    /// Work is pending, and its CPU idles.
    LostWakeup,
    /// The guest does not report within its bound that it is ready.
    BootStall,
    /// An unknown kernel prints nothing and does not idle.
    Silent,
}

impl Class {
    /// The number of classes of hangs.
    pub const COUNT: usize = Self::Silent as usize + 1;

    /// Returns the name of the class in reports and on the command line.
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

    /// Returns the words before the age of a hang, which fit one blamed party and several. `interrupts_on`: a
    /// blamed CPU still takes interrupts; `asleep`: a blamed party is a sleeping task.
    pub fn symptom(self, interrupts_on: bool, asleep: bool) -> &'static str {
        match self {
            Self::Deadlock | Self::LockWait => "for",
            Self::DeadHalt => "halted with interrupts off for",
            Self::HardLockup if interrupts_on => "no timer tick for",
            Self::HardLockup => "interrupts off for",
            Self::SoftLockup => "nothing scheduled for",
            Self::Livelock => "no work finished for",
            Self::LostWakeup if asleep => "asleep with work pending for",
            Self::LostWakeup => "idle with work pending for",
            Self::BootStall => "not ready after",
            Self::Silent => "nothing printed for",
        }
    }

    /// Returns true for a class whose blamed parties wait for each other in a cycle.
    pub fn is_cycle(self) -> bool {
        self == Self::Deadlock
    }

    /// Returns true for a class of hangs before the guest is ready.
    pub fn is_before_ready(self) -> bool {
        self == Self::BootStall
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
