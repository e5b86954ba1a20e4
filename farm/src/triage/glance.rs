//! A glance at a report: whether there is one, and what in it is to be grouped. Reads no more than it
//! needs, since there may be ten thousand of them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nmiscope_report::json::ReportError;
use nmiscope_report::{Certainty, Class, Evidence, Outcome, Report, blamed_function, former, json};
use serde::Deserialize;

use super::finding::{Finding, Kind, signature};
use super::stacks::{IsPlumbing, cpus_at_end, frames_of, place};
use crate::event::{HangSummary, Status, VmFinished};

/// The most that is read of a report. One of 300 vCPUs is a few megabytes.
const MAX_REPORT: u64 = 256 << 20;

/// What a report says, as far as triage is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// How the VM went, if nothing special was expected of it.
    pub status: Status,
    /// What is to be grouped: each hang, or how else it ended.
    pub findings: Vec<Finding>,
}

/// Why a file is no report that can be read.
#[derive(Debug, thiserror::Error)]
pub enum NoReport {
    /// It could not be read.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    /// It has no end.
    #[error("it is cut off")]
    CutOff,
    /// It is too long to be one.
    #[error("it is longer than any report")]
    TooLong,
    /// It is something else.
    #[error("it is no report of this program's ({0})")]
    Foreign(String),
    /// It is of another version.
    #[error(
        "it is a report of format {0}, and this program reads formats {oldest} and {newest}",
        oldest = former::OLDEST_READ_VERSION,
        newest = nmiscope_report::SCHEMA_VERSION
    )]
    Version(u64),
}

impl From<ReportError> for NoReport {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Version { found } => Self::Version(found),
            ReportError::NoReport(error) | ReportError::Damaged(error) if error.is_eof() => {
                Self::CutOff
            }
            ReportError::NoReport(error) | ReportError::Damaged(error) => {
                Self::Foreign(error.to_string())
            }
        }
    }
}

/// Those parts of a [`Report`] that a glance needs.
#[derive(Deserialize)]
struct Parts {
    schema_version: u32,
    outcome: Outcome,
    hangs: Vec<HangParts>,
}

#[derive(Deserialize)]
struct HangParts {
    class: Class,
    signature: String,
    blamed: Vec<String>,
    locks: Vec<String>,
    evidence: Vec<Evidence>,
    #[serde(default)]
    certainty: Certainty,
}

/// Looks at a report.
///
/// # Errors
/// There is none.
pub fn read(path: &Path, is_plumbing: IsPlumbing) -> Result<Glance, NoReport> {
    of_text(&bytes(path)?, is_plumbing)
}

/// The whole of a report.
///
/// # Errors
/// There is none.
pub fn whole(path: &Path) -> Result<Report, NoReport> {
    let bytes = bytes(path)?;
    json::read(&bytes).map_err(NoReport::from)
}

