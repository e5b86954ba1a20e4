//! A run's signs of life: the status line on a terminal, the detector's view in the trace, and a note when
//! another bound applies than the one that the user gave.
//!
//! Owns when each is due, and the words; refuses to own the view (`hang::Outlook`) and the terminal
//! (`status_line`). Called by `live`, after each observation.

use std::time::Duration;

use nmiscope_report::Class;
use nmiscope_report::units::plural;

use super::options::GeneralBound;
use crate::hang::{Bounds, Node, Outlook, Suspicion};
use crate::status_line::StatusLine;

/// Time without other output until the status line appears, and the interval of the trace.
const FIRST: Duration = Duration::from_secs(1);

/// Interval at which the status line is drawn again.
const INTERVAL: Duration = Duration::from_millis(500);

/// Age below which no bound is worth a note: hosts are slow now and then.
const MIN_NOTED: Duration = Duration::from_secs(3);

/// Maximum number of parties that are named.
const MAX_PARTIES: usize = 3;

/// State of a run's signs of life.
#[derive(Debug)]
pub struct SignsOfLife {
    status: Option<StatusLine>,
    next_status: Duration,
    next_trace: Duration,
    /// The last view that was traced, without its times.
    traced: Option<Outlook>,
    /// Classes that have had their note.
    noted: Vec<Class>,
}

impl SignsOfLife {
    /// Starts without any. `status` is the line on the terminal, if there is one.
    pub fn new(status: Option<StatusLine>) -> Self {
        let (next_status, next_trace) = (FIRST, FIRST);
        Self { status, next_status, next_trace, traced: None, noted: Vec::new() }
    }

    /// Returns true if something is to be shown `at` that time since the start.
    pub fn is_due(&self, at: Duration) -> bool {
        at >= self.next_trace || self.is_status_due(at)
    }

    /// Returns true if the status line is to be drawn `at` that time since the start.
    pub fn is_status_due(&self, at: Duration) -> bool {
        self.status.is_some() && at >= self.next_status
    }

    /// Shows that a guest without hang detection is alive, `at` that time since the start: its view, if its
    /// kernel is known.
    pub fn show_unwatched(&mut self, vcpus: u32, outlook: Option<&Outlook>, at: Duration) {
        let Some(status) = &self.status else { return };
        self.next_status = at + INTERVAL;
        status.show(format!("{}: {}", seconds(at), view_unwatched(vcpus, outlook)));
    }

    /// Shows the view of a moment, `at` that time since the start.
    pub fn show(&mut self, outlook: &Outlook, at: Duration) {
        if let Some(status) = self.status.as_ref().filter(|_| at >= self.next_status) {
            self.next_status = at + INTERVAL;
            status.show(format!("{}: {}", seconds(at), view(outlook, "")));
        }
        if at >= self.next_trace {
            self.next_trace = at + FIRST;
            self.trace(outlook);
        }
    }

    /// Traces the view if it has changed, and every second while something is suspected.
    fn trace(&mut self, outlook: &Outlook) {
        let unchanged = self.traced.as_ref() == Some(outlook);
        if !unchanged {
            tracing::info!("the detector sees: {}", view(outlook, "suspected: "));
            self.traced = Some(outlook.clone());
        }
    }

    /// Returns a note, once for each class, when the view has a suspicion that is past the `general` bound,
    /// which the user gave, and is not reported because another one applies.
    pub fn note(
        &mut self,
        outlook: &Outlook,
        bounds: &Bounds,
        general: Option<GeneralBound>,
    ) -> Option<String> {
        let general = general?;
        let suspicion = outlook.oldest.as_ref()?;
        let (class, bound) = (suspicion.class, suspicion.bound?);
        let is_late = suspicion.lasted >= general.bound.max(MIN_NOTED) && bound > general.bound;
        let option = match class {
            Class::Silent if general.silent_is_implied => "--hang-after silent=DURATION",
            _ if is_of_sleepers(bounds, class, bound) => {
                general.sleepers_are_implied.then_some("--hang-after sleepers=DURATION")?
            }
            // An unknown kernel has as long as a known one to become ready for its first interrupt.
            _ if Some(bound) != bounds.get(class) || class == Class::BootStall => {
                general.ready_is_implied.then_some("--ready-within DURATION")?
            }
            _ => return None,
        };
        if !is_late || self.noted.contains(&class) {
            return None;
        }
        self.noted.push(class);
        Some(format!(
            "suspected: {}; here the bound is {} and not that of --hang-after, {}: {option} sets it",
            describe(suspicion),
            seconds(bound),
            seconds(general.bound)
        ))
    }
}

/// Returns true if `bound` is the one of hangs whose waiters are all asleep, and the class has another. A
/// hard lockup has no waiters.
fn is_of_sleepers(bounds: &Bounds, class: Class, bound: Duration) -> bool {
    class != Class::HardLockup
        && Some(bound) != bounds.get(class)
        && Some(bound) == bounds.get_for(class, true)
}

/// Describes in words a guest without hang detection, of which there is a view if its kernel is known.
fn view_unwatched(vcpus: u32, outlook: Option<&Outlook>) -> String {
    let progress = outlook.map_or_else(|| plural(vcpus.into(), "vCPU"), progress);
    format!("{progress}, no detector")
}

