//! Scans paths for failures: finds results directories and reports below them, and reads each once.
//!
//! In a results directory, the journal names the failed tries, and their reports describe the failures.
//! The journal alone counts the hang of a report that cannot be read. In a directory without a
//! journal, every JSON file may be a report. Symbolic links are followed only if they were given as paths.
//!
//! Owns the walk over directories and the list of skipped files; refuses to own the reading of a report
//! (`report_summary`) and the groups (`groups`). Called by the command line.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::days::RunDays;
use super::groups::{Groups, RunKey};
use super::report_summary::{self, ReportSummary, UnreadableReport};
use super::stacks::IsPlumbing;
use super::{Skipped, Totals, TriageResult, parallel};
use crate::event::{EventKind, FarmEvent, Id, Status, VmFinished};
use crate::timestamp::Timestamp;
use crate::{journal, relative_path};

/// Maximum depth of a report below a given directory.
const MAX_DEPTH: usize = 16;

/// Maximum number of files and directories visited below a given directory.
const MAX_ENTRIES: usize = 1_000_000;

/// Maximum number of skipped files that are named.
const MAX_SKIPPED: usize = 1000;

/// Key of the report among a try's files, as events spell it.
const REPORT: &str = "report";

/// Groups of failures, and the verdicts on each VM.
#[derive(Debug, Default)]
pub struct ScanResult {
    /// Groups and totals of the scan.
    pub triage: TriageResult,
    /// Verdicts by the VM's name.
    vms: BTreeMap<Arc<str>, Verdicts>,
}

/// Verdicts on a VM in all its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Verdicts {
    passed: bool,
    failed: bool,
    /// True if the VM passed after a failed try.
    flaky: bool,
}

impl ScanResult {
    /// True if there is a verdict on a VM of that name.
    pub fn has_run(&self, name: &str) -> bool {
        self.vms.get(name).is_some_and(|verdicts| verdicts.passed || verdicts.failed)
    }

    /// Returns the VMs that passed after a retry, or in some of their runs only.
    pub fn flaky(&self) -> BTreeSet<&str> {
        let flaky = |verdicts: &Verdicts| verdicts.flaky || (verdicts.passed && verdicts.failed);
        self.vms.iter().filter(|(_, verdicts)| flaky(verdicts)).map(|(name, _)| &**name).collect()
    }
}

/// Scans everything below these paths: results directories, directories of reports, and reports. A try or
/// report found twice counts once. `is_plumbing` is true for functions that distinguish no stack from
/// another.
///
/// # Errors
/// Fails if a path does not exist or cannot be read.
pub fn scan(paths: &[PathBuf], is_plumbing: IsPlumbing) -> anyhow::Result<ScanResult> {
    let mut scanner = Scanner::new(is_plumbing);
    for path in paths {
        let failed = || format!("failed to read {}", path.display());
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

/// A try of a VM, or a report that belongs to no farm.
struct Try<'a> {
    run: RunKey,
    /// Time of its end, or for a report that belongs to no farm when its file changed.
    time: Timestamp,
    /// Path of its report; `None` if there is none.
    report: Option<PathBuf>,
    /// End event in the journal; `None` for a report that belongs to no farm.
    end: Option<&'a VmFinished>,
}

struct Scanner {
    is_plumbing: IsPlumbing,
    groups: Groups,
    totals: Totals,
    skipped: Vec<Skipped>,
    vms: BTreeMap<Arc<str>, Verdicts>,
    days: RunDays,
    /// Device and inode numbers of the journals and reports that have been read.
    seen: HashSet<(u64, u64)>,
    /// Tries found in journals, with the times of their ends: a merged journal repeats the tries of its
    /// parts.
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
            days: RunDays::default(),
            seen: HashSet::new(),
            tries: HashSet::new(),
            sources: 0,
        }
    }

    /// Scans everything below a directory, and skips what cannot be read.
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
                    let reason =
                        format!("it holds more than {MAX_ENTRIES} files: not all were scanned");
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
                    Ok(kind) if kind.is_dir() => self.skip(&path, "it is nested too deeply".into()),
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

    /// Describes a report that belongs to no farm, named relative to `root`; `None` if it has been read
    /// before.
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
            run: RunKey { name: name.into(), source: self.new_source(), run: 1 },
            time: modified.map_or_else(Timestamp::default, Into::into),
            report: Some(path.into()),
            end: None,
        })
    }

    /// Adds the tries of a farm's results.
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
            self.skip(&journal, format!("damaged lines: {count}, the first is line {line}"));
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
                self.count_verdict(&id.name.as_str().into(), time, finished.status);
            }
            match finished.status {
                Status::Pass => {
                    let verdicts = self.vms.entry(id.name.as_str().into()).or_default();
                    verdicts.flaky |= finished.flaky;
                }
                Status::Hang | Status::Crash | Status::Timeout => {
                    let run = RunKey { name: id.name.as_str().into(), source, run: id.run };
                    let report = self.report_of(root, finished);
                    tries.push(Try { run, time, report, end: Some(finished) });
                }
                other => self.count_ungrouped(other),
            }
        }
        self.read_reports(&tries);
    }

    /// Returns the path of a try's report; `None` if there is none, or the path leads outside of the
    /// results.
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

    /// Adds a try with the failures in its report, or else those in its end event.
    fn add_try(&mut self, one: &Try<'_>, read: Option<Result<ReportSummary, UnreadableReport>>) {
        let (mut failures, mut status) = (Vec::new(), None);
        let mut report = None;
        let mut time = one.time;
        match read {
            Some(Ok(summary)) => {
                self.totals.reports += 1;
                // A copy of a report changes the time of its file.
                time = summary.captured_at.filter(|_| one.end.is_none()).unwrap_or(time);
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
            self.count_verdict(&one.run.name, time, failed);
        }
        if failures.is_empty() {
            status.into_iter().for_each(|status| self.count_ungrouped(status));
        }
        for failure in failures {
            self.groups.add(&one.run, time, report.cloned(), failure);
        }
    }

    /// Counts the verdict on a run that ended at this time.
    fn count_verdict(&mut self, name: &Arc<str>, time: Timestamp, status: Status) {
        self.days.add(time, is_failure(status));
        let verdicts = self.vms.entry(name.clone()).or_default();
        match status {
            Status::Pass => verdicts.passed = true,
            other => verdicts.failed |= is_failure(other),
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
        let Self { is_plumbing, groups, totals, mut skipped, vms, days, .. } = self;
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        ScanResult {
            triage: TriageResult {
                groups: groups.finish(is_plumbing),
                totals,
                days: days.runs(),
                skipped,
            },
            vms,
        }
    }
}

/// True for a status that says that the guest misbehaved.
fn is_failure(status: Status) -> bool {
    status.is_verdict() && status != Status::Pass
}

/// Returns all tries in order, each with its last end: an interrupted try may have been repeated.
fn last_end_of_each_try(events: &[FarmEvent]) -> BTreeMap<Id, Option<(Timestamp, &VmFinished)>> {
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
