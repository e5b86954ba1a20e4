//! Merges the results directories of a suite's parts, run on several hosts, into one.
//!
//! The result is what one farm would have left that had run the whole suite: a journal in the order of
//! time, with one start and one end, and the files of each try. The directory is made beside its final
//! place and renamed in one step. Paths in a journal are not trusted: nothing outside an input is read,
//! nothing outside the output written.
//!
//! Owns the union of results and the refusal of contradictory ones; refuses to own their format
//! (`journal`, `results`) and the copying of files (`copy`). Called by the command line.

mod copy;
mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nmiscope_report::atomic_file::{self, PendingDirectory};

use super::event::{
    EVENT_SCHEMA_VERSION, EventKind, FarmEvent, FarmFinished, FarmStarted, Id, Status, VmFinished,
    VmStarted,
};
use super::timestamp::Timestamp;
use super::{journal, relative_path, results};

/// Summary of a merge, for people and for the exit code.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeSummary {
    /// Start event of the merged journal.
    pub started: FarmStarted,
    /// End event of the merged journal.
    pub finished: FarmFinished,
    /// Number of tries in the merged journal.
    pub tries: u64,
    /// Parts of the suite that no input covers, as in `hash:2/8`; at most ten.
    pub missing: Vec<String>,
    /// Further problems with the inputs, one sentence each.
    pub warnings: Vec<String>,
}

