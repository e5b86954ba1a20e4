//! The detector's view of a running guest, for people: who makes progress, and what may become a hang.
//!
//! Owns the choice of the suspicion that is shown; refuses to own its wording (`session`) and what is
//! suspected (`moment`). Made by the detector on request, without stopping the guest.

use std::time::Duration;

use nmiscope_report::Class;

use super::judge::Judge;
use super::verdict::{DetectedHang, HangCertainty};
use super::wait_graph::Node;
use crate::kernel::Reading;

/// Age below which a CPU counts as making progress: ten times the interval between observations.
const PROGRESS: Duration = Duration::from_secs(1);

/// The detector's view of a guest at its last observation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The number of the machine's vCPUs.
    pub vcpus: usize,
    /// The number of vCPUs that made progress within the last second: ticked or scheduled, or, of an
    /// unknown kernel, took interrupts or could; `None` while the guest boots.
    pub progressing: Option<usize>,
    /// The suspicion that has lasted for longest; `None` without any.
    pub oldest: Option<Suspicion>,
}

/// Suspected hang that has not been reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// The class of the hang.
    pub class: Class,
    /// The CPUs and tasks that would be blamed.
    pub blamed: Vec<Node>,
    /// The time that it has lasted, in the own time of the party that has hung for longest.
    pub lasted: Duration,
    /// The bound after which it is reported; `None` if its class is disabled.
    pub bound: Option<Duration>,
}

impl Judge<'_> {
    /// Returns the view at the last observation.
    pub fn outlook(&self) -> Outlook {
        let hangs = self.hangs_now().hangs.into_iter();
        let oldest = hangs.max_by_key(|hang| hang.age).map(|hang| self.suspicion(hang));
        Outlook { vcpus: self.now.vcpus.len(), progressing: self.progressing(), oldest }
    }

    fn suspicion(&self, hang: DetectedHang) -> Suspicion {
        let bound = match hang.certainty {
            HangCertainty::Suspected { bound, .. } => Some(bound),
            _ => self.bounds.get(hang.class),
        };
        Suspicion { class: hang.class, blamed: hang.blamed, lasted: hang.age, bound }
    }

    fn progressing(&self) -> Option<usize> {
        let ages = self.ages.cpus.iter().take(self.now.vcpus.len());
        let young = |age: Duration| age < PROGRESS;
        match &self.now.kernel {
            _ if !self.ready => None,
            Reading::Known(kernel) => {
                let is_online = |cpu: usize| kernel.cpu(cpu as u32).is_some_and(|cpu| cpu.online);
                let cpus = ages.enumerate().filter(|(cpu, _)| is_online(*cpu));
                Some(cpus.filter(|(_, ages)| young(ages.no_progress.own)).count())
            }
            Reading::Unknown => Some(ages.filter(|ages| young(ages.interrupts_off.own())).count()),
            Reading::Unreadable { .. } => None,
        }
    }
}
