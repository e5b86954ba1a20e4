//! silent: an unknown kernel prints nothing, and does not idle.
//!
//! Due when a vCPU has not been in HLT, and the console has been silent, for the bound: a vCPU that halts
//! now and then is silent because it has little to do. Holds as long as that is so. Blames the vCPU.
//!
//! Owns this rule; refuses to own ages (`ages`) and the search for parties (`known`, `unknown`). Called
//! through the tables in `class`.

use std::time::Duration;

use nmiscope_report::Class;

use super::rule::{Behaviour, Rule, UnknownRule, task_or_cpu_age};
use super::vcpus::running_for;
use crate::hang::guest::{KnownGuest, UnknownGuest};
use crate::hang::verdict::DetectedHang;
use crate::hang::wait_graph::Node;

/// Rule of the silent class.
pub struct Silent;

/// The kernel may have become known after the report, and may still be silent.
impl Rule for Silent {
    fn class(&self) -> Class {
        Class::Silent
    }

    fn behaviour(&self) -> Behaviour {
        Behaviour::RUNS
    }

    fn has_long_bound(&self) -> bool {
        true
    }

    fn unchanged_for(&self, guest: &KnownGuest<'_>, node: Node) -> Option<Duration> {
        let silent = guest.ages.console.own();
        task_or_cpu_age(guest, node, |cpu| guest.ages.cpu(cpu).awake.own().min(silent))
    }
}

impl UnknownRule for Silent {
    fn age_of_vcpu(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration {
        guest.ages.cpu(cpu).awake.own().min(guest.console_silence())
    }

    fn found(&self, guest: &UnknownGuest<'_>) -> Option<DetectedHang> {
        let age = |guest: &UnknownGuest<'_>, cpu| self.age_of_vcpu(guest, cpu);
        running_for(guest, self, age)
    }

    fn vcpu_unchanged_for(&self, guest: &UnknownGuest<'_>, cpu: u32) -> Duration {
        self.age_of_vcpu(guest, cpu)
    }
}
