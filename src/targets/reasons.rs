//! Reasons why a target does not answer, as values.
//!
//! Owns only the reasons. Their texts are shown in reports and stored in cores; a reason read from a core
//! is its stored text.

use serde::{Deserialize, Serialize};

/// A power that a target lacks; its text is a sentence for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MissingPower {
    /// The target cannot be stopped and resumed: see [`Pausing`](super::Pausing).
    #[error("the target cannot be stopped and resumed")]
    Pausing,
    /// The target's memory is read-only: see [`Words`](super::Words).
    #[error("the target's memory cannot be written")]
    Words,
    /// The target cannot take NMIs: see [`Nmis`](super::Nmis).
    #[error("the target cannot be sent NMIs")]
    Nmis,
    /// The target has no vCPU threads on this host: see [`Host`](super::Host).
    #[error("the target has no vCPU threads on this host")]
    Host,
}

/// Reason why a vCPU has no state, or no result of an NMI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum NoAnswer {
    /// The target has no vCPU with this number.
    #[error("there is no cpu{0}")]
    NoSuchVcpu(u32),
    /// The dump has no registers of this vCPU, or damaged ones.
    #[error("the dump has no registers of cpu{0}")]
    NotRecorded(u32),
    /// The vCPU did not answer within the deadline; a later query may succeed.
    #[error("{0}")]
    Late(String),
    /// The host refused the query, or the vCPU's thread has ended.
    #[error("{0}")]
    Refused(String),
    /// A reason read from a core, as the stored text.
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
