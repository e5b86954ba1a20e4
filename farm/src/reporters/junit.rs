//! JUnit XML for CI systems: one test suite, with a test case for each run of a VM.
//!
//! Owns the mapping of a farm to JUnit's elements; refuses to own the choice of a run's last try
//! (`runs`). Called by the command line, with each event.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nmiscope_report::destination::Destination;
use nmiscope_report::sanitize;
use quick_junit::{
    NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestRerun, TestSuite, XmlString,
};

use super::Reporter;
use super::phrases::{self, finding_text, status_verb};
use super::runs::{Runs, Try};
use crate::event::{EventKind, FarmEvent, FarmFinished, FarmStarted, Status, VmFinished};
use crate::tail::{Tail, read_tail};
use crate::timestamp::Timestamp;
use crate::{relative_path, results};

/// Maximum number of bytes taken from the end of a console.
const MAX_CONSOLE: u64 = 64 << 10;
/// Maximum number of bytes taken from the start of a report's text, which has the hang and the blamed stacks.
const MAX_REPORT: usize = 16 << 10;
/// Maximum number of lines of a console's end in the text of a failure.
const MAX_LINES: usize = 20;
/// Maximum number of bytes of all reports and consoles, so that a thousand hangs make a file that CI systems still
/// read.
const MAX_CONSOLES: usize = 16 << 20;

/// Reporter that writes JUnit XML when the run ends.
pub struct Junit {
    file: Destination,
    root: PathBuf,
    started: Option<(Timestamp, FarmStarted)>,
    runs: Runs,
}

impl Junit {
    /// Writes to `file`; `root` is the results directory.
    pub fn new(file: Destination, root: PathBuf) -> Self {
        Self { file, root, started: None, runs: Runs::keep_all() }
    }

    fn write(&self, finished: &FarmFinished) -> anyhow::Result<()> {
        let mut text = Vec::new();
        self.build(finished).serialize(&mut text).context("failed to encode JUnit XML")?;
        self.file.write(&text)
    }

    fn build(&self, finished: &FarmFinished) -> Report {
        let started = self.started.as_ref().map(|(_, started)| started);
        let name = started.map_or_else(|| "nmiscope farm".into(), |started| text(&started.suite));
        let mut suite = TestSuite::new(name.clone());
        suite.set_time(duration(finished.elapsed_ms));
        suite.timestamp = self.started.as_ref().and_then(|(time, _)| time.to_string().parse().ok());
        if let Some(started) = started {
            suite.extra.insert("hostname".into(), text(&started.host));
            suite.add_property(("tool", &*format!("nmiscope {}", text(&started.tool).as_str())));
            let seed = started.seed.map(|seed| seed.to_string());
            for (name, value) in [("seed", &seed), ("partition", &started.partition)] {
                if let Some(value) = value {
                    suite.add_property(Property::new(name, text(value)));
                }
            }
        }
        suite.add_property(("not-run", &*finished.not_run.to_string()));
        let page = self.root.join(results::INDEX);
        if page.is_file() {
            suite.add_property(("index", &*phrases::path_text(&page)));
        }
        let mut consoles = MAX_CONSOLES;
        suite.add_test_cases(self.runs.iter().filter_map(|tries| self.case(tries, &mut consoles)));
        let mut report = Report::new(name);
        report.timestamp = suite.timestamp;
        report.set_time(duration(finished.elapsed_ms));
        report.add_test_suite(suite);
        report
    }

