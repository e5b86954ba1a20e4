//! Pages about many runs: groups of failures, as triage finds them, and the VMs of a farm.
//!
//! Owns the layout, and the bounds of what is shown; refuses to own what a group is. Called by farms and
//! triage with plain rows: this crate knows neither. All text in a row is a [`SafeLine`], and all addresses
//! are [`Href`]s.

mod bars;
mod line;
#[cfg(test)]
mod tests;

use askama::Template;

use super::href::Href;
use crate::units::plural;
pub use line::SafeLine;

use bars::Bars;

/// Maximum number of groups on a page, in all of its sections.
pub const MAX_GROUPS: usize = 1000;

/// Maximum number of runs on a page.
pub const MAX_RUNS: usize = 10_000;

/// Maximum number of days on a page: the last ones.
pub const MAX_DAYS: usize = 60;

/// Maximum number of names or remarks in a list.
const MAX_NAMES: usize = 50;

/// Contents of a page about many runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// Title of the page, which is its heading too.
    pub title: SafeLine,
    /// Totals of all runs, as one sentence.
    pub totals: SafeLine,
    /// Facts about the runs, by name.
    pub facts: Vec<(SafeLine, SafeLine)>,
    /// Days on which runs ended, in order of time; groups have a count for some of these.
    pub days: Vec<Day>,
    /// Sections of groups, in the order of the page.
    pub sections: Vec<Section>,
    /// Sentence that stands in place of the sections if no section has a group.
    pub no_groups: SafeLine,
    /// Names of VMs that became flaky; empty where that is unknown.
    pub flaky: NameList,
    /// Runs of a farm's VMs; `None` for a page about groups alone.
    pub runs: Option<RunList>,
    /// Remarks on what is missing, one sentence each.
    pub remarks: NameList,
    /// Program that made the page, with its version.
    pub made_by: SafeLine,
}

/// A day with its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Day {
    /// Name of the day, as in `2026-12-31`.
    pub name: SafeLine,
    /// Number of runs that ended on the day.
    pub runs: u64,
    /// Number of these that failed.
    pub failed: u64,
}

/// A section of groups under one heading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Heading of the section, without the number of its groups.
    pub heading: SafeLine,
    /// Sentence below the heading; empty for none.
    pub remark: SafeLine,
    /// Groups in their order. Those after the first [`MAX_GROUPS`] of the page may be absent.
    pub groups: Vec<Group>,
    /// Number of groups, with those that are absent.
    pub total: usize,
}

/// A group of failures with one signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Name of the group for people.
    pub name: SafeLine,
    /// Class of its hangs, or kind of its failures.
    pub class: SafeLine,
    /// Bucket of its hangs; empty if there is none.
    pub bucket: SafeLine,
    /// Signature that its failures share, in hexadecimal digits.
    pub signature: SafeLine,
    /// Number of failures in the group.
    pub count: u64,
    /// Number of runs and VMs in words.
    pub place: SafeLine,
    /// Time of the first failure.
    pub first_seen: SafeLine,
    /// Time of the last failure.
    pub last_seen: SafeLine,
    /// Numbers of failures by the names of days, in order of time.
    pub by_day: Vec<(SafeLine, u64)>,
    /// Mark of a group that is known, or was; `None` for others.
    pub known: Option<Known>,
    /// Facts about the exemplar, by name, such as its message and its locks.
    pub facts: Vec<(SafeLine, SafeLine)>,
    /// Stacks of the exemplar: the parties, and their functions, innermost first.
    pub stacks: Vec<(SafeLine, Vec<SafeLine>)>,
    /// Names of the VMs in which the failures occurred.
    pub vms: NameList,
    /// Link to the exemplar's report; `None` if there is no report.
    pub exemplar: Option<PageLink>,
}

/// Mark of a known failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Word for the mark, such as `known`.
    pub word: SafeLine,
    /// Text that names the page at which the failure is tracked.
    pub page: SafeLine,
    /// Address of that page; `None` if it has none of the web.
    pub address: Option<Href>,
    /// Remark about the failure; empty for none.
    pub note: SafeLine,
}

/// A link with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLink {
    /// Text that a reader sees.
    pub text: SafeLine,
    /// Address that the link leads to.
    pub address: Href,
}

/// Runs of a farm's VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunList {
    /// Runs in their order. Those after the first [`MAX_RUNS`] may be absent.
    pub rows: Vec<Run>,
    /// Number of runs, with those that are absent.
    pub total: usize,
}

