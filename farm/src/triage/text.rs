//! Text of groups for people: a heading with the failure, its count and times, and below it details for
//! debugging. All strings from guests and files pass through `sanitize`.
//!
//! Owns the layout; refuses to own the groups (`groups`) and their order. Called by the command line.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::known::KnownEntry;
use super::{Diff, FailureGroup, FailureKind, Totals, TriageResult};
use crate::timestamp::Timestamp;
use nmiscope_report::sanitize::line;
use nmiscope_report::short_name;
use nmiscope_report::units::plural;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEADING: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Maximum number of VMs, locks or parties that are named.
const MAX_NAMES: usize = 3;

/// Maximum number of functions shown of a stack.
const MAX_FUNCTIONS: usize = 6;

/// Maximum width to which titles are padded.
const MAX_TITLE: usize = 48;

/// Renders groups of failures, followed by totals.
pub fn render_triage(triage: &TriageResult) -> String {
    let mut text = String::new();
    show_all(&mut text, &triage.groups.iter().collect::<Vec<_>>());
    let _ = writeln!(text, "{}", totals_line(triage));
    for remark in remarks(&triage.totals) {
        let _ = writeln!(text, "{remark}");
    }
    text
}

/// Renders the changes between two scans.
pub fn render_diff(diff: &Diff) -> String {
    let mut text = String::new();
    let mut show = |heading: String, groups: &[&FailureGroup]| {
        if !groups.is_empty() {
            let _ = writeln!(text, "{heading}: {}", groups.len());
            show_all(&mut text, groups);
        }
    };
    let gone = |was_run| {
        let gone = diff.gone.iter().filter(move |gone| gone.was_run == was_run);
        gone.map(|gone| &gone.group).collect::<Vec<_>>()
    };
    show(format!("{BAD}new{BAD:#}"), &diff.new.iter().collect::<Vec<_>>());
    show(format!("{GOOD}gone{GOOD:#}"), &gone(true));
    show(format!("{DIM}absent, but their VMs were not run{DIM:#}"), &gone(false));
    if !diff.flaky.is_empty() {
        let _ = writeln!(text, "{BAD}became flaky{BAD:#}: {}", diff.flaky.len());
        for name in &diff.flaky {
            let _ = writeln!(text, "  {}", line(name));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{}", diff_line(diff));
    text
}

/// Sums up changes in one line.
pub(super) fn diff_line(diff: &Diff) -> String {
    format!(
        "{} new, {} gone, {} stayed; {} became flaky",
        diff.new.len(),
        diff.gone.len(),
        diff.stayed,
        plural(diff.flaky.len() as u64, "VM")
    )
}

/// Sums up groups in one line.
pub(super) fn totals_line(triage: &TriageResult) -> String {
    let mut text = plural(triage.groups.len() as u64, "group");
    let known = triage.groups.iter().filter(|group| group.known.is_some()).count();
    if known > 0 {
        let _ = write!(text, ", {known} known");
    }
    let totals = &triage.totals;
    let _ = write!(text, " in {}", plural(totals.runs, "run"));
    let _ = write!(text, " ({} read", plural(totals.reports, "report"));
    if totals.results > 0 {
        let _ = write!(text, ", {}", plural(totals.results, "farm"));
    }
    text + ")"
}

/// Returns lines about the runs and files that are in no group.
pub(super) fn remarks(totals: &Totals) -> Vec<String> {
    let mut lines = Vec::new();
    let mut others: Vec<String> = totals
        .ungrouped
        .iter()
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    if totals.unfinished > 0 {
        others.push(format!("{} unfinished", totals.unfinished));
    }
    if !others.is_empty() {
        lines.push(format!("in no group: {}", others.join(", ")));
    }
    if totals.skipped > 0 {
        lines.push(format!("skipped: {}", plural(totals.skipped, "file")));
    }
    lines
}

fn show_all(text: &mut String, groups: &[&FailureGroup]) {
    let titles: Vec<String> = groups.iter().map(|group| title(group)).collect();
    let longest = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
    let counts: Vec<String> = groups.iter().map(|group| format!("×{}", group.count)).collect();
    let widest = counts.iter().map(|count| count.chars().count()).max().unwrap_or(0);
    for ((group, title), count) in groups.iter().zip(titles).zip(counts) {
        let signature = group.signature.get(..8).unwrap_or(&group.signature);
        let style = if group.known.is_some() { DIM } else { BAD };
        let pad = " ".repeat(longest.min(MAX_TITLE).saturating_sub(title.chars().count()));
        let _ = writeln!(
            text,
            "{HEADING}{signature}{HEADING:#}  {style}{title}{style:#}{pad}  {count:<widest$}  {}",
            seen(group)
        );
        show_details(text, group);
        text.push('\n');
    }
}

/// Describes a failure by its class or kind, and its function.
pub(super) fn title(group: &FailureGroup) -> String {
    let what = group.class.map_or(group.kind.name(), |class| class.name());
    match &group.function {
        Some(function) => format!("{what} in {}", line(short_name(function))),
        None => what.into(),
    }
}

/// Describes the number of runs and the times of a group.
fn seen(group: &FailureGroup) -> String {
    let place = place(group);
    let (first, last) = (time(group.first_seen), time(group.last_seen));
    if first == last {
        format!("{place}, {DIM}{last}{DIM:#}")
    } else {
        format!("{place}, {DIM}{first} to {last}{DIM:#}")
    }
}

/// Describes the number of a group's runs and VMs.
pub(super) fn place(group: &FailureGroup) -> String {
    format!("{} of {}", plural(group.runs, "run"), plural(group.vms.len() as u64, "VM"))
}

fn show_details(text: &mut String, group: &FailureGroup) {
    let mut details: Vec<(String, String)> = Vec::new();
    let mut add = |label: &str, what: String| details.push((line(label), what));
    if let Some(known) = &group.known {
        add("known", format!("{GOOD}{}{GOOD:#}", entry(known)));
    }
    if let Some(known) = &group.was_known {
        let until = known.until.as_ref().map_or_else(String::new, ToString::to_string);
        add("was known", format!("until {until}, {}", entry(known)));
    }
    if let Some(message) = &group.message {
        add("message", line(message));
    }
    if !group.locks.is_empty() {
        add("locks", list(&group.locks));
    }
    for stack in &group.stacks {
        add(&stack.parties.join(", "), functions(&stack.functions));
    }
    if group.stacks.is_empty() && !group.blamed.is_empty() && group.kind == FailureKind::Hang {
        add("blamed", list(&group.blamed));
    }
    add("in", list(&group.vms));
    if let Some(path) = &group.exemplar {
        add("open", line(path));
    }
    let labels = details.iter().map(|(label, _)| label.chars().count());
    let width = labels.max().unwrap_or(0).min(MAX_TITLE / 2);
    for (label, what) in details {
        let _ = writeln!(text, "  {DIM}{label:<width$}{DIM:#}  {what}");
    }
}

fn entry(entry: &KnownEntry) -> String {
    let note = entry.note.as_ref().map_or_else(String::new, |note| format!(" ({})", line(note)));
    format!("{}{note}", line(&entry.url))
}

/// Lists the innermost functions of a stack, innermost first.
fn functions(names: &[String]) -> String {
    let shown = names.iter().take(MAX_FUNCTIONS).map(|name| line(short_name(name)));
    let more = (names.len() > MAX_FUNCTIONS).then(|| "…".to_owned());
    shown.chain(more).collect::<Vec<_>>().join(" < ")
}

/// Lists the first few names, and the number of further ones.
pub(super) fn list(names: &[String]) -> String {
    let shown = names.iter().take(MAX_NAMES).map(|name| line(name)).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Formats a time in UTC, to the second.
pub(super) fn time(time: Timestamp) -> String {
    humantime::format_rfc3339_seconds(time.system_time()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triage::Stack;
    use nmiscope_report::Class;

    fn group() -> FailureGroup {
        FailureGroup {
            signature: "7f3a91c2deadbeef".into(),
            kind: FailureKind::Hang,
            class: Some(Class::Deadlock),
            bucket: None,
            message: None,
            count: 12,
            runs: 10,
            vms: ["a", "b", "c", "d\x1b[2J"].map(Into::into).into(),
            first_seen: Timestamp::from_unix_ms(0),
            last_seen: Timestamp::from_unix_ms(u64::MAX),
            by_day: Vec::new(),
            blamed: vec!["cpu0".into()],
            locks: vec!["LOCK\n".into()],
            function: Some("a::take\x07".into()),
            stacks: vec![Stack {
                parties: vec!["cpu0".into(), "cpu1".into()],
                functions: ["a::take", "b::main"].map(Into::into).into(),
            }],
            exemplar: Some("r/report.json".into()),
            known: None,
            was_known: None,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn group_shows_failure_count_times_and_details() {
        let triage = TriageResult { groups: vec![group()], ..TriageResult::default() };
        let text = plain(&super::render_triage(&triage));
        let expected = "\
7f3a91c2  deadlock in take\\u{7}  ×12  10 runs of 4 VMs, 1970-01-01T00:00:00Z to 9999-12-31T23:59:59Z
  locks       LOCK\\n
  cpu0, cpu1  take < main
  in          a, b, c and 1 more
  open        r/report.json

1 group in 0 runs (0 reports read)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn counts_of_groups_are_aligned() {
        let mut other = group();
        other.function = None;
        other.count = 3;
        let triage = TriageResult { groups: vec![group(), other], ..TriageResult::default() };
        let text = plain(&super::render_triage(&triage));
        let column = |line: &str| line.chars().position(|character| character == '×');
        let columns: Vec<usize> = text.lines().filter_map(column).collect();
        assert_eq!(columns.len(), 2);
        assert_eq!(columns[0], columns[1], "{text}");
    }
}
