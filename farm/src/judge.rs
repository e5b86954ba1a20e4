//! Judgement of a try: compares what a VM's process left behind with what the suite expects.
//!
//! Pure functions: the caller (`examine`) reads the files.
//!
//! Owns the statuses and their reasons; refuses to own the files (`examine`) and exit codes (the command
//! line).

use std::collections::BTreeSet;

use nmiscope_report::{Class, Hang, Outcome, Report, blamed_function};
use regex::Regex;

use super::event::{HangSummary, Status};
use super::suite::{ConsoleRules, Expectation, SuiteVm};

/// The files and the exit that a VM's process left behind.
#[derive(Debug)]
pub struct ProcessOutput<'a> {
    /// Exit code or signal that ended the process.
    pub end: ProcessEnd,
    /// Report, or the reason why it is missing.
    pub report: Result<&'a Report, NoReport>,
    /// Console output of the guest.
    pub console: &'a str,
    /// Last error message of the process itself.
    pub error: Option<&'a str>,
}

/// Reason why a VM's process left no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReport {
    /// The report's file does not exist.
    #[error("without a report")]
    Missing,
    /// The report's file holds no report, for this reason.
    #[error("left a report that cannot be read ({0})")]
    Unreadable(String),
}

/// End of a VM's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// The process exited with this code.
    Code(i32),
    /// The process was killed by this signal, which the farm did not send.
    Signal(i32),
    /// The farm killed the process, long after the time limit.
    Overdue,
    /// The farm ended the process when it was itself asked to end.
    Interrupted,
}

/// Verdict on a try, with the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Status of the try, as events have it.
    pub status: Status,
    /// Reason in one sentence; `None` if the status needs none.
    pub reason: Option<String>,
}

impl Judgement {
    fn pass() -> Self {
        Self { status: Status::Pass, reason: None }
    }

    /// Adds the error of a process that has left a report, and could not write another file.
    fn with_lost_file(self, error: Option<&str>) -> Self {
        let reasons: Vec<&str> = self.reason.as_deref().into_iter().chain(error).collect();
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        Self { reason, ..self }
    }

    /// Judgement of any status, with its reason.
    pub fn because(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: Some(reason.into()) }
    }
}

/// Stopper that a report names if the suite's `stop-after` ended the guest.
const BY_SUITE: &str = "--stop-after";

/// Judges a try by what the VM's process left behind.
pub fn judge(vm: &SuiteVm, output: &ProcessOutput<'_>) -> Judgement {
    let error = || output.error.map_or_else(String::new, |said| format!(": {said}"));
    match output.end {
        ProcessEnd::Interrupted => {
            let reason = match output.report {
                Ok(_) => "the farm was ended",
                Err(_) => "the farm was ended, and the VM's report is lost",
            };
            return Judgement::because(Status::Interrupted, reason);
        }
        ProcessEnd::Overdue => {
            let reason = "its process had not ended long after the time limit, and was killed";
            return Judgement::because(Status::Broken, reason);
        }
        ProcessEnd::Signal(signal) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            let reason = format!("its process was killed by {name}{}", error());
            return Judgement::because(Status::Broken, reason);
        }
        ProcessEnd::Code(_) => {}
    }
    let report = match &output.report {
        Ok(report) => *report,
        Err(reason) => {
            let ProcessEnd::Code(code) = output.end else {
                return Judgement::because(Status::Broken, reason.to_string());
            };
            let reason = format!("its process ended with code {code} and {reason}{}", error());
            return Judgement::because(Status::Broken, reason);
        }
    };
    let judgement = match by_outcome(vm, report) {
        Judgement { status: Status::Pass, .. } => by_console(&vm.console, output.console),
        other => other,
    };
    judgement.with_lost_file(output.error)
}