    /// Builds the test case of a run: its last try, with earlier ones as reruns.
    fn case(&self, tries: &[Try], consoles: &mut usize) -> Option<TestCase> {
        let (last, earlier) = tries.split_last()?;
        let end = &last.end;
        let mut status = status(end);
        if end.status != Status::Pass {
            status.set_description(self.failure_text(end, consoles));
        }
        for one in earlier {
            let mut rerun = TestRerun::new(kind(one.end.status));
            rerun.timestamp = started_at(one).to_string().parse().ok();
            rerun.set_time(duration(one.end.elapsed_ms));
            rerun.set_message(message(&one.end)).set_type(one.end.status.name());
            rerun.description = Some(self.failure_text(&one.end, consoles));
            rerun.system_out = Some(XmlString::new(self.output(&one.end, consoles)));
            status.add_rerun(rerun);
        }
        let mut case = TestCase::new(text(&full_name(end)), status);
        case.set_classname(self.class_name());
        case.timestamp = started_at(last).to_string().parse().ok();
        case.set_time(duration(end.elapsed_ms));
        if let Some(hang) = end.hang.as_ref().filter(|_| end.status != Status::Pass) {
            case.add_property(("class", hang.class.name()));
            case.add_property(Property::new("signature", text(&hang.signature)));
            if let Some(function) = &hang.function {
                case.add_property(Property::new("function", text(function)));
            }
        }
        if let Some(url) = &end.known {
            case.add_property(Property::new("known", text(url)));
        }
        if end.status != Status::Pass {
            case.set_system_out(self.output(end, consoles));
        }
        Some(case)
    }

    /// Returns the suite's name, the class of all cases: its file's, without the `.toml`, since a `.` in a
    /// class makes folders.
    fn class_name(&self) -> XmlString {
        let suite = self.started.as_ref().map_or("farm", |(_, started)| &started.suite);
        let name = Path::new(suite).file_stem().map(|name| name.to_string_lossy());
        text(&name.unwrap_or_else(|| suite.into()))
    }

    /// Returns the text of a failure, by which it can be understood without the files: its verdict, the
    /// start of its report with the blamed stacks, and the last lines of its console. `left` is the number
    /// of bytes left for all of them.
    fn failure_text(&self, end: &VmFinished, left: &mut usize) -> XmlString {
        let mut output = format!("{}: {}", status_verb(end.status), message(end).as_str());
        let report = self.read(end, "text", |path| read_head(path, MAX_REPORT));
        let console = self.read(end, "console", read_console_tail);
        let console = console.map(|console| {
            let lines: Vec<&str> = console.lines().collect();
            lines[lines.len().saturating_sub(MAX_LINES)..].join("\n")
        });
        for (title, part) in [("", report), ("the end of its console:\n", console)] {
            let Some(part) = part.filter(|part| !part.is_empty() && part.len() <= *left) else {
                continue;
            };
            *left -= part.len();
            output.push_str(&format!("\n\n{title}{}", part.trim_end()));
        }
        XmlString::new(output)
    }

    /// Reads a file of a try; `None` without one, and for a path that leads out of the results directory.
    fn read(
        &self,
        end: &VmFinished,
        kind: &str,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Option<String> {
        let path = end.directory.join(end.files.get(kind)?);
        read(&relative_path::resolve(&self.root, &path).ok()?).ok()
    }

    /// Lists the files of a try and appends the end of its console; `left` is the number of bytes left for
    /// consoles.
    fn output(&self, end: &VmFinished, left: &mut usize) -> String {
        let mut output = String::new();
        for (kind, file) in &end.files {
            let path = self.root.join(&end.directory).join(file);
            output.push_str(&format!("{}: {}\n", text(kind).as_str(), phrases::path_text(&path)));
        }
        let Some(console) = self.read(end, "console", read_console_tail) else { return output };
        if console.len() > *left {
            output.push_str("console left out: all consoles together exceed the size limit\n");
            return output;
        }
        *left -= console.len();
        output.push_str("\nthe end of its console:\n");
        output.push_str(&console);
        output
    }
}

impl Reporter for Junit {
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        self.runs.record(event);
        match &event.kind {
            EventKind::FarmStarted(started) => self.started = Some((event.time, started.clone())),
            EventKind::FarmFinished(finished) => self.write(finished)?,
            _ => {}
        }
        Ok(())
    }

    fn note_earlier(&mut self, event: &FarmEvent) {
        self.runs.record(event);
    }
}

