//! What stands at the end of a run, for people: how many ended how, each distinct hang with where to
//! look, and each other failure.

use std::fmt::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use nmiscope_report::units::plural;

use super::runs::{Group, Runs, Try};
use super::words::{duration, finding, line, name, path, signature, title, verb};
use crate::event::{FarmFinished, Status};
use crate::{journal, results};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// So many distinct hangs are shown.
const HANGS: usize = 50;
/// So many failures that are no hangs.
const FAILURES: usize = 20;
/// Titles are padded to at most so many characters.
const MAX_TITLE: usize = 48;

/// The files of a try that help to go on, in the order in which one opens them.
const FILES: [&str; 3] = ["report", "core", "console"];

/// All of it. `root` is where the results are.
pub fn summary(finished: &FarmFinished, runs: &Runs, root: &Path) -> String {
    let mut text = format!(" {DIM}────────────{DIM:#}\n {}\n", headline(finished));
    let groups = runs.groups();
    let titles: Vec<String> = groups.iter().take(HANGS).map(|group| title(group.hang)).collect();
    let longest = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
    for (group, title) in groups.iter().zip(titles) {
        show_group(&mut text, group, &title, longest.min(MAX_TITLE), root);
    }
    if let more @ 1.. = groups.len().saturating_sub(HANGS) {
        let _ = writeln!(text, " and {more} more; `nmiscope triage {}` shows them", path(root));
    }
    show_failures(&mut text, runs, root);
    if finished.not_run > 0 {
        let is_are = if finished.not_run == 1 { "is" } else { "are" };
        let left = format!("{} {is_are} left", plural(finished.not_run, "VM"));
        let _ = writeln!(text, " {BAD}{left}{BAD:#}: --resume goes on with what was not run");
    }
    text
}

/// How many ended how.
fn headline(finished: &FarmFinished) -> String {
    let all = finished.counts.values().sum::<u64>() + finished.not_run;
    let counts = counts(finished).into_iter().map(|(status, words)| {
        let style = if status == Some(Status::Pass) { GOOD } else { BAD };
        format!("{style}{words}{style:#}")
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    let duration = duration(finished.elapsed_ms);
    format!("{} in {duration}: {counts}{}", plural(all, "VM"), known(finished))
}

/// How many of the failures are known, to be said after all counts.
pub fn known(finished: &FarmFinished) -> String {
    match finished.known {
        0 => String::new(),
        1 => "; 1 failure is known".into(),
        many => format!("; {many} failures are known"),
    }
}

/// Each status that occurs, in words; `None` for what was not run.
pub fn counts(finished: &FarmFinished) -> Vec<(Option<Status>, String)> {
    let words = |(status, count): (&Status, &u64)| {
        let words = format!("{count} {}", verb(*status));
        let words = match status {
            Status::Pass if finished.flaky > 0 => format!("{words} ({} flaky)", finished.flaky),
            Status::Hang => format!("{words} ({} distinct)", finished.distinct_hangs),
            _ => words,
        };
        (Some(*status), words)
    };
    let there = finished.counts.iter().filter(|(_, count)| **count > 0).map(words);
    let not_run = (finished.not_run > 0).then(|| (None, format!("{} not run", finished.not_run)));
    let counts: Vec<_> = there.chain(not_run).collect();
    if counts.is_empty() { vec![(None, "nothing to run".into())] } else { counts }
}

fn show_group(text: &mut String, group: &Group<'_>, title: &str, width: usize, root: &Path) {
    let directory = root.join(results::short(&group.hang.signature));
    let directory = if group.first.end.directory.as_os_str().is_empty() {
        signature(group.hang)
    } else {
        format!("{}/", path(&directory))
    };
    let style = if group.known.is_some() { DIM } else { BAD };
    let pad = " ".repeat(width.saturating_sub(title.chars().count()));
    let _ = write!(text, " {directory}  {style}{title}{style:#}{pad}  {}", times(group));
    let files = FILES.iter().filter_map(|kind| group.first.end.files.get(*kind));
    let files: String = files.map(|file| format!("  {}", path(file))).collect();
    if !files.is_empty() {
        let _ = write!(text, " {files}");
    }
    if let Some(url) = group.known {
        let _ = write!(text, "   known: {}", line(url, super::words::SENTENCE));
    }
    text.push('\n');
}

/// How often a hang was seen.
pub fn times(group: &Group<'_>) -> String {
    match (group.count, group.flaky) {
        (count, 0) => format!("×{count}"),
        (0, flaky) => format!("×{flaky} flaky"),
        (count, flaky) => format!("×{count} and ×{flaky} flaky"),
    }
}

/// Those that did not hang, or of whose hang nothing is known.
fn show_failures(text: &mut String, runs: &Runs, root: &Path) {
    let is_in_group = |one: &Try| one.end.status == Status::Hang && one.end.hang.is_some();
    let mut count = 0usize;
    for one in runs.failed().filter(|one| !is_in_group(one)) {
        count += 1;
        if count <= FAILURES {
            let status = verb(one.end.status);
            let why = finding(&one.end).map_or_else(String::new, |why| format!(": {why}"));
            let _ = writeln!(text, " {BAD}{status}{BAD:#}  {}{why}", name(&one.end.id));
        }
    }
    if let more @ 1.. = count.saturating_sub(FAILURES) {
        let journal = path(&root.join(journal::FILE));
        let _ = writeln!(text, " and {more} more; they are in {journal}");
    }
}