fn by_outcome(vm: &SuiteVm, report: &Report) -> Judgement {
    let expected = expectation(&vm.expect);
    let but = |what: &str| match vm.expect {
        Expectation::Pass => what.to_owned(),
        _ => format!("{what}, and should have {expected}"),
    };
    match (&report.outcome, &vm.expect) {
        (Outcome::Hang, Expectation::Hang { class, blamed }) => {
            let fits = |hang: &Hang| hang_fits(hang, *class, blamed.as_ref());
            if report.hangs.iter().any(fits) {
                return Judgement::pass();
            }
            Judgement::because(Status::Hang, format!("it should have {expected}"))
        }
        (Outcome::Hang, Expectation::Pass) => Judgement { status: Status::Hang, reason: None },
        (Outcome::Hang, _) => {
            Judgement::because(Status::Hang, format!("it should have {expected}"))
        }
        (Outcome::Panic { message, .. }, Expectation::Panic { message: wanted }) => {
            let message = message.as_deref().unwrap_or_default();
            let fits =
                |wanted: &str| Regex::new(wanted).is_ok_and(|wanted| wanted.is_match(message));
            if wanted.as_deref().is_none_or(fits) {
                return Judgement::pass();
            }
            Judgement::because(Status::Crash, but(&format!("it panicked: {message}")))
        }
        (Outcome::Panic { message, .. }, _) => {
            let message = message.as_deref().unwrap_or("no message");
            Judgement::because(Status::Crash, but(&format!("it panicked: {message}")))
        }
        (Outcome::Crash { .. }, Expectation::Crash) => Judgement::pass(),
        (Outcome::Crash { description, .. }, _) => {
            Judgement::because(Status::Crash, but(&format!("it crashed: {description}")))
        }
        // Stopped by something that the suite knows nothing about.
        (Outcome::Stopped { by }, _) if by != BY_SUITE => {
            Judgement::because(Status::Broken, format!("it was stopped by {by}"))
        }
        (Outcome::Observed { .. }, _) => {
            Judgement::because(Status::Broken, "its report is of a dump, not of a run")
        }
        (Outcome::Exit { code: 0 } | Outcome::Stopped { .. }, Expectation::Pass) => {
            Judgement::pass()
        }
        (Outcome::Exit { code }, Expectation::Exit { code: wanted }) if code == wanted => {
            Judgement::pass()
        }
        (Outcome::Exit { code }, _) => {
            Judgement::because(Status::Fail, but(&format!("it left with code {code}")))
        }
        (Outcome::Stopped { by }, _) => {
            Judgement::because(Status::Fail, but(&format!("it was stopped by {by}")))
        }
        (Outcome::TimedOut { limit_ms, .. }, _) => {
            let reason = format!("it had not ended after {:.1} s", limit_ms / 1000.0);
            Judgement::because(Status::Timeout, but(&reason))
        }
        (Outcome::Starved { wall_ms, ran_ms, .. }, _) => {
            let reason = format!(
                "it made no progress for {:.1} s, of which the host ran it for {:.1} s: run fewer VMs at \
                 a time",
                wall_ms / 1000.0,
                ran_ms / 1000.0
            );
            Judgement::because(Status::Starved, reason)
        }
    }
}

/// Describes the expected end, to follow "should have".
fn expectation(expected: &Expectation) -> String {
    match expected {
        Expectation::Pass => "left with code 0".into(),
        Expectation::Exit { code } => format!("left with code {code}"),
        Expectation::Crash => "crashed".into(),
        Expectation::Panic { message: None } => "panicked".into(),
        Expectation::Panic { message: Some(message) } => {
            format!("panicked with a message that matches {message}")
        }
        Expectation::Hang { class, blamed } => {
            let class = class.map_or_else(|| "hung".into(), |class| format!("hung by a {class}"));
            match blamed {
                None => class,
                Some(blamed) => {
                    let names: Vec<&str> = blamed.iter().map(String::as_str).collect();
                    format!("{class} of {}", names.join(" and "))
                }
            }
        }
    }
}

fn hang_fits(hang: &Hang, class: Option<Class>, blamed: Option<&BTreeSet<String>>) -> bool {
    class.is_none_or(|class| class == hang.class)
        && blamed.is_none_or(|wanted| *wanted == hang.blamed.iter().cloned().collect())
}

