//! The result of a run in one line, without styles or control characters.
//!
//! Owns the sentences on how a run ended; refuses to own what they look like on a terminal (`text`, which
//! prints them in color). Called where a report is completed.

use crate::hang::{Certainty, Hang};
use crate::report::{Outcome, Report};
use crate::sanitize::line;
use crate::units::{plural, ranges, seconds};

/// The most blamed parties that a summary names.
const MAX_PARTIES: usize = 4;

/// Returns the summary of a report, for [`Report::summary`]: its outcome, then its hangs, then the hangs that
/// are only suspected.
pub fn summarize(report: &Report) -> String {
    let (verdicts, others): (Vec<&Hang>, Vec<&Hang>) =
        report.hangs.iter().partition(|hang| hang.certainty.is_verdict());
    let others = still_suspected(report, &verdicts, &others);
    let end = match ending(&report.outcome) {
        Some((label, words)) => Some(format!("{label}{}{words}", separator(label))),
        None if verdicts.is_empty() => Some("no hang".into()),
        None => None,
    };
    let parts = [end, hangs(&verdicts), hangs(&others)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Returns the suspected hangs that neither ended nor became a verdict, each once.
fn still_suspected<'a>(
    report: &Report,
    verdicts: &[&'a Hang],
    suspected: &[&'a Hang],
) -> Vec<&'a Hang> {
    if matches!(report.outcome, Outcome::Exit { .. }) {
        return Vec::new();
    }
    let mut signatures: Vec<&str> = verdicts.iter().map(|hang| hang.signature.as_str()).collect();
    let mut open = Vec::new();
    for &hang in suspected.iter().filter(|hang| hang.resolved_after_ms.is_none()) {
        if !signatures.contains(&hang.signature.as_str()) {
            signatures.push(&hang.signature);
            open.push(hang);
        }
    }
    open
}

/// Returns the first of some hangs, and the number of the others; `None` if there are none.
fn hangs(hangs: &[&Hang]) -> Option<String> {
    let (first, more) = hangs.split_first()?;
    let more = match more.len() {
        0 => String::new(),
        more => format!(", and {} more", plural(more as u64, "hang")),
    };
    Some(format!("{}{more}", hang(first)))
}

/// Returns how a run ended, as a label and a sentence; `None` for an end that its hangs describe.
pub(crate) fn ending(outcome: &Outcome) -> Option<(&'static str, String)> {
    Some(match outcome {
        Outcome::Hang | Outcome::Observed { panicking: None, .. } => return None,
        Outcome::Exit { code: 0 } => ("guest exited", "exit code 0".into()),
        Outcome::Exit { code } => ("guest failed", format!("exit code {code}")),
        Outcome::Starved { cpus, wall_ms, ran_ms } => (
            "starved",
            format!(
                "{} made no progress for {}, and had {} of the host's time meanwhile: no verdict on the \
                 guest, run fewer VMs at a time",
                ranges(cpus).join(", "),
                seconds(*wall_ms),
                seconds(*ran_ms)
            ),
        ),
        Outcome::Panic { cpu, message } => {
            let message = message.as_deref().unwrap_or("without a message on the console");
            ("panic", format!("cpu{cpu}: {}", line(message)))
        }
        Outcome::Crash { description, .. } => ("crash", line(description)),
        Outcome::TimedOut { limit_ms, ran_ms } => {
            let ran = ran_ms
                .map_or_else(String::new, |ran| format!(", and had {} of CPU time", seconds(ran)));
            ("timed out", format!("not ended after {}{ran}", seconds(*limit_ms)))
        }
        Outcome::Stopped { by } => ("stopped", format!("by {}", line(by))),
        Outcome::Observed { panicking: Some(cpu), message } => {
            let message = message.as_deref().unwrap_or("its message is not in the log");
            ("panic", format!("cpu{cpu}: {}", line(message)))
        }
    })
}

/// Returns what stands between the label of an end and its sentence.
pub(crate) fn separator(label: &str) -> &'static str {
    if label == "stopped" { " " } else { ": " }
}

fn hang(hang: &Hang) -> String {
    let label = match hang.certainty {
        Certainty::Certain | Certainty::Likely => "hang",
        Certainty::Suspected { .. } => "suspected",
        Certainty::Unknown { .. } => "unknown",
    };
    let name = hang.bucket.as_deref().unwrap_or(hang.class.name());
    let more = hang.blamed.len().saturating_sub(MAX_PARTIES);
    let mut parties: Vec<String> =
        hang.blamed.iter().take(MAX_PARTIES).map(|party| line(party)).collect();
    if more > 0 {
        parties.push(format!("{more} more"));
    }
    let parties = match parties.split_last() {
        None => String::new(),
        Some((last, [])) => format!(", {last}"),
        Some((last, rest)) => format!(", {} and {last}", rest.join(", ")),
    };
    format!("{label}: {}{parties}", line(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANG: &str = include_str!("../../tests/offline/cores/ipi-wait.json");
    const SUSPECTED: Certainty = Certainty::Suspected { lasted_ms: 500.0, bound_ms: 2000.0 };

    fn hung() -> Report {
        serde_json::from_str(HANG).unwrap()
    }

    fn suspected() -> Report {
        let mut report = hung();
        report.hangs[0].certainty = SUSPECTED;
        report.outcome = Outcome::Observed { panicking: None, message: None };
        report
    }

    #[test]
    fn a_verdict_is_the_whole_summary() {
        assert_eq!(summarize(&hung()), "hang: hard-lockup:spin_for_good, cpu2");
    }

    #[test]
    fn a_suspected_hang_follows_the_outcome() {
        let mut report = suspected();
        let hang = "suspected: hard-lockup:spin_for_good, cpu2";
        assert_eq!(summarize(&report), format!("no hang; {hang}"));
        report.outcome = Outcome::TimedOut { limit_ms: 4000.0, ran_ms: None };
        assert_eq!(summarize(&report), format!("timed out: not ended after 4.0 s; {hang}"));
    }

    #[test]
    fn a_suspicion_that_became_a_verdict_is_named_once() {
        let mut report = hung();
        let verdict = report.hangs[0].clone();
        report.hangs.insert(0, Hang { certainty: SUSPECTED, ..verdict });
        assert_eq!(summarize(&report), "hang: hard-lockup:spin_for_good, cpu2");
    }

    #[test]
    fn a_suspicion_that_ended_is_left_out() {
        let mut report = suspected();
        report.hangs[0].resolved_after_ms = Some(100.0);
        assert_eq!(summarize(&report), "no hang");
        let mut report = suspected();
        report.outcome = Outcome::Exit { code: 0 };
        assert_eq!(summarize(&report), "guest exited: exit code 0");
    }
}
