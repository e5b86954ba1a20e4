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
use std::time::UNIX_EPOCH;

use anyhow::{Context, bail};

use super::glance::{self, Glance, NoReport};
use super::groups::{Groups, Run};
use super::stacks::IsPlumbing;
use super::{Skipped, Totals, Triage, work};
use crate::event::{Event, Id, Status, VmFinished, What};
use crate::{inside, journal};

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
pub struct Gathered {
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

impl Gathered {
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
pub fn gather(paths: &[PathBuf], is_plumbing: IsPlumbing) -> anyhow::Result<Gathered> {
    let mut gatherer = Gatherer::new(is_plumbing);
    for path in paths {
        let failed = || format!("failed to look at {}", path.display());
        let metadata = fs::metadata(path).with_context(failed)?;
        if metadata.is_dir() {
            fs::read_dir(path).with_context(failed)?;
            gatherer.directory(path);
        } else if !metadata.is_file() {
            bail!("{}: it is neither a directory nor a file", failed());
        } else {
            let report = gatherer.report(path, path, &metadata);
            gatherer.look_at(report.as_slice());
        }
    }
    Ok(gatherer.finish())
}

/// One try of a VM, or one report.
struct Try<'a> {
    run: Run,
    at_ms: u64,
    /// Its report, if there is one.
    report: Option<PathBuf>,
    /// What the journal says of it.
    said: Option<&'a VmFinished>,
}

struct Gatherer {
    is_plumbing: IsPlumbing,
    groups: Groups,
    totals: Totals,
    skipped: Vec<Skipped>,
    vms: BTreeMap<Arc<str>, Verdicts>,
    /// Journals and reports that have been read, by device and inode.
    seen: HashSet<(u64, u64)>,
    /// Tries of which a journal has told, by what they are and when they ended: those of parts are in
    /// what they were merged into as well.
    tries: HashSet<(Id, u64)>,
    sources: u64,
}

impl Gatherer {
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
    fn directory(&mut self, root: &Path) {
        let mut reports = Vec::new();
        let mut pending = vec![(root.to_owned(), 0)];
        let mut left = MAX_ENTRIES;
        while let Some((directory, depth)) = pending.pop() {
            let journal = directory.join(journal::FILE);
            if let Ok(metadata) = fs::symlink_metadata(&journal)
                && metadata.is_file()
            {
                if self.is_new(&metadata) {
                    self.results(&directory);
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
                            reports.extend(self.report(&path, root, &metadata));
                        }
                    }
                    _ => {}
                }
            }
        }
        self.look_at(&reports);
    }

    /// A report that belongs to no farm, named relative to what was given. `None` if it has been read.
    fn report(&mut self, path: &Path, root: &Path, metadata: &Metadata) -> Option<Try<'static>> {
        if !self.is_new(metadata) {
            return None;
        }
        let below = path.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
        let name = below.unwrap_or(path).to_string_lossy();
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Some(Try {
            run: Run { name: name.into(), source: self.new_source(), run: 1 },
            at_ms: modified.map_or(0, |since| since.as_millis() as u64),
            report: Some(path.into()),
            said: None,
        })
    }

    /// A farm's results.
    fn results(&mut self, root: &Path) {
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
        let all = last_of_each(&contents.events);
        let mut last: Vec<(&Id, u64, &VmFinished)> = all
            .iter()
            .filter_map(|(id, end)| end.map(|(at_ms, finished)| (id, at_ms, finished)))
            .collect();
        self.totals.unfinished += (all.len() - last.len()) as u64;
        last.retain(|&(id, at_ms, _)| self.tries.insert((id.clone(), at_ms)));
        let mut tries = Vec::new();
        for (at, &(id, at_ms, finished)) in last.iter().enumerate() {
            let same_run = |next: &Id| (&next.name, next.run) == (&id.name, id.run);
            let is_last_try = !last.get(at + 1).is_some_and(|(next, ..)| same_run(next));
            if is_last_try {
                self.totals.runs += 1;
                self.count(&id.name.as_str().into(), finished.status);
            }
            match finished.status {
                Status::Pass => {
                    let verdicts = self.vms.entry(id.name.as_str().into()).or_default();
                    verdicts.flaky |= finished.flaky;
                }
                Status::Hang | Status::Crash | Status::Timeout => {
                    let run = Run { name: id.name.as_str().into(), source, run: id.run };
                    let report = self.report_of(root, finished);
                    tries.push(Try { run, at_ms, report, said: Some(finished) });
                }
                other => self.ungrouped(other),
            }
        }
        self.look_at(&tries);
    }

    /// Where the report of a try is; `None` if there is none, or it is not where it should be.
    fn report_of(&mut self, root: &Path, finished: &VmFinished) -> Option<PathBuf> {
        let relative = finished.directory.join(finished.files.get(REPORT)?);
        match inside(root, &relative) {
            Ok(path) => Some(path),
            Err(refused) => {
                self.skip(&root.join(journal::FILE), refused.to_string());
                None
            }
        }
    }

    fn look_at(&mut self, tries: &[Try<'_>]) {
        let is_plumbing = self.is_plumbing;
        let read =
            |one: &Try<'_>| one.report.as_deref().map(|path| glance::read(path, is_plumbing));
        work::spread(tries, read, |one, result| self.take(one, result));
    }

    /// What has come of a try.
    fn take(&mut self, one: &Try<'_>, read: Option<Result<Glance, NoReport>>) {
        let (mut findings, mut status) = (Vec::new(), None);
        let mut report = None;
        match read {
            Some(Ok(glance)) => {
                self.totals.reports += 1;
                (findings, status) = (glance.findings, Some(glance.status));
                report = one.report.as_ref();
            }
            Some(Err(error)) => {
                if let Some(path) = &one.report {
                    self.skip(path, format!("{:#}", anyhow::Error::from(error)));
                }
            }
            None => {}
        }
        if let Some(said) = one.said {
            status = Some(said.status);
            if findings.is_empty() {
                findings.extend(glance::of_event(said));
            }
        } else if let Some(status) = status {
            self.totals.runs += 1;
            let failed = if findings.is_empty() { status } else { Status::Hang };
            self.count(&one.run.name, failed);
        }
        if findings.is_empty() {
            status.into_iter().for_each(|status| self.ungrouped(status));
        }
        for finding in findings {
            self.groups.add(&one.run, one.at_ms, report.cloned(), finding);
        }
    }

    fn count(&mut self, name: &Arc<str>, status: Status) {
        let verdicts = self.vms.entry(name.clone()).or_default();
        match status {
            Status::Pass => verdicts.passed = true,
            Status::Fail | Status::Hang | Status::Crash | Status::Timeout => verdicts.failed = true,
            Status::Starved | Status::Broken | Status::Interrupted => {}
        }
    }

    fn ungrouped(&mut self, status: Status) {
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

    fn finish(self) -> Gathered {
        let Self { is_plumbing, groups, totals, mut skipped, vms, .. } = self;
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Gathered { triage: Triage { groups: groups.finish(is_plumbing), totals, skipped }, vms }
    }
}

/// All tries, in order, with the last end of each: one that was interrupted may have been done again.
fn last_of_each(events: &[Event]) -> BTreeMap<Id, Option<(u64, &VmFinished)>> {
    let mut last = BTreeMap::new();
    for event in events {
        match &event.what {
            What::VmStarted(started) => {
                started.id.forget_later(&mut last);
                last.insert(started.id.clone(), None);
            }
            What::VmFinished(finished) => {
                last.insert(finished.id.clone(), Some((event.at_ms, &**finished)));
            }
            _ => {}
        }
    }
    last
}