fn by_console(rules: &ConsoleRules, printed: &str) -> Judgement {
    // Loading the suite has checked that its patterns are regular expressions.
    let has = |pattern: &String| {
        let pattern = Regex::new(pattern).ok()?;
        printed.lines().find(|line| pattern.is_match(line))
    };
    if let Some(missing) = rules.must.iter().find(|pattern| has(pattern).is_none()) {
        let reason = format!("no line of its console matches {missing}");
        return Judgement::because(Status::Fail, reason);
    }
    let unwanted = rules.must_not.iter().find_map(|pattern| Some((pattern, has(pattern)?)));
    match unwanted {
        Some((pattern, line)) => {
            let reason = format!("a line of its console matches {pattern}: {line}");
            Judgement::because(Status::Fail, reason)
        }
        None => Judgement::pass(),
    }
}

/// Returns the hangs that the report's outcome is about, in the order of their detection.
pub fn hangs(report: &Report) -> impl Iterator<Item = &Hang> {
    report.hangs.iter().filter(|hang| report.outcome.is_about(&hang.certainty))
}

/// Summarizes the first of these hangs.
pub fn summary(report: &Report) -> Option<HangSummary> {
    let hang = hangs(report).next()?;
    Some(HangSummary {
        class: hang.class,
        signature: hang.signature.clone(),
        blamed: hang.blamed.clone(),
        locks: hang.locks.clone(),
        function: blamed_function(&hang.blamed, &hang.evidence).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use nmiscope_report::CrashCause;

    fn vm(expect: Expectation) -> SuiteVm {
        SuiteVm {
            name: "vm".into(),
            image: None,
            initrd: None,
            workload: None,
            append: String::new(),
            cpus: 1,
            memory: 64 << 20,
            time_limit: Duration::from_secs(60),
            stop_after: None,
            ready_within: Duration::from_secs(30),
            hang_after: Vec::new(),
            retries: 0,
            tags: BTreeSet::new(),
            expect,
            console: ConsoleRules::default(),
        }
    }

    /// Loads a stored report: a deadlock of cpu0 and cpu1.
    fn report() -> Report {
        let stored = include_str!("../../tests/offline/cores/abba-deadlock.json");
        serde_json::from_str(stored).expect("a stored report")
    }

    fn ended(outcome: Outcome) -> Report {
        Report { outcome, hangs: Vec::new(), ..report() }
    }

    fn status(expect: Expectation, report: &Report) -> Status {
        let output = ProcessOutput {
            end: ProcessEnd::Code(0),
            report: Ok(report),
            console: "",
            error: None,
        };
        judge(&vm(expect), &output).status
    }

    fn hang(class: Option<Class>, blamed: Option<&[&str]>) -> Expectation {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Expectation::Hang { class, blamed: blamed.map(set) }
    }

    #[test]
    fn hangs_pass_only_with_the_expected_class_and_blame() {
        let report = report();
        let rows = [
            (hang(None, None), Status::Pass),
            (hang(Some(Class::Deadlock), None), Status::Pass),
            (hang(Some(Class::Deadlock), Some(&["cpu1", "cpu0"])), Status::Pass),
            (hang(None, Some(&["cpu0"])), Status::Hang),
            (hang(Some(Class::HardLockup), None), Status::Hang),
            (Expectation::Pass, Status::Hang),
            (Expectation::Exit { code: 3 }, Status::Hang),
            (Expectation::Crash, Status::Hang),
        ];
        for (expect, wanted) in rows {
            assert_eq!(status(expect.clone(), &report), wanted, "{expect:?}");
        }
    }

    #[test]
    fn outcomes_get_a_status_by_the_expectation() {
        let panicked =
            |message: &str| ended(Outcome::Panic { cpu: 0, message: Some(message.into()) });
        let wanted = |message: &str| Expectation::Panic { message: Some(message.into()) };
        let crash = || {
            let description = "cpu0: triple fault".into();
            ended(Outcome::Crash { cpu: 0, cause: CrashCause::TripleFault, description })
        };
        let exit = |code| ended(Outcome::Exit { code });
        let stopped = || ended(Outcome::Stopped { by: "--stop-after".into() });
        let killed = || ended(Outcome::Stopped { by: "SIGTERM".into() });
        let timed_out = || ended(Outcome::TimedOut { limit_ms: 1.0, ran_ms: None });
        let starved = || ended(Outcome::Starved { cpus: vec![0], wall_ms: 1.0, ran_ms: 0.0 });
        let rows = [
            (Expectation::Pass, exit(0), Status::Pass),
            (Expectation::Pass, stopped(), Status::Pass),
            (Expectation::Pass, killed(), Status::Broken),
            (Expectation::Exit { code: 7 }, killed(), Status::Broken),
            (Expectation::Pass, exit(7), Status::Fail),
            (Expectation::Exit { code: 7 }, exit(7), Status::Pass),
            (Expectation::Exit { code: 7 }, exit(0), Status::Fail),
            (Expectation::Pass, panicked("no init"), Status::Crash),
            (Expectation::Panic { message: None }, panicked("no init"), Status::Pass),
            (wanted("^no"), panicked("no init"), Status::Pass),
            (wanted("^init"), panicked("no init"), Status::Crash),
            (Expectation::Crash, crash(), Status::Pass),
            (Expectation::Crash, panicked("no init"), Status::Crash),
            (Expectation::Pass, crash(), Status::Crash),
            (hang(None, None), stopped(), Status::Fail),
            (hang(None, None), timed_out(), Status::Timeout),
            (Expectation::Pass, timed_out(), Status::Timeout),
            (hang(None, None), starved(), Status::Starved),
        ];
        for (expect, report, wanted) in rows {
            assert_eq!(status(expect.clone(), &report), wanted, "{expect:?} {:?}", report.outcome);
        }
    }

    #[test]
    fn process_without_a_report_gives_no_verdict_on_its_guest() {
        let judge_end = |end, report: Result<&Report, NoReport>, error| {
            let output = ProcessOutput { end, report, console: "", error };
            judge(&vm(Expectation::Pass), &output)
        };
        let good = ended(Outcome::Exit { code: 0 });
        let bad = ended(Outcome::Exit { code: 1 });
        let rows = [
            (ProcessEnd::Signal(9), Ok(&good), None, Status::Broken, "killed by SIGKILL"),
            (ProcessEnd::Overdue, Ok(&good), None, Status::Broken, "was killed"),
            (ProcessEnd::Interrupted, Ok(&good), None, Status::Interrupted, "the farm was ended"),
            (
                ProcessEnd::Code(2),
                Err(NoReport::Missing),
                Some("no /dev/kvm"),
                Status::Broken,
                "code 2 and without a report: no /dev/kvm",
            ),
            // The guest's verdict stands where only its core is lost.
            (
                ProcessEnd::Code(0),
                Ok(&good),
                Some("failed to write hang.core: no space"),
                Status::Pass,
                "failed to write hang.core: no space",
            ),
            (
                ProcessEnd::Code(1),
                Ok(&bad),
                Some("failed to write hang.core: no space"),
                Status::Fail,
                "it left with code 1; failed to write hang.core: no space",
            ),
        ];
        for (end, report, error, status, reason) in rows {
            let judgement = judge_end(end, report, error);
            assert_eq!(judgement.status, status, "{end:?}");
            let said = judgement.reason.unwrap_or_default();
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn console_rules_apply_to_guests_that_otherwise_pass() {
        let console = "booting\r\nwarning: slow\nready\n";
        let rows: [(&[&str], &[&str], Option<&str>); 5] = [
            (&["^ready$"], &["panic"], None),
            (&["boot", "slow$"], &[], None),
            (&["^boot$"], &[], Some("no line of its console matches ^boot$")),
            (&[], &["^warning"], Some("a line of its console matches ^warning: warning: slow")),
            (&["ready.*booting"], &[], Some("no line")),
        ];
        for (must, must_not, reason) in rows {
            let owned = |patterns: &[&str]| patterns.iter().map(|&p| p.to_owned()).collect();
            let rules = ConsoleRules { must: owned(must), must_not: owned(must_not) };
            let vm = SuiteVm { console: rules, ..vm(Expectation::Pass) };
            let report = ended(Outcome::Exit { code: 0 });
            let output = ProcessOutput {
                end: ProcessEnd::Code(0),
                report: Ok(&report),
                console,
                error: None,
            };
            let judgement = judge(&vm, &output);
            let wanted = if reason.is_some() { Status::Fail } else { Status::Pass };
            assert_eq!(judgement.status, wanted, "{must:?} {must_not:?}");
            let said = judgement.reason.unwrap_or_default();
            assert!(said.contains(reason.unwrap_or_default()), "{said}");
        }
    }
}
