//! The page of a run, `index.html` in the results directory: groups of failures as triage finds them, and all
//! VMs, with links to their files.
//!
//! Owns the rows about VMs and the facts about the run; refuses to own groups (`triage`) and layout
//! (`nmiscope_report::html`). Called by the command line, with each event.

use std::path::PathBuf;

use nmiscope_report::destination::Destination;
use nmiscope_report::html::Href;
use nmiscope_report::html::index::{self, Index, MAX_RUNS, PageLink, Run, RunList, SafeLine};
use nmiscope_report::units::plural;

use super::Reporter;
use super::files;
use super::phrases::{finding_text, format_duration, format_seconds, status_verb};
use super::runs::{Runs, Try};
use super::summary::{known_count, status_counts};
use crate::event::{EventKind, FarmEvent, FarmFinished, FarmStarted, Status, VmFinished};
use crate::timestamp::Timestamp;
use crate::triage::page::{PageFolder, triage_page};
use crate::triage::{self, IsPlumbing, KnownFailures};

/// Kinds of a try's files that show its result, the best first, as events spell them.
const REPORTS: [&str; 5] = ["html", "text", "report", "stderr", "console"];

/// Maximum number of a run's tries that are linked: the last ones.
const MAX_TRIES: usize = 10;

/// Reporter that writes the page when the run ends.
pub struct IndexPage {
    file: Destination,
    root: PathBuf,
    is_plumbing: IsPlumbing,
    started: Option<(Timestamp, FarmStarted)>,
    interrupted: Option<String>,
    runs: Runs,
}

impl IndexPage {
    /// Writes to `file`, in the results directory `root`. `is_plumbing` is that of triage.
    pub fn new(file: Destination, root: PathBuf, is_plumbing: IsPlumbing) -> Self {
        let runs = Runs::keep_all();
        Self { file, root, is_plumbing, started: None, interrupted: None, runs }
    }

    fn write(&self, finished: &FarmFinished) -> anyhow::Result<()> {
        // The journal has all events by now.
        let mut found = triage::scan(std::slice::from_ref(&self.root), self.is_plumbing)?.triage;
        found.mark(&self.known());
        let page = triage_page(&found, &PageFolder::of(&self.file)?);
        self.file.write(index::page(&self.fill(page, finished)).as_bytes())
    }

    /// Returns the failures that events say are known.
    fn known(&self) -> KnownFailures {
        let ends = self.runs.iter().flatten().map(|one| &one.end);
        KnownFailures::from_urls(
            ends.filter_map(|end| {
                Some((end.hang.as_ref()?.signature.as_str(), end.known.as_deref()?))
            }),
        )
    }

    /// Adds the run and its VMs to a page of its failures.
    fn fill(&self, page: Index, finished: &FarmFinished) -> Index {
        let all = finished.counts.values().sum::<u64>() + finished.not_run;
        let counts: Vec<String> =
            status_counts(finished).into_iter().map(|(_, words)| words).collect();
        let totals =
            format!("{}: {}{}", plural(all, "VM"), counts.join(", "), known_count(finished));
        Index {
            title: SafeLine::new("Results of nmiscope farm"),
            totals: SafeLine::new(totals),
            facts: self.facts(finished),
            no_groups: SafeLine::new(
                "No VM hung, crashed or exceeded its time limit unexpectedly.",
            ),
            runs: Some(self.rows()),
            ..page
        }
    }

    fn facts(&self, finished: &FarmFinished) -> Vec<(SafeLine, SafeLine)> {
        let mut facts = Vec::new();
        let mut add =
            |name: &str, value: &str| facts.push((SafeLine::new(name), SafeLine::new(value)));
        if let Some((time, started)) = &self.started {
            add("suite", &started.suite);
            add("host", &started.host);
            add("started", &time.to_string());
            add("tool", &format!("nmiscope {}", started.tool));
            if let Some(partition) = &started.partition {
                add("part", partition);
            }
            if let Some(seed) = started.seed {
                add("seed", &seed.to_string());
            }
        }
        add("took", &format_duration(finished.elapsed_ms));
        if let Some(by) = &self.interrupted {
            add("ended by", by);
        }
        facts
    }

    /// Makes the rows of all runs: those that failed, those with a known failure, those that passed after a
    /// retry, and the others, each in the order of names.
    fn rows(&self) -> RunList {
        let mut runs: Vec<&[Try]> = self.runs.iter().filter(|tries| !tries.is_empty()).collect();
        runs.sort_by_key(|tries| tries.last().map(|last| rank(&last.end)));
        let rows = runs.iter().take(MAX_RUNS).filter_map(|tries| self.row(tries));
        RunList { rows: rows.collect(), total: runs.len() }
    }