fn bytes(path: &Path) -> Result<Vec<u8>, NoReport> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_REPORT {
        return Err(NoReport::TooLong);
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    // It may grow meanwhile.
    file.take(MAX_REPORT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn of_text(bytes: &[u8], is_plumbing: IsPlumbing) -> Result<Glance, NoReport> {
    let parts: Parts = serde_json::from_slice(bytes).map_err(|error| no_report(bytes, &error))?;
    if !former::is_read(parts.schema_version.into()) {
        return Err(NoReport::Version(parts.schema_version.into()));
    }
    let mut status = status(&parts.outcome);
    let counts = |hang: &HangParts| parts.outcome.is_about(&hang.certainty);
    let hangs = parts.hangs.into_iter().filter(counts);
    let findings: Option<Vec<Finding>> = hangs.map(finding_of_hang).collect();
    let mut findings = findings.ok_or_else(|| NoReport::Foreign("a signature is wrong".into()))?;
    // Somebody else's run, at one moment.
    if status == Status::Pass
        && matches!(parts.outcome, Outcome::Observed { .. })
        && !findings.is_empty()
    {
        status = Status::Hang;
    }
    // The stacks are most of a report, and of the hangs nobody needs them here.
    let by_stacks = match status {
        Status::Crash => true,
        Status::Timeout => findings.is_empty(),
        _ => false,
    };
    if by_stacks {
        let report = json::read(bytes)?;
        findings.extend(finding_of_end(&report, is_plumbing));
    }
    Ok(Glance { status, findings })
}

/// Why a text is no report.
fn no_report(bytes: &[u8], error: &serde_json::Error) -> NoReport {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u64,
    }
    if error.is_eof() {
        return NoReport::CutOff;
    }
    match serde_json::from_slice(bytes) {
        Ok(Version { schema_version }) if !former::is_read(schema_version) => {
            NoReport::Version(schema_version)
        }
        _ => NoReport::Foreign(error.to_string()),
    }
}

fn status(outcome: &Outcome) -> Status {
    match outcome {
        Outcome::Exit { code: 0 } | Outcome::Stopped { .. } => Status::Pass,
        Outcome::Observed { panicking: Some(_), .. } => Status::Crash,
        Outcome::Observed { .. } => Status::Pass,
        Outcome::Exit { .. } => Status::Fail,
        Outcome::Hang => Status::Hang,
        Outcome::Panic { .. } | Outcome::Crash { .. } => Status::Crash,
        Outcome::TimedOut { .. } => Status::Timeout,
        Outcome::Starved { .. } => Status::Starved,
    }
}

/// `None` if its signature is none.
fn finding_of_hang(hang: HangParts) -> Option<Finding> {
    let HangParts { class, signature, blamed, locks, evidence, .. } = hang;
    let function = blamed_function(&blamed, &evidence).map(str::to_owned);
    of_summary(&HangSummary { class, signature, blamed, locks, function })
}

/// A hang, from an event; `None` if its signature is none.
fn of_summary(hang: &HangSummary) -> Option<Finding> {
    let HangSummary { class, signature, blamed, locks, function } = hang.clone();
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (signature.len() == 16 && signature.bytes().all(digit)).then_some(Finding {
        kind: Kind::Hang,
        signature,
        class: Some(class),
        message: None,
        blamed,
        locks,
        function,
    })
}

/// What the event of a VM's end says by itself, for want of a report; `None` if that is nothing to
/// be grouped.
pub fn of_event(finished: &VmFinished) -> Option<Finding> {
    if let Some(finding) = finished.hang.as_ref().and_then(of_summary) {
        return Some(finding);
    }
    let kind = match finished.status {
        Status::Hang => Kind::Hang,
        Status::Crash => Kind::Crash,
        Status::Timeout => Kind::Timeout,
        _ => return None,
    };
    let message = finished.reason.clone();
    let said = message.as_deref().unwrap_or_default();
    Some(Finding {
        kind,
        signature: signature(kind, said, &[]),
        class: None,
        message,
        blamed: Vec::new(),
        locks: Vec::new(),
        function: None,
    })
}

/// How a VM ended, if not by a hang.
fn finding_of_end(report: &Report, is_plumbing: IsPlumbing) -> Option<Finding> {
    let (kind, message) = match &report.outcome {
        Outcome::Panic { message, .. } => (Kind::Panic, message.clone()),
        Outcome::Crash { description, .. } => (Kind::Crash, Some(description.clone())),
        Outcome::TimedOut { .. } => (Kind::Timeout, None),
        Outcome::Observed { panicking: Some(_), message } => (Kind::Panic, message.clone()),
        _ => return None,
    };
    let cpus = cpus_at_end(report);
    let mut places: Vec<&str> =
        cpus.iter().filter_map(|cpu| place(frames_of(cpu), is_plumbing)).collect();
    places.sort_unstable();
    places.dedup();
    Some(Finding {
        kind,
        signature: signature(kind, message.as_deref().unwrap_or_default(), &places),
        class: None,
        message,
        blamed: cpus.iter().map(|cpu| format!("cpu{}", cpu.cpu)).collect(),
        locks: Vec::new(),
        function: places.first().map(|&function| function.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triage::stacks::stored_plumbing;
    use nmiscope_report::{SCHEMA_VERSION, Trigger};

    const DEADLOCK: &str = include_str!("../../../tests/offline/cores/abba-deadlock.json");
    const PANIC: &str = include_str!("../../../tests/offline/cores/null-deref.json");

    fn glance(text: &str) -> Glance {
        of_text(text.as_bytes(), stored_plumbing).unwrap()
    }

    #[test]
    fn a_glance_at_a_hang_says_what_its_report_says() {
        let whole: Report = serde_json::from_str(DEADLOCK).unwrap();
        let glance = glance(DEADLOCK);
        assert_eq!((glance.status, glance.findings.len()), (Status::Hang, whole.hangs.len()));
        let (finding, hang) = (&glance.findings[0], &whole.hangs[0]);
        assert_eq!((finding.kind, finding.class), (Kind::Hang, Some(Class::Deadlock)));
        assert_eq!(finding.signature, hang.signature);
        assert_eq!((&finding.blamed, &finding.locks), (&hang.blamed, &hang.locks));
        assert!(finding.function.as_ref().unwrap().contains("abba_deadlock::"), "{finding:?}");
    }

    #[test]
    fn a_report_of_the_former_version_has_the_same_finding() {
        let former = include_str!("../../../report/tests/former/abba-deadlock.json");
        assert_eq!(glance(former), glance(DEADLOCK));
    }

    #[test]
    fn a_panic_is_where_it_came_from_whatever_the_addresses_are() {
        let finding = glance(PANIC).findings.remove(0);
        assert_eq!(finding.kind, Kind::Panic);
        assert!(finding.function.as_ref().unwrap().ends_with("null_deref::follow"), "{finding:?}");
        let mut other: Report = serde_json::from_str(PANIC).unwrap();
        let Outcome::Panic { message, .. } = &mut other.outcome else { panic!("it is one") };
        *message =
            Some(message.take().unwrap().replace("page fault at ffff", "page fault at 9ab2"));
        let same = glance(&serde_json::to_string(&other).unwrap()).findings.remove(0);
        assert_eq!(same.signature, finding.signature);
        other.outcome = Outcome::Panic { cpu: 1, message: Some("out of memory".into()) };
        let changed = glance(&serde_json::to_string(&other).unwrap()).findings.remove(0);
        assert_ne!(changed.signature, finding.signature);
    }

    #[test]
    fn a_timeout_is_told_by_what_ran_unless_its_hangs_say_it() {
        let mut report: Report = serde_json::from_str(DEADLOCK).unwrap();
        report.outcome = Outcome::TimedOut { limit_ms: 5.0, ran_ms: None };
        let text = |report: &Report| serde_json::to_string(report).unwrap();
        let findings = glance(&text(&report)).findings;
        assert_eq!(findings.iter().map(|of| of.kind).collect::<Vec<_>>(), [Kind::Hang]);
        report.hangs.clear();
        report.backtraces[0].trigger = Trigger::TimeLimit;
        let finding = glance(&text(&report)).findings.remove(0);
        assert_eq!((finding.kind, finding.message), (Kind::Timeout, None));
        assert!(finding.function.unwrap().contains("abba_deadlock::"));
    }

    #[test]
    fn what_is_no_report_says_what_it_is_instead() {
        let future = DEADLOCK.replacen("\"schema_version\": ", "\"schema_version\": 9", 1);
        let signed = {
            let mut report: Report = serde_json::from_str(DEADLOCK).unwrap();
            report.hangs[0].signature = "../../../etc/shad".into();
            serde_json::to_string(&report).unwrap()
        };
        let newer = SCHEMA_VERSION + 1;
        let changed = format!("{{\"schema_version\": {newer}, \"outcome\": 7}}");
        let rows = [
            (&DEADLOCK[..DEADLOCK.len() / 2], "cut off"),
            (&DEADLOCK[..DEADLOCK.trim_end().len() - 1], "cut off"),
            ("", "cut off"),
            ("[]", "no report"),
            ("{\"name\": \"left-pad\"}", "no report"),
            ("\0\0\0\0", "no report"),
            (&future, "of format 9"),
            (&changed, &format!("of format {newer}")),
            (&signed, "a signature is wrong"),
        ];
        for (text, wanted) in rows {
            let error = of_text(text.as_bytes(), stored_plumbing).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}, of {:.40}", text);
        }
    }
}