/// Maps a status to a failure, of a guest that misbehaved, or to an error, where there is no verdict.
fn kind(status: Status) -> NonSuccessKind {
    match status {
        Status::Pass | Status::Fail | Status::Hang | Status::Crash | Status::Timeout => {
            NonSuccessKind::Failure
        }
        Status::Starved | Status::Broken | Status::Interrupted => NonSuccessKind::Error,
    }
}

fn status(end: &VmFinished) -> TestCaseStatus {
    if end.status == Status::Pass {
        return TestCaseStatus::success();
    }
    let mut status = if end.known.is_some() {
        // A known failure must not break the build, and as a success it would be forgotten. The message is
        // the URL at which it is tracked.
        TestCaseStatus::skipped()
    } else {
        TestCaseStatus::non_success(kind(end.status))
    };
    match &end.known {
        Some(url) => status.set_message(text(url)),
        None => status.set_message(message(end)),
    };
    status.set_type(end.status.name());
    status
}

fn message(end: &VmFinished) -> XmlString {
    XmlString::new(
        finding_text(end)
            .unwrap_or_else(|| status_verb(end.status).into())
            .replace(NONCHARACTERS, "\u{fffd}"),
    )
}

fn full_name(end: &VmFinished) -> String {
    // Names are not cut: two that differ only at their ends are two test cases.
    if end.id.run > 1 { format!("{} #{}", end.id.name, end.id.run) } else { end.id.name.clone() }
}

/// Characters that XML cannot represent and `XmlString` does not replace.
const NONCHARACTERS: [char; 2] = ['\u{fffe}', '\u{ffff}'];

/// Puts text on one line with control characters escaped; `XmlString` alone would drop them and make two
/// names equal.
fn text(text: &str) -> XmlString {
    XmlString::new(sanitize::line(text).replace(NONCHARACTERS, "\u{fffd}"))
}

/// Reads the start of a text, up to the end of a line.
fn read_head(path: &Path, most: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    let mut rest = "";
    if bytes.len() > most {
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(most));
        rest = "\n...";
    }
    Ok(safe_text(&bytes)? + rest)
}

/// Reads the end of a console, from the start of a line if the beginning is cut off.
fn read_console_tail(path: &Path) -> io::Result<String> {
    let Tail { mut bytes, is_all } = read_tail(path, MAX_CONSOLE)?;
    if !is_all && let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        bytes.drain(..=end);
    }
    safe_text(&bytes)
}

/// Returns text without the characters that XML or a terminal cannot take.
fn safe_text(bytes: &[u8]) -> io::Result<String> {
    let mut safe = Vec::new();
    sanitize::TerminalFilter::new(&mut safe).write_all(bytes)?;
    Ok(String::from_utf8_lossy(&safe).replace(NONCHARACTERS, "\u{fffd}"))
}

/// Returns the time at which a try started, from its end and duration.
fn started_at(one: &Try) -> Timestamp {
    one.time.minus_ms(one.end.elapsed_ms as u64)
}