/// A run of a farm's VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Name of the VM, with the number of the run unless it is the first.
    pub name: SafeLine,
    /// Result of the run in a word or two.
    pub result: SafeLine,
    /// True for a run that failed unexpectedly.
    pub failed: bool,
    /// Reason for the result; empty for none.
    pub reason: SafeLine,
    /// Duration of the run's last try, in words.
    pub duration: SafeLine,
    /// Links to what the run left.
    pub links: Vec<PageLink>,
}

/// The header of the page.
#[derive(Template)]
#[template(path = "index/header.html")]
struct Header<'a> {
    index: &'a Index,
}

/// The main part of the page.
#[derive(Template)]
#[template(path = "index/main.html")]
struct Main<'a> {
    index: &'a Index,
    days: DaysPart<'a>,
    sections: Vec<SectionPart<'a>>,
    runs: Option<RunsPart<'a>>,
}

/// The trend of all runs.
#[derive(Template)]
#[template(path = "index/days.html")]
struct DaysPart<'a> {
    days: &'a [Day],
    bars: Option<Bars>,
}

impl DaysPart<'_> {
    /// True unless the days are only those of groups.
    fn has_runs(&self) -> bool {
        self.days.iter().any(|day| day.runs > 0)
    }
}

/// A section, with as many of its groups as the page has room for.
#[derive(Template)]
#[template(path = "index/section.html")]
struct SectionPart<'a> {
    section: &'a Section,
    /// Number of the section on the page, which makes identifiers unique.
    number: usize,
    rows: Vec<GroupRow<'a>>,
    /// Phrase for the number of groups that are left out; empty for none.
    left_out: String,
}

/// A group with its trend.
struct GroupRow<'a> {
    group: &'a Group,
    /// Last days of the group, of those that have a failure.
    by_day: &'a [(SafeLine, u64)],
    bars: Option<Bars>,
}

/// The runs of a farm.
#[derive(Template)]
#[template(path = "index/runs.html")]
struct RunsPart<'a> {
    rows: &'a [Run],
    total: usize,
    /// Phrase for the number of runs that are left out; empty for none.
    left_out: String,
}

/// Names of which the first ones are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Template)]
#[template(path = "index/names.html")]
pub struct NameList {
    shown: Vec<SafeLine>,
    more: usize,
}

impl NameList {
    /// Takes the first names, and counts the others.
    pub fn new(names: &[impl AsRef<str>]) -> Self {
        let shown: Vec<SafeLine> = names.iter().take(MAX_NAMES).map(SafeLine::new).collect();
        Self { more: names.len() - shown.len(), shown }
    }

    /// Returns the number of all names.
    pub fn total(&self) -> usize {
        self.shown.len() + self.more
    }
}

/// Returns the page with this content, as HTML.
pub fn page(index: &Index) -> String {
    let days = last_days(&index.days);
    let mut room = MAX_GROUPS;
    let sections = index.sections.iter().enumerate().map(|(number, section)| {
        let shown = section.groups.len().min(room);
        room -= shown;
        let rows = section.groups[..shown].iter().map(|group| GroupRow {
            group,
            by_day: last_days(&group.by_day),
            bars: Bars::of_group(days, &group.by_day),
        });
        let left_out = left_out(section.total.saturating_sub(shown), "group");
        SectionPart { section, number, rows: rows.collect(), left_out }
    });
    let runs = index.runs.as_ref().map(|runs| {
        let rows = &runs.rows[..runs.rows.len().min(MAX_RUNS)];
        let left_out = left_out(runs.total.saturating_sub(rows.len()), "run");
        RunsPart { rows, total: runs.total, left_out }
    });
    let main = Main {
        index,
        days: DaysPart { days, bars: Bars::of_days(days) },
        sections: sections.filter(|part| part.section.total > 0).collect(),
        runs,
    };
    // A longer title is cut in every list of pages.
    let title = index.title.clone().cut(70);
    super::page(title.as_str(), &Header { index }, &main, index.made_by.as_str())
}

/// Returns the days that a page has room for.
fn last_days<T>(days: &[T]) -> &[T] {
    &days[days.len().saturating_sub(MAX_DAYS)..]
}

/// Phrase for rows that are left out; empty for none.
fn left_out(count: usize, noun: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("1 more {noun} is left out here."),
        count => format!("{} are left out here.", plural(count as u64, &format!("more {noun}"))),
    }
}