    fn row(&self, tries: &[Try]) -> Option<Run> {
        let end = &tries.last()?.end;
        let name = match end.id.run {
            0 | 1 => end.id.name.clone(),
            run => format!("{} #{run}", end.id.name),
        };
        let mut result = status_verb(end.status).to_owned();
        if end.known.is_some() {
            result.push_str(" (known)");
        }
        if end.flaky {
            result.push_str(" (flaky)");
        }
        Some(Run {
            name: SafeLine::new(name),
            result: SafeLine::new(result),
            failed: rank(end) == 0,
            reason: SafeLine::new(finding_text(end).unwrap_or_default()),
            duration: SafeLine::new(format_seconds(end.elapsed_ms)),
            links: self.links(tries),
        })
    }

    /// Links to the report of each try, or what there is instead, and to the last console.
    fn links(&self, tries: &[Try]) -> Vec<PageLink> {
        let shown = &tries[tries.len().saturating_sub(MAX_TRIES)..];
        let mut links = Vec::new();
        for one in shown {
            let found = REPORTS.iter().find_map(|kind| self.link(&one.end, kind));
            links.extend(found.map(|(name, address)| {
                let text = match tries.len() {
                    1 => name,
                    _ => format!("try {} {}", one.end.id.attempt, status_verb(one.end.status)),
                };
                PageLink { text: SafeLine::new(text), address }
            }));
        }
        let console = shown.last().and_then(|last| self.link(&last.end, "console"));
        if let Some((name, address)) = console
            && links.iter().all(|link| link.address != address)
        {
            links.push(PageLink { text: SafeLine::new(name), address });
        }
        links
    }

    /// Returns the name and the address of a try's file; `None` unless it exists.
    fn link(&self, end: &VmFinished, kind: &str) -> Option<(String, Href)> {
        let relative = files::existing(&self.root, end, kind)?;
        let name = relative.file_name()?.to_string_lossy().into_owned();
        Some((name, Href::relative(&relative)?))
    }
}

impl Reporter for IndexPage {
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        self.runs.record(event);
        match &event.kind {
            EventKind::FarmStarted(started) => {
                self.started = Some((event.time, started.clone()));
                self.interrupted = None;
            }
            EventKind::FarmInterrupted { by } => self.interrupted = Some(by.clone()),
            EventKind::FarmFinished(finished) => self.write(finished)?,
            _ => {}
        }
        Ok(())
    }

    fn note_earlier(&mut self, event: &FarmEvent) {
        self.runs.record(event);
    }
}

