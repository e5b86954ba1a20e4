//! `nmiscope report DIR`: the report in a directory, or the list of those below it.
//!
//! Owns the names that reports have and the walk over directories; refuses to own the reading of a core
//! (`session::offline`). Called by `report`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use nmiscope_report::json;
use nmiscope_report::redact::{Pseudonyms, Redact as _};
use nmiscope_report::sanitize::line;

/// File names of reports as JSON, in the order in which a directory is searched: of a farm's VM, and of a run
/// without `--json`.
const REPORTS: [&str; 2] = ["report.json", "postmortem.json"];

/// File names of cores, in the same order.
const CORES: [&str; 2] = ["hang.core", "nmiscope.core"];

/// Maximum depth of a report below a directory: a farm's are at 4, below a directory of results.
const MAX_DEPTH: usize = 8;

/// Maximum number of files and directories visited.
const MAX_ENTRIES: usize = 100_000;

/// Maximum number of reports listed.
const MAX_LISTED: usize = 1000;

/// Maximum number of bytes read of a report, for its summary.
const MAX_REPORT: u64 = 64 << 20;

/// Reports that a directory has.
#[derive(Debug, PartialEq, Eq)]
pub enum Reports {
    /// The only file, which is opened.
    One(PathBuf),
    /// Several files, sorted by path, which are listed.
    Many(Vec<PathBuf>),
}

/// Finds the report in a directory, or else those below it. With `from_core`, a core precedes the report that
/// was made of it, since more can be made of its memory.
///
/// # Errors
/// There is none.
pub fn find(directory: &Path, from_core: bool) -> anyhow::Result<Reports> {
    let (first, second) = if from_core { (CORES, REPORTS) } else { (REPORTS, CORES) };
    let names = || first.iter().chain(&second);
    if let Some(path) = names().map(|name| directory.join(name)).find(|path| path.is_file()) {
        return Ok(Reports::One(path));
    }
    let mut found = below(directory, names)?;
    found.sort();
    match found.len() {
        0 => bail!(
            "{} has no report: none of {} is in it or below it",
            directory.display(),
            [&REPORTS[..], &CORES[..]].concat().join(", ")
        ),
        1 => Ok(Reports::One(found.remove(0))),
        _ => Ok(Reports::Many(found)),
    }
}

/// Finds a report in each directory below this one. Symbolic links are not followed: a farm has one to a VM's
/// directory for each signature.
fn below<'a, I: Iterator<Item = &'a &'a str>>(
    root: &Path,
    names: impl Fn() -> I,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![(root.to_owned(), 0)];
    let mut left = MAX_ENTRIES;
    while let Some((directory, depth)) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => {
                return Err(anyhow!(error).context(format!("failed to read {}", root.display())));
            }
            Err(_) => continue,
        };
        let mut files = Vec::new();
        for entry in entries.flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                bail!(
                    "{} has more than {MAX_ENTRIES} files: name a directory in it",
                    root.display()
                );
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                    pending.push((entry.path(), depth + 1));
                }
                Ok(kind) if kind.is_file() => files.push(entry.file_name()),
                _ => {}
            }
        }
        let is_there = |name: &&&str| files.iter().any(|file| file.to_str() == Some(**name));
        found.extend(names().find(is_there).map(|name| directory.join(name)));
    }
    Ok(found)
}

/// Lists reports, one a line, each with its summary; with `redact`, with that of the redacted report.
pub fn list(paths: &[PathBuf], redact: bool) -> String {
    let shown = &paths[..paths.len().min(MAX_LISTED)];
    let names: Vec<String> = shown.iter().map(|path| line(&path.to_string_lossy())).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (path, name) in shown.iter().zip(names) {
        text.push_str(&format!("{name:<width$}  {}\n", summary(path, redact)));
    }
    if let more @ 1.. = paths.len() - shown.len() {
        text.push_str(&format!("and {more} more\n"));
    }
    text
}

/// Returns what a report says in one line, or why it says nothing.
fn summary(path: &Path, redact: bool) -> String {
    if path.extension().is_some_and(|extension| extension == "core") {
        return "a core".into();
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_REPORT).read_to_end(&mut bytes));
    match read.map_err(anyhow::Error::from).and_then(|_| Ok(json::read(&bytes)?)) {
        Ok(mut report) => {
            if redact {
                report.redact(&mut Pseudonyms::default());
            }
            line(&report.summary)
        }
        Err(error) => line(&format!("unreadable: {error:#}")),
    }
}
