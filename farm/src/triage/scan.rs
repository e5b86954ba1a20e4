//! From paths to groups: finds results directories and reports below what was given, and reads each
//! once.
//!
//! Of a results directory the journal says which tries went wrong, and their reports how. Where such
//! a report cannot be read, the journal says enough to count the hang. In a directory without a
//! journal every JSON file may be a report. Symbolic links are followed only where they were given.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::groups::{Groups, Run};
use super::report_summary::{self, ReportError, ReportSummary};
use super::stacks::IsPlumbing;
use super::{Skipped, Totals, Triage, parallel};
use crate::event::{Event, EventKind, Id, Status, VmFinished};
use crate::timestamp::Timestamp;
use crate::{journal, relative_path};

/// How far below a directory its reports may be.
const MAX_DEPTH: usize = 16;

/// How many files and directories below one that was given are looked at.
const MAX_ENTRIES: usize = 1_000_000;

/// How many of the files that were skipped are named.
const MAX_SKIPPED: usize = 1000;

/// The name of a VM's report among its files, as events have it.
const REPORT: &str = "report";

/// What was gathered: the groups, and how each VM went.
#[derive(Debug, Default)]
pub struct ScanResult {
    /// The groups.
    pub triage: Triage,
    /// By the VM's name.
    vms: BTreeMap<Arc<str>, Verdicts>,
}

/// How a VM went, in all its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Verdicts {
    passed: bool,
    failed: bool,
    /// It passed at a second try.
    flaky: bool,
}

impl ScanResult {
    /// Whether there is a verdict on a VM of that name.
    pub fn has_run(&self, name: &str) -> bool {
        self.vms.get(name).is_some_and(|verdicts| verdicts.passed || verdicts.failed)
    }

    /// VMs that passed after a retry, or in some of their runs only.
    pub fn flaky(&self) -> BTreeSet<&str> {
        let flaky = |verdicts: &Verdicts| verdicts.flaky || (verdicts.passed && verdicts.failed);
        self.vms.iter().filter(|(_, verdicts)| flaky(verdicts)).map(|(name, _)| &**name).collect()
    }
}

/// Gathers all that is below these paths: results directories, directories with reports in them, and
/// reports. What is there twice counts once. `is_plumbing` is for stacks: what all have in common tells
/// none from another.
///
/// # Errors
/// A path is not there, or cannot be looked at.
pub fn scan(paths: &[PathBuf], is_plumbing: IsPlumbing) -> anyhow::Result<ScanResult> {
    let mut scanner = Scanner::new(is_plumbing);
    for path in paths {
        let failed = || format!("failed to look at {}", path.display());
        let metadata = fs::metadata(path).with_context(failed)?;
        if metadata.is_dir() {
            fs::read_dir(path).with_context(failed)?;
            scanner.add_directory(path);
        } else if !metadata.is_file() {
            bail!("{}: it is neither a directory nor a file", failed());
        } else {
            let report = scanner.lone_report(path, path, &metadata);
            scanner.read_reports(report.as_slice());
        }
    }
    Ok(scanner.finish())
}

/// One try of a VM, or one report.
struct Try<'a> {
    run: Run,
    time: Timestamp,
    /// Its report, if there is one.
    report: Option<PathBuf>,
    /// What the journal says of it.
    end: Option<&'a VmFinished>,
}

struct Scanner {
    is_plumbing: IsPlumbing,
    groups: Groups,
    totals: Totals,
    skipped: Vec<Skipped>,
    vms: BTreeMap<Arc<str>, Verdicts>,
    /// Journals and reports that have been read, by device and inode.
    seen: HashSet<(u64, u64)>,
    /// Tries of which a journal has told, by what they are and when they ended: those of parts are in
    /// what they were merged into as well.
    tries: HashSet<(Id, Timestamp)>,
    sources: u64,
}

