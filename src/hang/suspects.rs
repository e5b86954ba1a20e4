//! Suspects of a guest's last minute: the parties that made no progress, and the time of their last one.
//!
//! Owns which suspicions are remembered, and when they began and ended; refuses to own what is suspected
//! (`moment`). Updated by the detector twice a second. Stored in cores.

use std::time::Duration;

use nmiscope_report::Class;
use serde::{Deserialize, Serialize};

use super::verdict::DetectedHang;
use super::wait_graph::Node;

/// Maximum number of suspicions that are remembered.
const MAX_SUSPECTS: usize = 16;

/// Maximum number of parties of a suspicion.
const MAX_PARTIES: usize = 64;

/// Time that a suspicion which is over must have lasted to be remembered: many waits are short.
const MIN_LASTED: Duration = Duration::from_secs(1);

/// Suspicion of a hang, at its last sight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// The class of the suspected hang.
    pub class: Class,
    /// The CPUs and tasks that are suspected.
    pub parties: Vec<Node>,
    /// The time of the last progress of a party, since the tool's start.
    pub began: Duration,
    /// The time at which it was found to be over; `None` while it holds.
    pub ended: Option<Duration>,
}

impl Suspect {
    fn is_of(&self, hang: &DetectedHang) -> bool {
        let is_party = |node: &Node| self.parties.contains(node);
        self.ended.is_none() && self.class == hang.class && hang.blamed.iter().any(is_party)
    }
}

/// Suspicions that hold or have lasted for long.
#[derive(Debug, Default)]
pub struct Suspects(Vec<Suspect>);

impl Suspects {
    /// Takes all suspicions of the moment `at`. `began` returns when a hang began.
    pub fn update(
        &mut self,
        at: Duration,
        hangs: &[DetectedHang],
        began: impl Fn(&DetectedHang) -> Duration,
    ) {
        for suspect in &mut self.0 {
            if suspect.ended.is_none() && !hangs.iter().any(|hang| suspect.is_of(hang)) {
                suspect.ended = Some(at);
            }
        }
        self.0.retain(|suspect| {
            suspect.ended.is_none_or(|ended| ended.saturating_sub(suspect.began) >= MIN_LASTED)
        });
        for hang in hangs {
            let parties: Vec<Node> = hang.blamed.iter().copied().take(MAX_PARTIES).collect();
            match self.0.iter_mut().find(|suspect| suspect.is_of(hang)) {
                Some(suspect) => suspect.parties = parties,
                None => {
                    let began = began(hang);
                    self.0.push(Suspect { class: hang.class, parties, began, ended: None });
                }
            }
        }
        // The oldest ones that are over go first.
        while self.0.len() > MAX_SUSPECTS {
            let over = self.0.iter().position(|suspect| suspect.ended.is_some());
            self.0.remove(over.unwrap_or(0));
        }
    }

    /// Returns the suspicions that hold, or were over after `start`, in order of their beginnings.
    pub fn shown(&self, start: Duration) -> Vec<Suspect> {
        let is_recent = |suspect: &&Suspect| suspect.ended.is_none_or(|ended| ended >= start);
        let mut shown: Vec<Suspect> = self.0.iter().filter(is_recent).cloned().collect();
        shown.sort_by_key(|suspect| suspect.began);
        shown
    }
}