fn duration(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests as fixture;
    use super::*;

    fn written(root: &Path, events: &[FarmEvent]) -> String {
        let file = root.join("junit.xml");
        fixture::report_all(
            &mut Junit::new(Destination::open(&file).unwrap(), root.into()),
            events,
        );
        fs::read_to_string(file).unwrap()
    }

    #[test]
    fn xml_of_a_full_run_matches_the_golden_file() {
        let directory = tempfile::tempdir().unwrap();
        let xml = written(directory.path(), &fixture::events());
        let shown = xml.replace(directory.path().to_str().unwrap(), "results");
        fixture::is_golden("junit.xml", &shown);
        let report = Report::deserialize_from_str(&xml).unwrap();
        // Expected numbers: counted by hand in the list of events.
        assert_eq!((report.tests, report.failures, report.errors), (16, 7, 3));
        assert_eq!(report.skipped, 1);
        assert_eq!(report.test_suites[0].test_cases.len(), 16);
    }

    #[test]
    fn page_of_the_run_is_named_where_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut farm = fixture::ScriptedFarm::new(0);
        farm.finish();
        let page = directory.path().join(results::INDEX);
        assert!(!written(directory.path(), &farm.events).contains("index.html"));
        fs::write(&page, "a page").unwrap();
        let property = format!("name=\"index\" value=\"{}\"", page.display());
        let xml = written(directory.path(), &farm.events);
        assert!(xml.contains(&property), "{xml}");
    }

    #[test]
    fn different_names_stay_different_in_xml() {
        let names = ["a\x1b[1m", "a", "a\u{fffe}", "a\x01", "a\n", "a<b>&\"'", "a]]>"];
        let mut farm = fixture::ScriptedFarm::new(names.len() as u64);
        for name in names {
            farm.end_with(name, Status::Fail, |end| end.reason = Some(name.into()));
        }
        farm.finish();
        let directory = tempfile::tempdir().unwrap();
        let xml = written(directory.path(), &farm.events);
        let is_allowed = |c: char| matches!(c, '\n' | ' '..) && !NONCHARACTERS.contains(&c);
        assert!(xml.chars().all(is_allowed), "{xml}");
        let report = Report::deserialize_from_str(&xml).unwrap();
        let cases = &report.test_suites[0].test_cases;
        let read: std::collections::BTreeSet<&str> =
            cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(read.len(), names.len(), "{read:?}");
        assert!(read.contains("a<b>&\"'") && read.contains("a\\u{1b}[1m"), "{read:?}");
    }

    #[test]
    fn output_has_the_consoles_end_and_no_file_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("results");
        let mut farm = fixture::ScriptedFarm::new(2);
        farm.end("long", Status::Fail);
        farm.end_with("out", Status::Fail, |end| {
            end.files.insert("console".into(), "../../../secret".into());
        });
        farm.finish();
        fs::write(directory.path().join("secret"), "SECRET").unwrap();
        for event in &farm.events {
            if let EventKind::VmFinished(end) = &event.kind {
                fs::create_dir_all(root.join(&end.directory)).unwrap();
                let console = format!("FIRST\n{}\n\x1b[2Jlast \u{ffff}\n", "x\n".repeat(64 << 10));
                fs::write(root.join(&end.directory).join("console.log"), console).unwrap();
            }
        }
        let xml = written(&root, &farm.events);
        let report = Report::deserialize_from_str(&xml).unwrap();
        let output =
            |at: usize| report.test_suites[0].test_cases[at].system_out.as_deref().unwrap();
        let id = crate::event::Id { name: "long".into(), run: 1, attempt: 1 };
        let console = root.join(results::try_directory(&id)).join("console.log");
        assert!(output(0).starts_with(&format!("console: {}\n", console.display())));
        // The XML reader drops the last line feed.
        let end = "x\n\n\\u{1b}[2Jlast \u{fffd}";
        assert!(output(0).ends_with(end), "{:?}", output(0).lines().last());
        assert!(!output(0).contains("FIRST"));
        assert!(output(0).len() < (64 << 10) + 1000);
        assert!(!output(1).contains("SECRET"), "{}", output(1));
    }

    #[test]
    fn consoles_beyond_the_size_limit_are_replaced_by_a_note() {
        let directory = tempfile::tempdir().unwrap();
        let mut farm = fixture::ScriptedFarm::new(1);
        farm.end("vm", Status::Fail);
        let EventKind::VmFinished(end) = &farm.events[1].kind else { panic!("{:?}", farm.events) };
        fs::create_dir_all(directory.path().join(&end.directory)).unwrap();
        fs::write(directory.path().join(&end.directory).join("console.log"), "12345678").unwrap();
        let junit = Junit::new(Destination::Stdout, directory.path().into());
        let mut left = 10;
        assert!(junit.output(end, &mut left).ends_with("12345678"));
        assert_eq!(left, 2);
        let output = junit.output(end, &mut left);
        assert!(output.ends_with("all consoles together exceed the size limit\n"), "{output}");
    }
}
