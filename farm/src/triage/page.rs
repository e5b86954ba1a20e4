//! Pages of groups for a browser: the same groups as the text has, with links to the reports of exemplars.
//!
//! Owns the rows of these pages, and where their links lead; refuses to own layout and escaping
//! (`nmiscope_report::html`). Called by the command line, and by farms for their index.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nmiscope_report::destination::Destination;
use nmiscope_report::html::Href;
use nmiscope_report::html::index::{
    Day, Group, Index, Known, MAX_GROUPS, NameList, PageLink, SafeLine, Section,
};
use nmiscope_report::{atomic_file, short_name};

use super::known::KnownEntry;
use super::{Diff, FailureGroup, ScanResult, TriageResult, text};
use crate::process;
use crate::timestamp::Timestamp;

/// Folder of a page, from which its links lead to files.
#[derive(Debug)]
pub struct PageFolder(PathBuf);

impl PageFolder {
    /// Returns the folder of a page that is written to `file`. A page on standard output, or in a device, is
    /// taken for one in the current directory.
    ///
    /// # Errors
    /// Fails if the folder does not exist.
    pub fn of(file: &Destination) -> anyhow::Result<Self> {
        let folder = match file {
            Destination::File { path, .. } => atomic_file::folder_of(path),
            Destination::Stdout | Destination::Device { .. } => Path::new("."),
        };
        let failed = || format!("failed to find the folder {}", folder.display());
        Ok(Self(folder.canonicalize().with_context(failed)?))
    }

    /// Returns a link to a report: to the page of it if there is one beside it, else to the file itself;
    /// `None` if that does not exist.
    fn link_to_report(&self, report: &Path) -> Option<PageLink> {
        let report = report.canonicalize().ok()?;
        let page = report.with_file_name(process::HTML);
        let is_page = fs::symlink_metadata(&page).is_ok_and(|metadata| metadata.is_file());
        // Only a farm's report has a page of this name.
        let is_farms = report.file_name().is_some_and(|name| name == process::REPORT);
        let file = if is_page && is_farms { page } else { report };
        let text = SafeLine::new(file.file_name()?.to_string_lossy());
        Some(PageLink { text, address: Href::between(&self.0, &file)? })
    }
}

/// Fills a page with groups of failures.
pub fn triage_page(triage: &TriageResult, folder: &PageFolder) -> Index {
    let skipped = triage.skipped.iter().map(|file| format!("{}: {}", file.path, file.reason));
    let remarks: Vec<String> = text::remarks(&triage.totals).into_iter().chain(skipped).collect();
    let mut room = MAX_GROUPS;
    Index {
        title: SafeLine::new("Failures by signature"),
        totals: SafeLine::new(text::totals_line(triage)),
        days: triage
            .days
            .iter()
            .map(|day| Day {
                name: SafeLine::new(day.day.to_string()),
                runs: day.runs,
                failed: day.failed,
            })
            .collect(),
        sections: vec![section("Groups", "", triage.groups.iter(), folder, &mut room)],
        no_groups: SafeLine::new("No failure has been found."),
        remarks: NameList::new(&remarks),
        made_by: made_by(),
        ..Index::default()
    }
}

/// Fills a page with the changes between two scans.
pub fn diff_page(diff: &Diff, old: &ScanResult, new: &ScanResult, folder: &PageFolder) -> Index {
    // Runs of both are not added up: each scan has its own.
    let days: BTreeSet<String> = [old, new]
        .iter()
        .flat_map(|scan| &scan.triage.days)
        .map(|day| day.day.to_string())
        .collect();
    let gone = |was_run| {
        let gone = diff.gone.iter().filter(move |gone| gone.was_run == was_run);
        gone.map(|gone| &gone.group)
    };
    let absent =
        "No verdict on their VMs is among the new results, so that the absence says nothing.";
    let mut room = MAX_GROUPS;
    Index {
        title: SafeLine::new("Changes between two scans"),
        totals: SafeLine::new(text::diff_line(diff)),
        days: days
            .into_iter()
            .map(|name| Day { name: SafeLine::new(name), ..Day::default() })
            .collect(),
        sections: vec![
            section("New", "", diff.new.iter(), folder, &mut room),
            section("Gone", "", gone(true), folder, &mut room),
            section("Absent, but not run", absent, gone(false), folder, &mut room),
        ],
        no_groups: SafeLine::new("No group is new, and none is gone."),
        flaky: NameList::new(&diff.flaky),
        made_by: made_by(),
        ..Index::default()
    }
}

/// Names the program that makes pages.
fn made_by() -> SafeLine {
    SafeLine::new(format!("Made by nmiscope {}.", env!("CARGO_PKG_VERSION")))
}

/// Makes a section of as many groups as there is `room` for on the page.
fn section<'a>(
    heading: &str,
    remark: &str,
    groups: impl Iterator<Item = &'a FailureGroup>,
    folder: &PageFolder,
    room: &mut usize,
) -> Section {
    let (mut rows, mut total) = (Vec::new(), 0);
    for group in groups {
        total += 1;
        if *room > 0 {
            *room -= 1;
            rows.push(row(group, folder));
        }
    }
    Section { heading: SafeLine::new(heading), remark: SafeLine::new(remark), groups: rows, total }
}

fn row(group: &FailureGroup, folder: &PageFolder) -> Group {
    let known = group.known.as_ref().map(|entry| known_entry("known", entry));
    let was_known = group.was_known.as_ref().map(|entry| {
        let until = entry.until.as_ref().map_or_else(String::new, ToString::to_string);
        known_entry(&format!("was known until {until}"), entry)
    });
    let mut facts = Vec::new();
    let mut add =
        |name: &str, value: String| facts.push((SafeLine::new(name), SafeLine::new(value)));
    if let Some(message) = &group.message {
        add("message", message.clone());
    }
    for (name, all) in [("locks", &group.locks), ("blamed", &group.blamed)] {
        if !all.is_empty() {
            add(name, text::list(all));
        }
    }
    let stacks = group.stacks.iter().map(|stack| {
        let functions = stack.functions.iter().map(|name| SafeLine::new(short_name(name)));
        (SafeLine::new(text::list(&stack.parties)), functions.collect())
    });
    let by_day = group.by_day.iter().map(|day| (SafeLine::new(day.day.to_string()), day.count));
    Group {
        name: SafeLine::new(text::title(group)),
        class: SafeLine::new(group.class.map_or(group.kind.name(), |class| class.name())),
        bucket: SafeLine::new(group.bucket.as_deref().unwrap_or_default()),
        signature: SafeLine::new(&group.signature),
        count: group.count,
        place: SafeLine::new(text::place(group)),
        first_seen: time(group.first_seen),
        last_seen: time(group.last_seen),
        by_day: by_day.collect(),
        known: known.or(was_known),
        facts,
        stacks: stacks.collect(),
        vms: NameList::new(&group.vms),
        exemplar: group.exemplar.as_ref().and_then(|path| folder.link_to_report(Path::new(path))),
    }
}

/// Formats a time in UTC, to the second, with a space at which a narrow column breaks it.
fn time(time: Timestamp) -> SafeLine {
    SafeLine::new(text::time(time).replace('T', " ").replace('Z', ""))
}

fn known_entry(word: &str, entry: &KnownEntry) -> Known {
    Known {
        word: SafeLine::new(word),
        page: SafeLine::new(&entry.url),
        address: Href::web(&entry.url),
        note: SafeLine::new(entry.note.as_deref().unwrap_or_default()),
    }
}
