//! The result of a run in one line, without styles or control characters.
//!
//! Owns the sentences on how a run ended; refuses to own what they look like on a terminal (`text`, which
//! prints them in color). Called where a report is completed.

use crate::hang::Hang;
use crate::report::{Outcome, Report};
use crate::sanitize::line;
use crate::units::{plural, ranges, seconds};

/// The most blamed parties that a summary names.
const MAX_PARTIES: usize = 4;

/// Returns the summary of a report, from its outcome and its hangs: [`Report::summary`].
pub fn of_report(report: &Report) -> String {
    let counts = |hang: &&Hang| report.outcome.is_about(&hang.certainty);
    let hangs: Vec<&Hang> = report.hangs.iter().filter(counts).collect();
    let hangs = hangs.split_first().map(|(first, more)| {
        let more = match more.len() {
            0 => String::new(),
            more => format!(", and {} more", plural(more as u64, "hang")),
        };
        format!("{}{more}", hang(first))
    });
    match (ending(&report.outcome), hangs) {
        (None, Some(hangs)) => hangs,
        (None, None) => "no hang".into(),
        (Some((label, words)), hangs) => {
            let hangs = hangs.map_or_else(String::new, |hangs| format!("; {hangs}"));
            format!("{label}{}{words}{hangs}", separator(label))
        }
    }
}

/// Returns how a run ended, as a label and a sentence; `None` for an end that the hangs explain.
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
    let label = if hang.certainty.is_verdict() { "hang" } else { "suspected" };
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
