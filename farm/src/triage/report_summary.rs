//! Summary of a report: checks that a file holds one, and extracts the failures to group. Parses no more
//! than it needs, since there may be ten thousand reports.
//!
//! Owns the choice of failures in a report; refuses to own their signatures (`failure`) and stacks
//! (`stacks`). Called by `scan` and `groups`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nmiscope_report::{
    Certainty, Class, Evidence, Outcome, Report, SCHEMA_VERSION, blamed_function, former, json,
};
use serde::Deserialize;

use super::failure::{Failure, FailureKind, compute_signature};
use super::stacks::{IsPlumbing, cpu_frames, cpus_at_end, innermost_significant};
use crate::event::{HangSummary, Status, VmFinished};
use crate::timestamp::Timestamp;

/// Maximum number of bytes read of a report; one with 300 vCPUs has a few megabytes.
const MAX_REPORT: u64 = 256 << 20;

/// The parts of a report that triage needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportSummary {
    /// Status of the VM, if its suite expects a pass.
    pub status: Status,
    /// Wall clock at which the guest was captured; `None` if the report has no time.
    pub captured_at: Option<Timestamp>,
    /// Failures to group: each hang, or the other end of the guest.
    pub failures: Vec<Failure>,
}

/// Reason why a file cannot be read as a report.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableReport {
    /// The file could not be read.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    /// The file ends in the middle of the report.
    #[error("it is cut off")]
    CutOff,
    /// The file is too long for a report.
    #[error("it is longer than any report")]
    TooLong,
    /// The file holds something else, by this error.
    #[error("it is not a report of this program ({0})")]
    Foreign(String),
    /// The report has a format that this program does not read.
    #[error(
        "it is a report of format {0}, and this program reads formats {oldest} and {newest}",
        oldest = former::OLDEST_READ_VERSION,
        newest = SCHEMA_VERSION
    )]
    Version(u64),
}

impl From<json::ReportError> for UnreadableReport {
    fn from(error: json::ReportError) -> Self {
        match error {
            json::ReportError::Version { found } => Self::Version(found),
            json::ReportError::NoReport(error) | json::ReportError::Damaged(error)
                if error.is_eof() =>
            {
                Self::CutOff
            }
            json::ReportError::NoReport(error) | json::ReportError::Damaged(error) => {
                Self::Foreign(error.to_string())
            }
        }
    }
}

/// Parts of a [`Report`] that a summary is made of.
#[derive(Deserialize)]
struct ReportParts {
    schema_version: u32,
    #[serde(default)]
    captured_at: Option<String>,
    outcome: Outcome,
    hangs: Vec<HangParts>,
}

#[derive(Deserialize)]
struct HangParts {
    class: Class,
    signature: String,
    #[serde(default)]
    bucket: Option<String>,
    blamed: Vec<String>,
    locks: Vec<String>,
    evidence: Vec<Evidence>,
    #[serde(default)]
    certainty: Certainty,
}

/// Reads the summary of a report.
///
/// # Errors
/// Fails if the file holds no readable report.
pub fn read(path: &Path, is_plumbing: IsPlumbing) -> Result<ReportSummary, UnreadableReport> {
    summarize(&bytes(path)?, is_plumbing)
}

/// Reads a whole report.
///
/// # Errors
/// Fails if the file holds no readable report.
pub fn read_report(path: &Path) -> Result<Report, UnreadableReport> {
    json::read(&bytes(path)?).map_err(UnreadableReport::from)
}

