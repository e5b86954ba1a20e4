//! A running guest under observation: the detector's conclusions, and the signs of life.
//!
//! Owns the response to a verdict; refuses to own the detector (`hang`) and the intervals (`watch`). Called
//! by the parent module.

use std::time::Duration;

use nmiscope_report::{Outcome, Trigger};

use super::Session;
use crate::diagnosis::milliseconds;
use crate::hang::Verdict;
use crate::session::options::RunEvent;
use crate::session::watch::{Observed, Watch};

impl Session<'_> {
    /// Observes the running guest if it is time to, and stops and judges it if the detector is suspicious.
    /// Returns an outcome if the run ends.
    pub(super) fn observe_guest(&mut self, elapsed: Duration) -> Option<Outcome> {
        let Some(watch) = &mut self.watch else {
            self.show_unwatched(elapsed);
            return None;
        };
        let Observed { noticed, problem } = watch.observe(&self.vm, &mut self.guest, elapsed)?;
        if let Some(reason) = problem {
            self.record.warn(format!(
                "hang detection waits for the kernel's structures, which were not found: {}",
                crate::error_chain(&reason)
            ));
        }
        for number in noticed.ended {
            self.record.resolved(number, elapsed);
        }
        self.show_signs_of_life(elapsed);
        if noticed.suspicious { self.stop_and_judge(elapsed) } else { None }
    }

    /// Shows the detector's view of the guest where it is due, and notes a bound that replaces a given one.
    fn show_signs_of_life(&mut self, elapsed: Duration) {
        let Some(watch) = self.watch.as_ref().filter(|_| self.signs.is_due(elapsed)) else {
            return;
        };
        let Some(outlook) = watch.outlook() else { return };
        self.signs.show(&outlook, elapsed);
        let note = self.signs.note(&outlook, watch.bounds(), self.options.general_bound);
        if let Some(note) = note {
            self.record.emit(RunEvent::Note(&note));
        }
    }

    /// Shows on a terminal that a guest without hang detection is alive.
    fn show_unwatched(&mut self, elapsed: Duration) {
        if let Some(onlooker) = &mut self.onlooker {
            // Nobody has asked for its conclusions.
            let _ = onlooker.observe(&self.vm, &mut self.guest, elapsed);
        }
        if self.signs.is_status_due(elapsed) {
            let outlook = self.onlooker.as_ref().and_then(Watch::outlook);
            self.signs.show_unwatched(self.options.vcpus, outlook.as_ref(), elapsed);
        }
    }

    /// Stops the guest and judges it. Resumes it if nothing is wrong, or if the policy says so; otherwise
    /// returns the outcome that ends the run.
    fn stop_and_judge(&mut self, elapsed: Duration) -> Option<Outcome> {
        let stopped = self.stop();
        let verdict = self.watch.as_mut()?.judge(&self.vm, &stopped, elapsed);
        match verdict {
            None => {
                self.resume();
                None
            }
            Some(Verdict::Hangs(found)) => {
                self.capture_stopped(stopped, elapsed, Trigger::Hang, Some(*found));
                if self.options.policy.kill {
                    return Some(Outcome::Hang);
                }
                self.resume();
                None
            }
            Some(Verdict::Starved(starved)) => {
                let outcome = Outcome::Starved {
                    cpus: starved.cpus,
                    wall_ms: milliseconds(starved.wall),
                    ran_ms: milliseconds(starved.ran),
                };
                self.record.emit(RunEvent::Outcome(&outcome));
                self.capture_stopped(stopped, elapsed, Trigger::Starved, None);
                Some(outcome)
            }
            Some(Verdict::Panicked(cpu)) => {
                let outcome = Outcome::Panic { cpu, message: self.panic_message() };
                self.record.emit(RunEvent::Outcome(&outcome));
                self.capture_stopped(stopped, elapsed, Trigger::GuestEnded, None);
                Some(outcome)
            }
        }
    }
}