/// Returns the place of a run in the list: 0 for an unexpected result.
fn rank(end: &VmFinished) -> u8 {
    match end.status {
        Status::Pass if end.flaky => 2,
        Status::Pass => 3,
        _ if end.known.is_some() => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::tests as fixture;
    use super::*;
    use crate::journal::Journal;
    use crate::{process, results};

    /// Writes a page as a farm does at its end: the journal first, then the files of each try.
    fn written(root: &Path, earlier: &[FarmEvent], events: &[FarmEvent]) -> String {
        let mut journal = Journal::open(root).unwrap();
        for event in earlier.iter().chain(events) {
            journal.append(event).unwrap();
            if let EventKind::VmFinished(end) = &event.kind {
                let directory = root.join(&end.directory);
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join(process::CONSOLE), "up").unwrap();
                fs::write(directory.join(process::HTML), "a page").unwrap();
            }
        }
        let file = root.join(results::INDEX);
        let mut page = IndexPage::new(Destination::open(&file).unwrap(), root.into(), |_| false);
        earlier.iter().for_each(|event| page.note_earlier(event));
        fixture::report_all(&mut page, events);
        fs::read_to_string(file).unwrap()
    }

    fn addresses(page: &str) -> Vec<&str> {
        page.split("href=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect()
    }

    /// Returns the cells of the list of VMs that have this label, or for an empty one the names.
    fn cells<'a>(page: &'a str, label: &str) -> Vec<&'a str> {
        let runs = page.split_once("<table id=\"runs\"").unwrap().1;
        let (start, end) = match label {
            "" => ("<th scope=\"row\">".to_owned(), "</th>"),
            label => (format!("data-label=\"{label}\">"), "</td>"),
        };
        runs.split(&*start).skip(1).map(|rest| rest.split_once(end).unwrap().0).collect()
    }

    #[test]
    fn all_runs_are_listed_and_unexpected_results_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let page = written(directory.path(), &[], &fixture::events());
        let names = cells(&page, "");
        let results = cells(&page, "Result");
        assert_eq!((names.len(), results.len()), (16, 16));
        let of = |name: &str| {
            let at = names.iter().position(|is| *is == name).unwrap_or_else(|| panic!("{name}"));
            (at, results[at])
        };
        let blamed = |word: &str| format!("<span class=\"blamed\">{word}</span>");
        let good = |word: &str| format!("<span class=\"good\">{word}</span>");
        assert_eq!(of("storage/abba").1, blamed("hung"));
        assert_eq!(of("storage/abba #3").1, blamed("hung"));
        // Ten that are unexpected, then the known one, the flaky one and those that passed.
        assert_eq!(of("storage/known"), (10, &*good("hung (known)")));
        assert_eq!(of("storage/sometimes"), (11, &*good("passed (flaky)")));
        assert_eq!(of("boot/cpus=1"), (12, &*good("passed")));
        for wanted in [
            "19 VMs: ",
            "; 1 failure is known",
            "<dt>suite</dt><dd>suite.toml</dd>",
            "<dt>host</dt><dd>builder</dd>",
            "<dt>part</dt><dd>hash:1/4</dd>",
            "<dt>ended by</dt><dd>SIGINT</dd>",
            "<a href=\"https://bugs.example/42\">https://bugs.example/42</a>",
            "deadlock in take_second",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }

    #[test]
    fn links_of_hostile_names_lead_to_files_that_exist() {
        let names = [
            "a\"b'c",
            "</script><script>alert(1)</script>",
            "javascript:alert(1)",
            "ä/%2F",
            "../x",
        ];
        let mut farm = fixture::ScriptedFarm::new(names.len() as u64);
        for name in names {
            farm.end_with(name, Status::Fail, |end| {
                end.reason = Some(name.into());
                end.files.insert("html".into(), process::HTML.into());
            });
        }
        farm.end_with("out", Status::Fail, |end| {
            end.files.insert("html".into(), "../../../secret.html".into());
        });
        farm.end_with("gone", Status::Fail, |end| {
            end.files = [("html".to_owned(), "no-such.html".into())].into();
        });
        farm.finish();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("results");
        fs::create_dir(&root).unwrap();
        fs::write(directory.path().join("secret.html"), "SECRET").unwrap();
        let page = written(&root, &[], &farm.events);
        let found = addresses(&page);
        // A report and a console of each, the console of the one that names a file elsewhere, and the skip
        // link.
        assert_eq!(found.len(), 2 * names.len() + 2, "{found:?}");
        for address in found.iter().filter(|address| !address.starts_with('#')) {
            // Directories of tries need no escapes but of `=`.
            let path = root.join(address.replace("%3D", "="));
            assert!(path.is_file(), "{address}");
            assert!(!address.contains(':') && !address.contains(".."), "{address}");
        }
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
    }

    #[test]
    fn resumed_run_has_the_vms_of_both_farms_and_each_try() {
        let mut earlier = fixture::ScriptedFarm::new(2);
        earlier.end("first", Status::Pass);
        earlier.end_with("again", Status::Crash, |end| {
            (end.again, end.reason) = (true, Some("it panicked: no room".into()));
        });
        let mut farm = fixture::ScriptedFarm::starting(2, |start| start.done = 1);
        farm.end_with("again", Status::Pass, |end| (end.id.attempt, end.flaky) = (2, true));
        farm.finish();
        let directory = tempfile::tempdir().unwrap();
        let page = written(directory.path(), &earlier.events, &farm.events);
        assert_eq!(cells(&page, ""), ["again", "first"]);
        assert_eq!(
            addresses(cells(&page, "Files")[0]),
            ["vms/again/1.1/console.log", "vms/again/1.2/console.log"]
        );
        assert!(page.contains(">try 1 crashed<") && page.contains(">try 2 passed<"), "{page}");
        // The crash is a group, which the journal alone has.
        assert!(page.contains("<h2>Groups: 1</h2>") && page.contains("it panicked: no room"));
    }

    #[test]
    fn page_that_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("results");
        fs::create_dir(&root).unwrap();
        let file = Destination::open(&root.join(results::INDEX)).unwrap();
        let mut page = IndexPage::new(file, root.clone(), |_| false);
        fs::remove_dir(&root).unwrap();
        let mut farm = fixture::ScriptedFarm::new(0);
        farm.finish();
        let failed = farm.events.iter().map(|event| page.report(event)).filter(Result::is_err);
        assert_eq!(failed.count(), 1);
    }
}