fn bytes(path: &Path) -> Result<Vec<u8>, UnreadableReport> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_REPORT {
        return Err(UnreadableReport::TooLong);
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    // The file may grow meanwhile.
    file.take(MAX_REPORT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn summarize(
    bytes: &[u8],
    is_plumbing: IsPlumbing,
) -> Result<ReportSummary, UnreadableReport> {
    let parts: ReportParts =
        serde_json::from_slice(bytes).map_err(|error| explain_error(bytes, &error))?;
    if !former::is_read(parts.schema_version.into()) {
        return Err(UnreadableReport::Version(parts.schema_version.into()));
    }
    // A time in another form is that of nobody who writes reports.
    let captured_at = parts.captured_at.as_deref().and_then(|time| time.parse().ok());
    let mut status = default_status(&parts.outcome);
    let counts = |hang: &HangParts| parts.outcome.is_about(&hang.certainty);
    let hangs = parts.hangs.into_iter().filter(counts);
    let failures: Option<Vec<Failure>> = hangs.map(failure_from_hang).collect();
    let mut failures =
        failures.ok_or_else(|| UnreadableReport::Foreign("a signature is wrong".into()))?;
    // A report of a foreign guest or a dump, observed at one moment.
    if status == Status::Pass
        && matches!(parts.outcome, Outcome::Observed { .. })
        && !failures.is_empty()
    {
        status = Status::Hang;
    }
    // Stacks are most of a report, and hangs do not need them here.
    let by_stacks = match status {
        Status::Crash => true,
        Status::Timeout => failures.is_empty(),
        _ => false,
    };
    if by_stacks {
        let report = json::read(bytes)?;
        failures.extend(failure_from_end(&report, is_plumbing));
    }
    Ok(ReportSummary { status, captured_at, failures })
}

/// Explains why a text does not parse as a report.
fn explain_error(bytes: &[u8], error: &serde_json::Error) -> UnreadableReport {
    #[derive(Deserialize)]
    struct Version {
        schema_version: u64,
    }
    if error.is_eof() {
        return UnreadableReport::CutOff;
    }
    match serde_json::from_slice(bytes) {
        Ok(Version { schema_version }) if !former::is_read(schema_version) => {
            UnreadableReport::Version(schema_version)
        }
        _ => UnreadableReport::Foreign(error.to_string()),
    }
}

fn default_status(outcome: &Outcome) -> Status {
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

/// Converts a hang of a report; `None` if its signature is malformed.
fn failure_from_hang(hang: HangParts) -> Option<Failure> {
    let HangParts { class, signature, bucket, blamed, locks, evidence, .. } = hang;
    let function = blamed_function(&blamed, &evidence).map(str::to_owned);
    let failure = failure_from_summary(&HangSummary { class, signature, blamed, locks, function })?;
    Some(Failure { bucket, ..failure })
}

/// Converts a hang of an event; `None` if its signature is malformed.
fn failure_from_summary(hang: &HangSummary) -> Option<Failure> {
    let HangSummary { class, signature, blamed, locks, function } = hang.clone();
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (signature.len() == 16 && signature.bytes().all(digit)).then_some(Failure {
        kind: FailureKind::Hang,
        signature,
        class: Some(class),
        bucket: None,
        message: None,
        blamed,
        locks,
        function,
    })
}

/// Converts the end event of a VM that left no readable report; `None` if there is no failure to group.
pub fn failure_from_event(finished: &VmFinished) -> Option<Failure> {
    if let Some(failure) = finished.hang.as_ref().and_then(failure_from_summary) {
        return Some(failure);
    }
    let kind = match finished.status {
        Status::Hang => FailureKind::Hang,
        Status::Crash => FailureKind::Crash,
        Status::Timeout => FailureKind::Timeout,
        _ => return None,
    };
    let message = finished.reason.clone();
    let said = message.as_deref().unwrap_or_default();
    Some(Failure {
        kind,
        signature: compute_signature(kind, said, &[]),
        class: None,
        bucket: None,
        message,
        blamed: Vec::new(),
        locks: Vec::new(),
        function: None,
    })
}

/// Converts the end of a guest that did not hang; `None` if there is no failure to group.
fn failure_from_end(report: &Report, is_plumbing: IsPlumbing) -> Option<Failure> {
    let (kind, message) = match &report.outcome {
        Outcome::Panic { message, .. } => (FailureKind::Panic, message.clone()),
        Outcome::Crash { description, .. } => (FailureKind::Crash, Some(description.clone())),
        Outcome::TimedOut { .. } => (FailureKind::Timeout, None),
        Outcome::Observed { panicking: Some(_), message } => (FailureKind::Panic, message.clone()),
        _ => return None,
    };
    let cpus = cpus_at_end(report);
    let mut places: Vec<&str> =
        cpus.iter().filter_map(|cpu| innermost_significant(cpu_frames(cpu), is_plumbing)).collect();
    places.sort_unstable();
    places.dedup();
    Some(Failure {
        kind,
        signature: compute_signature(kind, message.as_deref().unwrap_or_default(), &places),
        class: None,
        bucket: None,
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
    use nmiscope_report::Trigger;

    const DEADLOCK: &str = include_str!("../../../tests/offline/cores/abba-deadlock.json");
    const PANIC: &str = include_str!("../../../tests/offline/cores/null-deref.json");

    fn summary(text: &str) -> ReportSummary {
        summarize(text.as_bytes(), stored_plumbing).unwrap()
    }

    #[test]
    fn summary_of_a_hang_equals_its_report() {
        let read_report: Report = serde_json::from_str(DEADLOCK).unwrap();
        let summary = summary(DEADLOCK);
        assert_eq!(
            (summary.status, summary.failures.len()),
            (Status::Hang, read_report.hangs.len())
        );
        let (failure, hang) = (&summary.failures[0], &read_report.hangs[0]);
        assert_eq!((failure.kind, failure.class), (FailureKind::Hang, Some(Class::Deadlock)));
        assert_eq!(failure.signature, hang.signature);
        assert_eq!((&failure.blamed, &failure.locks), (&hang.blamed, &hang.locks));
        assert!(failure.function.as_ref().unwrap().contains("abba_deadlock::"), "{failure:?}");
    }

    #[test]
    fn panic_signature_depends_on_its_function_and_not_on_addresses() {
        let failure = summary(PANIC).failures.remove(0);
        assert_eq!(failure.kind, FailureKind::Panic);
        assert!(failure.function.as_ref().unwrap().ends_with("null_deref::follow"), "{failure:?}");
        let mut other: Report = serde_json::from_str(PANIC).unwrap();
        let Outcome::Panic { message, .. } = &mut other.outcome else { panic!("it is one") };
        *message =
            Some(message.take().unwrap().replace("page fault at ffff", "page fault at 9ab2"));
        let same = summary(&serde_json::to_string(&other).unwrap()).failures.remove(0);
        assert_eq!(same.signature, failure.signature);
        other.outcome = Outcome::Panic { cpu: 1, message: Some("out of memory".into()) };
        let changed = summary(&serde_json::to_string(&other).unwrap()).failures.remove(0);
        assert_ne!(changed.signature, failure.signature);
    }

    #[test]
    fn timeout_is_grouped_by_running_functions_unless_it_has_hangs() {
        let mut report: Report = serde_json::from_str(DEADLOCK).unwrap();
        report.outcome = Outcome::TimedOut { limit_ms: 5.0, ran_ms: None };
        let text = |report: &Report| serde_json::to_string(report).unwrap();
        let failures = summary(&text(&report)).failures;
        assert_eq!(failures.iter().map(|of| of.kind).collect::<Vec<_>>(), [FailureKind::Hang]);
        report.hangs.clear();
        report.backtraces[0].trigger = Trigger::TimeLimit;
        let failure = summary(&text(&report)).failures.remove(0);
        assert_eq!((failure.kind, failure.message), (FailureKind::Timeout, None));
        assert!(failure.function.unwrap().contains("abba_deadlock::"));
    }

    #[test]
    fn report_of_the_former_version_is_summarized_like_a_current_one() {
        let stored = include_str!("../../../report/tests/former/abba-deadlock.json");
        let (mut former, current) = (summary(stored), summary(DEADLOCK));
        // A report keeps the signature that it was written with: those of deadlocks have names of locks
        // since.
        assert_eq!(former.failures[0].signature, "0a2e58fd7c78e78d");
        former.failures[0].signature.clone_from(&current.failures[0].signature);
        // Reports of that version have no buckets.
        assert_eq!(former.failures[0].bucket.take(), None);
        former.failures[0].bucket.clone_from(&current.failures[0].bucket);
        assert_eq!(former, current);
        let version = |number: u32| format!("\"schema_version\": {number},");
        let older = version(former::OLDEST_READ_VERSION - 1);
        let older = DEADLOCK.replacen(&version(SCHEMA_VERSION), &older, 1);
        let error = summarize(older.as_bytes(), stored_plumbing).unwrap_err();
        assert!(matches!(error, UnreadableReport::Version(_)), "{error}");
    }

    #[test]
    fn unreadable_reports_are_refused_with_a_reason() {
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
            ("[]", "not a report"),
            ("{\"name\": \"left-pad\"}", "not a report"),
            ("\0\0\0\0", "not a report"),
            (&future, "of format 9"),
            (&changed, &format!("of format {newer}")),
            (&signed, "a signature is wrong"),
        ];
        for (text, wanted) in rows {
            let error = summarize(text.as_bytes(), stored_plumbing).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}, of {:.40}", text);
        }
    }
}
