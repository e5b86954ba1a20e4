//! The reasons why a target does not answer, as values.
//!
//! Owns the reasons alone. Their texts are shown in reports and stored in cores; one that was read from a
//! core is the text that was stored.

use serde::{Deserialize, Serialize};

/// A power that a target does not have, as a report says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MissingPower {
    /// See [`Pausing`](super::Pausing).
    #[error("the target cannot be stopped and let go on")]
    Pausing,
    /// See [`Words`](super::Words).
    #[error("the target's memory cannot be written")]
    Words,
    /// See [`Nmis`](super::Nmis).
    #[error("the target cannot be sent NMIs")]
    Nmis,
    /// See [`Host`](super::Host).
    #[error("the target has no vCPU threads on this host")]
    Host,
}

/// The reason why a vCPU has not answered: with its state, or with the account of an NMI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NoAnswer {
    /// The target has no vCPU with that number.
    #[error("there is no cpu{0}")]
    NoSuchVcpu(u32),
    /// A dump has no registers of the vCPU, or damaged ones.
    #[error("the dump has no registers of cpu{0}")]
    NotRecorded(u32),
    /// The vCPU did not answer within the deadline. A later question may be answered.
    #[error("{0}")]
    Late(String),
    /// The host refused, or the vCPU's thread has ended.
    #[error("{0}")]
    Refused(String),
    /// The reason that is stored in a core.
    #[error("{0}")]
    Stored(String),
}

impl From<NoAnswer> for String {
    fn from(reason: NoAnswer) -> Self {
        reason.to_string()
    }
}

impl From<String> for NoAnswer {
    fn from(text: String) -> Self {
        Self::Stored(text)
    }
}
