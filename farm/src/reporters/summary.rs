//! Summary at the end of a run, for people: totals, each distinct hang with its files, and each other
//! failure.
//!
//! Owns the layout of the summary and the wording of its counts; refuses to own groups (`runs`). Called
//! by `progress` and `markdown`.

use std::fmt::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use nmiscope_report::units::plural;

use super::phrases::{
    finding_text, format_duration, hang_title, one_line, path_text, run_name, short_signature,
    status_verb,
};
use super::runs::{HangGroup, Runs, Try};
use crate::event::{FarmFinished, Status};
use crate::{journal, results};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Maximum number of distinct hangs shown.
const MAX_HANGS: usize = 50;
/// Maximum number of other failures shown.
const MAX_FAILURES: usize = 20;
/// Maximum width to which titles are padded.
const MAX_TITLE: usize = 48;

/// Files of a try that help to debug it, in the order of use.
const FILES: [&str; 3] = ["report", "core", "console"];

/// Renders the summary; `root` is the results directory.
pub fn render(finished: &FarmFinished, runs: &Runs, root: &Path) -> String {
    let mut text = format!(" {DIM}────────────{DIM:#}\n {}\n", headline(finished));
    let groups = runs.hang_groups();
    let titles: Vec<String> =
        groups.iter().take(MAX_HANGS).map(|group| hang_title(group.hang)).collect();
    let longest = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
    for (group, title) in groups.iter().zip(titles) {
        show_group(&mut text, group, &title, longest.min(MAX_TITLE), root);
    }
    if let more @ 1.. = groups.len().saturating_sub(MAX_HANGS) {
        let _ =
            writeln!(text, " and {more} more; `nmiscope triage {}` shows them", path_text(root));
    }
    show_failures(&mut text, runs, root);
    if finished.not_run > 0 {
        let is_are = if finished.not_run == 1 { "is" } else { "are" };
        let left = format!("{} {is_are} left", plural(finished.not_run, "VM"));
        let _ = writeln!(text, " {BAD}{left}{BAD:#}: --resume runs them");
    }
    text
}

/// Renders the totals by status.
fn headline(finished: &FarmFinished) -> String {
    let all = finished.counts.values().sum::<u64>() + finished.not_run;
    let counts = status_counts(finished).into_iter().map(|(status, words)| {
        let style = if status == Some(Status::Pass) { GOOD } else { BAD };
        format!("{style}{words}{style:#}")
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    let duration = format_duration(finished.elapsed_ms);
    format!("{} in {duration}: {counts}{}", plural(all, "VM"), known_count(finished))
}

/// Phrase for the number of known failures, to follow the totals.
pub fn known_count(finished: &FarmFinished) -> String {
    match finished.known {
        0 => String::new(),
        1 => "; 1 failure is known".into(),
        many => format!("; {many} failures are known"),
    }
}

/// Phrases for each status that occurs; `None` stands for runs that did not start.
pub fn status_counts(finished: &FarmFinished) -> Vec<(Option<Status>, String)> {
    let words = |(status, count): (&Status, &u64)| {
        let words = format!("{count} {}", status_verb(*status));
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

fn show_group(text: &mut String, group: &HangGroup<'_>, title: &str, width: usize, root: &Path) {
    let directory = root.join(results::short_signature(&group.hang.signature));
    let directory = if group.first.end.directory.as_os_str().is_empty() {
        short_signature(group.hang)
    } else {
        format!("{}/", path_text(&directory))
    };
    let style = if group.known.is_some() { DIM } else { BAD };
    let pad = " ".repeat(width.saturating_sub(title.chars().count()));
    let _ = write!(text, " {directory}  {style}{title}{style:#}{pad}  {}", occurrences(group));
    let files = FILES.iter().filter_map(|kind| group.first.end.files.get(*kind));
    let files: String = files.map(|file| format!("  {}", path_text(file))).collect();
    if !files.is_empty() {
        let _ = write!(text, " {files}");
    }
    if let Some(url) = group.known {
        let _ = write!(text, "   known: {}", one_line(url, super::phrases::MAX_SENTENCE));
    }
    text.push('\n');
}

/// Phrase for the number of occurrences of a hang.
pub fn occurrences(group: &HangGroup<'_>) -> String {
    match (group.count, group.flaky) {
        (count, 0) => format!("×{count}"),
        (0, flaky) => format!("×{flaky} flaky"),
        (count, flaky) => format!("×{count} and ×{flaky} flaky"),
    }
}

/// Appends the failures that are no hangs, or are hangs without a summary.
fn show_failures(text: &mut String, runs: &Runs, root: &Path) {
    let is_in_group = |one: &Try| one.end.status == Status::Hang && one.end.hang.is_some();
    let mut count = 0usize;
    for one in runs.failed().filter(|one| !is_in_group(one)) {
        count += 1;
        if count <= MAX_FAILURES {
            let status = status_verb(one.end.status);
            let why = finding_text(&one.end).map_or_else(String::new, |why| format!(": {why}"));
            let _ = writeln!(text, " {BAD}{status}{BAD:#}  {}{why}", run_name(&one.end.id));
        }
    }
    if let more @ 1.. = count.saturating_sub(MAX_FAILURES) {
        let journal = path_text(&root.join(journal::FILE));
        let _ = writeln!(text, " and {more} more; they are in {journal}");
    }
}