/// Describes the vCPUs' progress in words.
fn progress(outlook: &Outlook) -> String {
    let vcpus = plural(outlook.vcpus as u64, "vCPU");
    match outlook.progressing {
        None => format!("{vcpus}, not ready yet"),
        Some(count) => format!("{count} of {vcpus} make progress"),
    }
}

/// Describes a view in words, with `label` before a suspicion.
fn view(outlook: &Outlook, label: &str) -> String {
    let progress = progress(outlook);
    match &outlook.oldest {
        None => progress,
        Some(suspicion) => format!("{progress}, {label}{}", describe(suspicion)),
    }
}

/// Describes a suspicion: its class, its age and its bound, and last, since a narrow terminal cuts the text,
/// its parties.
fn describe(suspicion: &Suspicion) -> String {
    let Suspicion { class, blamed, lasted, bound } = suspicion;
    let party = |node: &Node| match node {
        Node::Cpu(cpu) => format!("cpu{cpu}"),
        Node::Task(task) => format!("task {task}"),
        Node::Lock(_) | Node::Queue(_) => "a lock".into(),
    };
    let mut parties: Vec<String> = blamed.iter().take(MAX_PARTIES).map(party).collect();
    if let more @ 1.. = blamed.len().saturating_sub(MAX_PARTIES) {
        parties.push(format!("{more} more"));
    }
    let parties = match parties.is_empty() {
        true => String::new(),
        false => format!(": {}", parties.join(", ")),
    };
    let bound = bound.map_or("no bound".into(), seconds);
    format!("{class} for {} of {bound}{parties}", seconds(*lasted))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(class: Class, lasted: u64, bound: u64) -> Outlook {
        let (lasted, bound) = (Duration::from_secs(lasted), Some(Duration::from_secs(bound)));
        let oldest = Some(Suspicion { class, blamed: vec![Node::Cpu(2)], lasted, bound });
        Outlook { vcpus: 4, progressing: Some(3), oldest }
    }

    #[test]
    fn a_view_is_described_in_words() {
        let healthy = Outlook { vcpus: 1, progressing: Some(1), oldest: None };
        assert_eq!(view(&healthy, ""), "1 of 1 vCPU make progress");
        assert_eq!(
            view(&outlook(Class::HardLockup, 1, 2), "suspected: "),
            "3 of 4 vCPUs make progress, suspected: hard-lockup for 1.0 s of 2.0 s: cpu2"
        );
        assert_eq!(view(&Outlook { vcpus: 2, ..Outlook::default() }, ""), "2 vCPUs, not ready yet");
    }

    #[test]
    fn a_guest_without_detection_is_described_without_suspicions() {
        let seen = outlook(Class::HardLockup, 9, 2);
        let known = view_unwatched(4, Some(&seen));
        assert_eq!(known, "3 of 4 vCPUs make progress, no detector");
        let boots = Outlook { vcpus: 1, ..Outlook::default() };
        assert_eq!(view_unwatched(1, Some(&boots)), "1 vCPU, not ready yet, no detector");
        assert_eq!(view_unwatched(2, None), "2 vCPUs, no detector");
    }

    #[test]
    fn a_bound_that_replaces_the_given_one_is_noted_once() {
        let bound = Duration::from_secs(3);
        let general = GeneralBound {
            bound,
            silent_is_implied: true,
            sleepers_are_implied: true,
            ready_is_implied: true,
        };
        let mut bounds = Bounds::new(Some(bound));
        bounds.set_sleepers(Some(Duration::from_secs(120)));
        let note = |class, lasted, bound, general| {
            SignsOfLife::new(None).note(&outlook(class, lasted, bound), &bounds, general)
        };
        let silent = note(Class::Silent, 3, 30, Some(general)).unwrap();
        assert!(silent.contains("30.0 s") && silent.contains("silent=DURATION"), "{silent}");
        // Before its first interrupt, an unknown kernel has the time of --ready-within.
        let early = note(Class::HardLockup, 4, 30, Some(general)).unwrap();
        assert!(early.contains("--ready-within"), "{early}");
        let sleeping = note(Class::LostWakeup, 4, 120, Some(general)).unwrap();
        assert!(
            sleeping.contains("120.0 s") && sleeping.contains("sleepers=DURATION"),
            "{sleeping}"
        );
        let named = GeneralBound { sleepers_are_implied: false, ..general };
        for (class, lasted, bound, general) in [
            (Class::LostWakeup, 4, 120, Some(named)),
            (Class::Silent, 2, 30, Some(general)),
            (Class::HardLockup, 4, 3, Some(general)),
            (Class::Silent, 9, 30, None),
            (Class::Silent, 9, 30, Some(GeneralBound { silent_is_implied: false, ..general })),
            (Class::BootStall, 9, 30, Some(GeneralBound { ready_is_implied: false, ..general })),
        ] {
            assert_eq!(note(class, lasted, bound, general), None, "{class} {lasted}");
        }
        let mut signs = SignsOfLife::new(None);
        let stall = outlook(Class::BootStall, 4, 30);
        assert!(signs.note(&stall, &bounds, Some(general)).is_some());
        assert_eq!(signs.note(&stall, &bounds, Some(general)), None);
    }
}