impl Scanner {
    fn new(is_plumbing: IsPlumbing) -> Self {
        Self {
            is_plumbing,
            groups: Groups::default(),
            totals: Totals::default(),
            skipped: Vec::new(),
            vms: BTreeMap::new(),
            seen: HashSet::new(),
            tries: HashSet::new(),
            sources: 0,
        }
    }

    /// Everything below a directory. What cannot be read is skipped.
    fn add_directory(&mut self, root: &Path) {
        let mut reports = Vec::new();
        let mut pending = vec![(root.to_owned(), 0)];
        let mut left = MAX_ENTRIES;
        while let Some((directory, depth)) = pending.pop() {
            let journal = directory.join(journal::FILE);
            if let Ok(metadata) = fs::symlink_metadata(&journal)
                && metadata.is_file()
            {
                if self.is_new(&metadata) {
                    self.add_results(&directory);
                }
                continue;
            }
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    self.skip(&directory, format!("it cannot be read: {error}"));
                    continue;
                }
            };
            for entry in entries.flatten() {
                if left == 0 {
                    let reason = format!(
                        "there are more than {MAX_ENTRIES} files in it: not all were looked at"
                    );
                    self.skip(root, reason);
                    pending.clear();
                    break;
                }
                left -= 1;
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                        pending.push((path, depth + 1))
                    }
                    Ok(kind) if kind.is_dir() => self.skip(&path, "it is too far below".into()),
                    Ok(kind)
                        if kind.is_file() && path.extension().is_some_and(|is| is == "json") =>
                    {
                        if let Ok(metadata) = entry.metadata() {
                            reports.extend(self.lone_report(&path, root, &metadata));
                        }
                    }
                    _ => {}
                }
            }
        }
        self.read_reports(&reports);
    }

    /// A report that belongs to no farm, named relative to what was given. `None` if it has been read.
    fn lone_report(
        &mut self,
        path: &Path,
        root: &Path,
        metadata: &Metadata,
    ) -> Option<Try<'static>> {
        if !self.is_new(metadata) {
            return None;
        }
        let below = path.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
        let name = below.unwrap_or(path).to_string_lossy();
        let modified = metadata.modified().ok();
        Some(Try {
            run: Run { name: name.into(), source: self.new_source(), run: 1 },
            time: modified.map_or_else(Timestamp::default, Into::into),
            report: Some(path.into()),
            end: None,
        })
    }

    /// A farm's results.
    fn add_results(&mut self, root: &Path) {
        let journal = root.join(journal::FILE);
        let contents = match journal::read(root) {
            Ok(contents) => contents,
            Err(error) => return self.skip(&journal, format!("{error:#}")),
        };
        if let Some(reason) = contents.is_later() {
            return self.skip(&journal, reason);
        }
        if let Some(line) = contents.damaged.first() {
            let count = contents.damaged.len();
            self.skip(
                &journal,
                format!("lines that are no events: {count}, the first is line {line}"),
            );
        }
        self.totals.results += 1;
        let source = self.new_source();
        let all = last_end_of_each_try(&contents.events);
        let mut last: Vec<(&Id, Timestamp, &VmFinished)> = all
            .iter()
            .filter_map(|(id, end)| end.map(|(time, finished)| (id, time, finished)))
            .collect();
        self.totals.unfinished += (all.len() - last.len()) as u64;
        last.retain(|&(id, time, _)| self.tries.insert((id.clone(), time)));
        let mut tries = Vec::new();
        for (at, &(id, time, finished)) in last.iter().enumerate() {
            let same_run = |next: &Id| (&next.name, next.run) == (&id.name, id.run);
            let is_last_try = !last.get(at + 1).is_some_and(|(next, ..)| same_run(next));
            if is_last_try {
                self.totals.runs += 1;
                self.count_verdict(&id.name.as_str().into(), finished.status);
            }
            match finished.status {
                Status::Pass => {
                    let verdicts = self.vms.entry(id.name.as_str().into()).or_default();
                    verdicts.flaky |= finished.flaky;
                }
                Status::Hang | Status::Crash | Status::Timeout => {
                    let run = Run { name: id.name.as_str().into(), source, run: id.run };
                    let report = self.report_of(root, finished);
                    tries.push(Try { run, time, report, end: Some(finished) });
                }
                other => self.count_ungrouped(other),
            }
        }
        self.read_reports(&tries);
    }

    /// Where the report of a try is; `None` if there is none, or it is not where it should be.
    fn report_of(&mut self, root: &Path, finished: &VmFinished) -> Option<PathBuf> {
        let relative = finished.directory.join(finished.files.get(REPORT)?);
        match relative_path::resolve(root, &relative) {
            Ok(path) => Some(path),
            Err(refused) => {
                self.skip(&root.join(journal::FILE), refused.to_string());
                None
            }
        }
    }

    fn read_reports(&mut self, tries: &[Try<'_>]) {
        let is_plumbing = self.is_plumbing;
        let read = |one: &Try<'_>| {
            one.report.as_deref().map(|path| report_summary::read(path, is_plumbing))
        };
        parallel::for_each(tries, read, |one, result| self.add_try(one, result));
    }

    /// What has come of a try.
    fn add_try(&mut self, one: &Try<'_>, read: Option<Result<ReportSummary, ReportError>>) {
        let (mut failures, mut status) = (Vec::new(), None);
        let mut report = None;
        match read {
            Some(Ok(summary)) => {
                self.totals.reports += 1;
                (failures, status) = (summary.failures, Some(summary.status));
                report = one.report.as_ref();
            }
            Some(Err(error)) => {
                if let Some(path) = &one.report {
                    self.skip(path, format!("{:#}", anyhow::Error::from(error)));
                }
            }
            None => {}
        }
        if let Some(end) = one.end {
            status = Some(end.status);
            if failures.is_empty() {
                failures.extend(report_summary::failure_from_event(end));
            }
        } else if let Some(status) = status {
            self.totals.runs += 1;
            let failed = if failures.is_empty() { status } else { Status::Hang };
            self.count_verdict(&one.run.name, failed);
        }
        if failures.is_empty() {
            status.into_iter().for_each(|status| self.count_ungrouped(status));
        }
        for failure in failures {
            self.groups.add(&one.run, one.time, report.cloned(), failure);
        }
    }

    fn count_verdict(&mut self, name: &Arc<str>, status: Status) {
        let verdicts = self.vms.entry(name.clone()).or_default();
        match status {
            Status::Pass => verdicts.passed = true,
            Status::Fail | Status::Hang | Status::Crash | Status::Timeout => verdicts.failed = true,
            Status::Starved | Status::Broken | Status::Interrupted => {}
        }
    }

    fn count_ungrouped(&mut self, status: Status) {
        if status != Status::Pass {
            *self.totals.ungrouped.entry(status).or_default() += 1;
        }
    }

    fn skip(&mut self, path: &Path, reason: String) {
        self.totals.skipped += 1;
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push(Skipped { path: path.display().to_string(), reason });
        }
    }

    fn is_new(&mut self, metadata: &Metadata) -> bool {
        self.seen.insert((metadata.dev(), metadata.ino()))
    }

    fn new_source(&mut self) -> u64 {
        self.sources += 1;
        self.sources
    }

    fn finish(self) -> ScanResult {
        let Self { is_plumbing, groups, totals, mut skipped, vms, .. } = self;
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        ScanResult { triage: Triage { groups: groups.finish(is_plumbing), totals, skipped }, vms }
    }
}

/// All tries, in order, with the last end of each: one that was interrupted may have been done again.
fn last_end_of_each_try(events: &[Event]) -> BTreeMap<Id, Option<(Timestamp, &VmFinished)>> {
    let mut last = BTreeMap::new();
    for event in events {
        match &event.kind {
            EventKind::VmStarted(started) => {
                started.id.forget_later(&mut last);
                last.insert(started.id.clone(), None);
            }
            EventKind::VmFinished(finished) => {
                last.insert(finished.id.clone(), Some((event.time, &**finished)));
            }
            _ => {}
        }
    }
    last
}