/// Merges results directories into a new one, `output`.
///
/// # Errors
/// Fails if an input cannot be read, two inputs have different results of the same try, or `output` is not
/// empty or cannot be written.
pub fn merge(inputs: &[PathBuf], output: &Path) -> anyhow::Result<MergeSummary> {
    let failed = || format!("failed to make {}", output.display());
    match fs::read_dir(output).map(|mut entries| entries.next().is_some()) {
        Ok(true) => bail!("{}: it is not empty", failed()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    let mut merged = Merged::default();
    for input in inputs {
        merged.add(input)?;
    }
    let folder = atomic_file::folder_of(output);
    fs::create_dir_all(folder).with_context(failed)?;
    atomic_file::remove_abandoned(output);
    let pending = PendingDirectory::new(output).with_context(failed)?;
    let summary = merged.write(pending.path())?;
    pending.persist(output).with_context(failed)?;
    Ok(summary)
}

/// A try with the directory it comes from.
#[derive(Debug)]
struct Try {
    /// Results directory of the try.
    root: PathBuf,
    /// Time and contents of its start event; `None` if the journal has none.
    started: Option<(Timestamp, VmStarted)>,
    /// Time and contents of its end event; `None` if the journal has none.
    finished: Option<(Timestamp, VmFinished)>,
}

impl Try {
    fn directory(&self) -> Option<&Path> {
        let finished = self.finished.as_ref().map(|(_, finished)| &finished.directory);
        let started = self.started.as_ref().map(|(_, started)| &started.directory);
        finished.or(started).map(PathBuf::as_path)
    }

    /// Returns the try's journal entries, without the directory they come from.
    fn entries(&self) -> impl PartialEq + '_ {
        (&self.started, &self.finished)
    }

    fn events(self) -> impl Iterator<Item = FarmEvent> {
        let started = self
            .started
            .map(|(time, started)| FarmEvent { time, kind: EventKind::VmStarted(started) });
        let finished = self.finished.map(|(time, finished)| FarmEvent {
            time,
            kind: EventKind::VmFinished(Box::new(finished)),
        });
        started.into_iter().chain(finished)
    }
}

#[derive(Default)]
struct Merged {
    tries: BTreeMap<Id, Try>,
    /// Last start of each farm, with its time.
    starts: Vec<(Timestamp, FarmStarted)>,
    interruptions: Vec<FarmEvent>,
    /// Time of the first event in all inputs.
    first_time: Option<Timestamp>,
    last_time: Timestamp,
    warnings: Vec<String>,
}

impl Merged {
    fn add(&mut self, root: &Path) -> anyhow::Result<()> {
        let contents = journal::read(root)?;
        let shown = root.display();
        if let Some(reason) = contents.is_later() {
            bail!("failed to read {shown}: {reason}");
        }
        if !contents.damaged.is_empty() {
            let count = contents.damaged.len();
            self.warn(format!("{shown}: damaged lines in its journal: {count}"));
        }
        let mut start = None;
        let mut is_over = false;
        let mut tries: BTreeMap<Id, Try> = BTreeMap::new();
        let mut interruption = None;
        for event in contents.events {
            let time = event.time;
            self.first_time = Some(self.first_time.map_or(time, |first| first.min(time)));
            self.last_time = self.last_time.max(time);
            let new = || Try { root: root.into(), started: None, finished: None };
            match event.kind {
                EventKind::FarmStarted(started) => {
                    tries.retain(|id, _| !started.stale.contains(&id.name));
                    start = Some((time, started));
                    // This start resumes whatever was interrupted.
                    (is_over, interruption) = (false, None);
                }
                EventKind::VmStarted(started) => {
                    let id = started.id.clone();
                    id.forget_later(&mut tries);
                    tries.insert(id, Try { started: Some((time, started)), ..new() });
                }
                EventKind::VmFinished(finished) => {
                    let entry = tries.entry(finished.id.clone()).or_insert_with(new);
                    entry.finished = Some((time, *finished));
                }
                EventKind::FarmInterrupted { by } => {
                    interruption =
                        Some(FarmEvent { time, kind: EventKind::FarmInterrupted { by } });
                }
                EventKind::FarmFinished(_) => is_over = true,
            }
        }
        let Some(start) = start else { bail!("failed to read {shown}: its journal has no start") };
        if !is_over {
            self.warn(format!("{shown}: its farm has not finished"));
        }
        // Results that are given twice count as one part.
        if !self.starts.contains(&start) {
            self.starts.push(start);
            self.interruptions.extend(interruption);
        }
        tries.into_iter().try_for_each(|(id, new)| self.add_try(id, new))
    }

    /// Adds a try. A second copy of a try must equal the first, unless one of the two has no end.
    fn add_try(&mut self, id: Id, new: Try) -> anyhow::Result<()> {
        let Some(old) = self.tries.get(&id) else {
            self.tries.insert(id, new);
            return Ok(());
        };
        let both = || {
            let shown = format!("{}, run {}, try {}", id.name, id.run, id.attempt);
            format!("{shown} is in {} and in {}", old.root.display(), new.root.display())
        };
        if old.finished.is_some() && new.finished.is_some() {
            let root = |entry: &Try| {
                entry.directory().and_then(|path| relative_path::resolve(&entry.root, path).ok())
            };
            let same = old.entries() == new.entries()
                && copy::are_equal(root(old).as_deref(), root(&new).as_deref())
                    .with_context(|| format!("failed to compare: {}", both()))?;
            if !same {
                bail!("{}, with different results: merge one of the two only", both());
            }
            return Ok(());
        }
        let warning = format!("{}, and has ended in at most one of them", both());
        self.warn(warning);
        if new.finished.is_some() {
            self.tries.insert(id, new);
        }
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Writes the merged results into an empty directory.
    fn write(mut self, output: &Path) -> anyhow::Result<MergeSummary> {
        self.copy(output)?;
        let missing = self.check_parts();
        let finished = self.finished();
        let started = self.started(&missing);
        self.link(output)?;
        let tries = self.tries.len() as u64;
        let first = FarmEvent {
            time: self.first_time.unwrap_or_default(),
            kind: EventKind::FarmStarted(started.clone()),
        };
        let last =
            FarmEvent { time: self.last_time, kind: EventKind::FarmFinished(finished.clone()) };
        let mut between: Vec<FarmEvent> =
            self.tries.into_values().flat_map(Try::events).chain(self.interruptions).collect();
        between.sort_by_key(|event| event.time);
        write_journal(output, [first].iter().chain(&between).chain([&last]))?;
        Ok(MergeSummary { started, finished, tries, missing, warnings: self.warnings })
    }

    /// Copies the files of all tries. A try whose directory lies outside its results keeps no files.
    fn copy(&mut self, output: &Path) -> anyhow::Result<()> {
        let mut taken: BTreeMap<PathBuf, Id> = BTreeMap::new();
        let mut warnings = Vec::new();
        for (id, entry) in &mut self.tries {
            let Some(relative) = entry.directory().map(Path::to_owned) else { continue };
            let shown = || format!("{}: the files of {}", entry.root.display(), id.name);
            let from = match relative_path::resolve(&entry.root, &relative) {
                Ok(from) => from,
                Err(refused) => {
                    warnings.push(format!("{} are not copied: {refused}", shown()));
                    clear_paths(entry);
                    continue;
                }
            };
            // A directory within another's would be overwritten just the same.
            let other = relative.ancestors().find_map(|path| taken.get(path));
            if let Some(other) = other {
                bail!(
                    "{} and of {} share a directory: {}",
                    shown(),
                    other.name,
                    relative.display()
                );
            }
            let to = output.join(&relative);
            let failed = || format!("failed to copy {} to {}", from.display(), output.display());
            match copy::tree(&from, &to) {
                Ok(left) => warnings.extend(left.into_iter().map(|path| {
                    format!(
                        "{} is not copied: it is neither a file nor a directory",
                        path.display()
                    )
                })),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
                    warnings.push(format!("{} do not exist", shown()));
                }
                Err(error) => return Err(error).with_context(failed),
            }
            taken.insert(relative, id.clone());
        }
        self.warnings.extend(warnings);
        Ok(())
    }

    fn starts(&self) -> impl Iterator<Item = &FarmStarted> {
        self.starts.iter().map(|(_, start)| start)
    }

    /// Returns the missing parts, and adds warnings about the present ones.
    fn check_parts(&mut self) -> Vec<String> {
        let parts = self.starts().map(|start| start.partition.as_deref());
        let (missing, oddities) = parts::missing(parts);
        self.warnings.extend(oddities);
        missing
    }

    /// Combines the start events into one.
    fn started(&self, missing: &[String]) -> FarmStarted {
        let each = |field: fn(&FarmStarted) -> &str| {
            let all: BTreeSet<&str> = self.starts().map(field).collect();
            all.into_iter().collect::<Vec<_>>().join(", ")
        };
        let parts = self.starts().filter_map(|start| start.partition.as_deref());
        let parts: BTreeSet<&str> = parts.collect();
        let seeds: BTreeSet<Option<u64>> = self.starts().map(|start| start.seed).collect();
        let lost: BTreeSet<&String> = self.starts().flat_map(|start| &start.lost).collect();
        let sum =
            |field: fn(&FarmStarted) -> u64| self.starts().map(field).fold(0, u64::saturating_add);
        FarmStarted {
            schema_version: EVENT_SCHEMA_VERSION,
            tool: each(|start| &start.tool),
            suite: each(|start| &start.suite),
            host: each(|start| &start.host),
            planned: sum(|start| start.planned),
            done: 0,
            lost: lost.into_iter().cloned().collect(),
            stale: Vec::new(),
            seed: seeds.first().copied().flatten().filter(|_| seeds.len() == 1),
            partition: (!missing.is_empty())
                .then(|| parts.into_iter().collect::<Vec<_>>().join(", ")),
            cpus: u32::try_from(sum(|start| start.cpus.into())).unwrap_or(u32::MAX),
            memory_bytes: sum(|start| start.memory_bytes),
        }
    }

    /// Combines the end events into one.
    fn finished(&self) -> FarmFinished {
        let mut runs: BTreeMap<(&str, u32), &VmFinished> = BTreeMap::new();
        // Tries are in order, so the last try with an end remains for each run.
        for (id, entry) in &self.tries {
            if let Some((_, finished)) = &entry.finished {
                runs.insert((&id.name, id.run), finished);
            }
        }
        // Runs that were to be retried, or were interrupted, are not finished.
        runs.retain(|_, end| !end.again && end.status != Status::Interrupted);
        let mut counts = BTreeMap::new();
        for end in runs.values() {
            *counts.entry(end.status).or_insert(0) += 1;
        }
        let failed = || runs.values().filter(|end| end.status != Status::Pass);
        let signatures: BTreeSet<&str> =
            failed().filter_map(|end| Some(end.hang.as_ref()?.signature.as_str())).collect();
        let planned = self.starts().map(|start| start.planned).fold(0, u64::saturating_add);
        let elapsed = self.last_time.ms_since(self.first_time.unwrap_or(self.last_time));
        FarmFinished {
            counts,
            flaky: runs.values().filter(|end| end.flaky).count() as u64,
            known: failed().filter(|end| end.known.is_some()).count() as u64,
            distinct_hangs: signatures.len() as u64,
            not_run: planned.saturating_sub(runs.len() as u64),
            elapsed_ms: elapsed as f64,
        }
    }

    /// Links each signature to its first try, as a farm does.
    fn link(&self, output: &Path) -> anyhow::Result<()> {
        let mut hangs: Vec<(Timestamp, &VmFinished)> = self
            .tries
            .values()
            .filter_map(|entry| entry.finished.as_ref())
            .filter(|(_, end)| end.status == Status::Hang && !end.directory.as_os_str().is_empty())
            .map(|(time, end)| (*time, end))
            .collect();
        hangs.sort_by_key(|(time, _)| *time);
        for (_, end) in hangs {
            let signature = end.hang.as_ref().map_or("", |hang| &hang.signature);
            // A journal from elsewhere may hold anything here.
            let is_one =
                signature.len() == 16 && signature.bytes().all(|is| is.is_ascii_hexdigit());
            if is_one {
                results::link_signature(output, signature, &end.directory)?;
            }
        }
        Ok(())
    }
}

/// Clears the paths, so that no reader looks for files outside the results.
fn clear_paths(entry: &mut Try) {
    if let Some((_, started)) = &mut entry.started {
        started.directory = PathBuf::new();
    }
    if let Some((_, finished)) = &mut entry.finished {
        finished.directory = PathBuf::new();
        finished.files.clear();
    }
}

fn write_journal<'a>(
    output: &Path,
    events: impl Iterator<Item = &'a FarmEvent>,
) -> anyhow::Result<()> {
    let path = output.join(journal::FILE);
    let failed = || format!("failed to write {}", path.display());
    let mut file = BufWriter::new(fs::File::create_new(&path).with_context(failed)?);
    for event in events {
        serde_json::to_writer(&mut file, event).with_context(failed)?;
        file.write_all(b"\n").with_context(failed)?;
    }
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).with_context(failed)?;
    file.sync_all().with_context(failed)
}

#[cfg(test)]
mod tests;
