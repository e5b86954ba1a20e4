//! Summary in GitHub's Markdown, for the page of a CI job.
//!
//! Owns the layout and the escaping for Markdown; refuses to own totals (`summary`) and groups (`runs`).
//! Called by the command line, with each event.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Reporter;
use super::files;
use super::phrases::{self, MAX_NAME, MAX_SENTENCE, format_duration, format_seconds, status_verb};
use super::runs::{HangGroup, Runs, Try};
use super::summary::{known_count, occurrences, status_counts};
use crate::event::{EventKind, FarmEvent, FarmFinished, FarmStarted};
use crate::results;
use nmiscope_report::destination::Destination;
use nmiscope_report::html::Href;
use nmiscope_report::units::plural;
use nmiscope_report::{atomic_file, short_name};

/// Maximum number of bytes of rows in each section; GitHub accepts 1 MiB in all.
const MAX_HANG_BYTES: usize = 256 << 10;
const MAX_FAILURE_BYTES: usize = 384 << 10;
const MAX_FLAKY_BYTES: usize = 128 << 10;
/// Maximum number of lost VMs that are named.
const MAX_LOST: usize = 20;

/// Reporter that writes a Markdown summary when the run ends.
pub struct Markdown {
    file: Destination,
    root: PathBuf,
    started: Option<FarmStarted>,
    interrupted: Option<String>,
    runs: Runs,
}

impl Markdown {
    /// Writes to `file`; `root` is the results directory.
    pub fn new(file: Destination, root: PathBuf) -> Self {
        Self { file, root, started: None, interrupted: None, runs: Runs::failures_only() }
    }

    fn write(&self, finished: &FarmFinished) -> anyhow::Result<()> {
        self.file.write(self.text(finished).as_bytes())
    }

    fn text(&self, finished: &FarmFinished) -> String {
        let all = finished.counts.values().sum::<u64>() + finished.not_run;
        let counts: Vec<String> =
            status_counts(finished).into_iter().map(|(_, words)| words).collect();
        let counts = counts.join(", ");
        let mut text = format!("## {}: {counts}{}\n\n", plural(all, "VM"), known_count(finished));
        let links = Links::new(&self.file, &self.root);
        self.show_run(&mut text, finished, &links);
        let groups = self.runs.hang_groups();
        let (known, new): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.known.is_some());
        let hangs = |title, groups: &[&HangGroup<'_>]| {
            let head = "signature | hang | between | seen | first in | tracked";
            table(
                title,
                head,
                groups.iter().map(|group| hang_row(group, &links)),
                MAX_HANG_BYTES / 2,
            )
        };
        text.push_str(&hangs("Distinct hangs", &new));
        let failed = self.runs.failed().filter(|one| one.end.known.is_none());
        let head = "VM | status | finding | time";
        text.push_str(&table(
            "Failures",
            head,
            failed.map(|one| failure_row(one, &links)),
            MAX_FAILURE_BYTES,
        ));
        text.push_str(&hangs("Known hangs", &known));
        let known = self.runs.failed().filter(|one| one.end.known.is_some());
        let head = "VM | status | tracked | time";
        text.push_str(&table(
            "Known failures",
            head,
            known.map(|one| known_row(one, &links)),
            MAX_FLAKY_BYTES,
        ));
        let flaky = table(
            "",
            "VM | passed in | before",
            self.runs.flaky().filter_map(|tries| flaky_row(tries, &links)),
            MAX_FLAKY_BYTES,
        );
        if !flaky.is_empty() {
            let count = self.runs.flaky().count();
            let _ =
                write!(text, "<details><summary>{count} flaky</summary>\n\n{flaky}</details>\n\n");
        }
        text
    }

    /// Describes the run itself: its duration, host and options, and what was interrupted or lost.
    fn show_run(&self, text: &mut String, finished: &FarmFinished, links: &Links) {
        let _ = write!(text, "It took {}", format_duration(finished.elapsed_ms));
        if let Some(started) = &self.started {
            let _ = write!(text, " on {}", code(&started.host, MAX_NAME));
            let _ = write!(text, ", suite {}", code(&started.suite, MAX_SENTENCE));
            if let Some(partition) = &started.partition {
                let _ = write!(text, ", part {}", code(partition, MAX_NAME));
            }
            if let Some(seed) = started.seed {
                let _ = write!(text, ", seed {seed}");
            }
        }
        let _ = write!(
            text,
            ". The results are in {}{}.\n\n",
            code(&self.root.to_string_lossy(), MAX_SENTENCE),
            links.page()
        );
        if let Some(by) = &self.interrupted {
            let by = code(by, MAX_NAME);
            let left = plural(finished.not_run, "VM");
            let _ = write!(text, "**Ended by {by}**: {left} left, which `--resume` runs.\n\n");
        }
        let lost = self.started.as_ref().map(|started| started.lost.as_slice()).unwrap_or_default();
        if !lost.is_empty() {
            let shown: Vec<String> =
                lost.iter().take(MAX_LOST).map(|name| code(name, MAX_NAME)).collect();
            let more = match lost.len().saturating_sub(MAX_LOST) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let count = plural(lost.len() as u64, "VM");
            let shown = shown.join(", ");
            let _ = write!(
                text,
                "{count} lost when an earlier farm died, and run again: {shown}{more}.\n\n"
            );
        }
    }
}

impl Reporter for Markdown {
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        self.runs.record(event);
        match &event.kind {
            EventKind::FarmStarted(started) => {
                self.started = Some(started.clone());
                self.interrupted = None;
            }
            EventKind::FarmInterrupted { by } => self.interrupted = Some(by.clone()),
            EventKind::FarmFinished(finished) => self.write(finished)?,
            _ => {}
        }
        Ok(())
    }

    fn note_earlier(&mut self, event: &FarmEvent) {
        self.runs.record(event);
    }
}

/// Builds a table of at most `limit` bytes of rows, with a note about rows left out; empty without rows.
fn table(title: &str, head: &str, rows: impl Iterator<Item = String>, limit: usize) -> String {
    let mut shown = String::new();
    let mut cut = 0u64;
    for row in rows {
        if shown.len() + row.len() > limit {
            cut += 1;
        } else {
            shown.push_str(&row);
        }
    }
    if shown.is_empty() && cut == 0 {
        return String::new();
    }
    let mut text = String::new();
    if !title.is_empty() {
        let _ = write!(text, "### {title}\n\n");
    }
    let columns = head.split('|').count();
    let _ = writeln!(text, "| {head} |\n|{}\n{shown}", " --- |".repeat(columns));
    if cut > 0 {
        let _ = write!(text, "{} left out here; `events.jsonl` has all.\n\n", plural(cut, "row"));
    }
    text
}

fn row<const N: usize>(cells: [String; N]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// Links from the summary to the results. They are made where the results are in the folder of the summary,
/// or around it: elsewhere, as with GITHUB_STEP_SUMMARY, nobody keeps the two together.
struct Links {
    /// Results directory, as it was given.
    root: PathBuf,
    /// Folder of the summary, and the results directory, both without links; `None` if nothing is linked.
    places: Option<(PathBuf, PathBuf)>,
}

impl Links {
    fn new(file: &Destination, root: &Path) -> Self {
        let places = match file {
            Destination::File { target, .. } => {
                let folder = atomic_file::folder_of(target).canonicalize().ok();
                folder.zip(root.canonicalize().ok())
            }
            _ => None,
        };
        let are_together = |(folder, root): &(PathBuf, PathBuf)| {
            root.starts_with(folder) || folder.starts_with(root)
        };
        Self { root: root.into(), places: places.filter(are_together) }
    }

    /// Returns the address of a file, by its path relative to the results directory.
    fn address(&self, relative: &Path) -> Option<Href> {
        let (folder, root) = self.places.as_ref()?;
        Href::between(folder, &root.join(relative))
    }

    /// Phrase for the page of the run, to follow its directory; empty if there is none.
    fn page(&self) -> String {
        if !self.root.join(results::INDEX).is_file() {
            return String::new();
        }
        match self.address(Path::new(results::INDEX)) {
            Some(address) => {
                format!(", and <a href=\"{}\">on a page</a>", escape(address.as_str()))
            }
            None => format!(", and on a page in {}", code(results::INDEX, MAX_NAME)),
        }
    }

    /// Returns the name of a try's run, with a link to the page of its report.
    fn run(&self, one: &Try) -> String {
        let name = code(&phrases::run_name(&one.end.id), MAX_NAME);
        let page = files::existing(&self.root, &one.end, "html");
        match page.and_then(|page| self.address(&page)) {
            Some(address) => format!("<a href=\"{}\">{name}</a>", escape(address.as_str())),
            None => name,
        }
    }
}

fn hang_row(group: &HangGroup<'_>, links: &Links) -> String {
    let hang = group.hang;
    let title = match &hang.function {
        Some(function) => format!("{} in {}", hang.class, code(short_name(function), MAX_NAME)),
        None => hang.class.name().into(),
    };
    let between =
        phrases::parties(hang).map_or_else(String::new, |between| code(&between, MAX_SENTENCE));
    row([
        code(&phrases::short_signature(hang), MAX_NAME),
        title,
        between,
        occurrences(group),
        links.run(group.first),
        group.known.map_or_else(String::new, link),
    ])
}

fn failure_row(one: &Try, links: &Links) -> String {
    let finding = phrases::finding_text(&one.end);
    let finding = finding.map_or_else(String::new, |finding| code(&finding, 2 * MAX_SENTENCE));
    row([
        links.run(one),
        status_verb(one.end.status).into(),
        finding,
        format_seconds(one.end.elapsed_ms),
    ])
}

fn known_row(one: &Try, links: &Links) -> String {
    let tracked = one.end.known.as_deref().map_or_else(String::new, link);
    row([
        links.run(one),
        status_verb(one.end.status).into(),
        tracked,
        format_seconds(one.end.elapsed_ms),
    ])
}

fn flaky_row(tries: &[Try], links: &Links) -> Option<String> {
    let (last, earlier) = tries.split_last()?;
    let before = earlier.iter().take(3).map(|one| {
        let finding = phrases::finding_text(&one.end);
        let finding = finding
            .map_or_else(String::new, |finding| format!(" {}", code(&finding, MAX_SENTENCE)));
        format!("{}{finding}", status_verb(one.end.status))
    });
    let before: Vec<String> = before.collect();
    Some(row([links.run(last), format!("try {}", last.end.id.attempt), before.join("<br>")]))
}

/// Links to the page at which a failure is tracked. Text that is no plain URL is shown without a link.
fn link(url: &str) -> String {
    match Href::web(url) {
        Some(address) => {
            let text = phrases::one_line(url, MAX_NAME);
            format!("<a href=\"{}\">{}</a>", escape(address.as_str()), escape(&text))
        }
        None => code(url, MAX_NAME),
    }
}

/// Formats foreign text, cut to `limit` characters, as a code element. Unlike backquotes, an element can
/// contain backquotes, and `|` in a table.
fn code(text: &str, limit: usize) -> String {
    format!("<code>{}</code>", escape(&phrases::one_line(text, limit)))
}

/// Replaces every character with a meaning in Markdown or HTML by a character reference.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let means_nothing = !character.is_ascii()
            || character.is_ascii_alphanumeric()
            || matches!(character, ' ' | '-' | '/' | '=' | ',' | '+' | '%');
        if means_nothing {
            escaped.push(character);
        } else {
            let _ = write!(escaped, "&#{};", character as u32);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests as fixture;
    use super::*;
    use crate::event::{Status, VmFinished};

    fn text(events: &[FarmEvent]) -> String {
        let directory = tempfile::tempdir().unwrap();
        written(&directory.path().join("summary.md"), Path::new("results"), events)
    }

    fn written(file: &Path, root: &Path, events: &[FarmEvent]) -> String {
        let mut markdown = Markdown::new(Destination::open(file).unwrap(), root.into());
        fixture::report_all(&mut markdown, events);
        std::fs::read_to_string(file).unwrap()
    }

    #[test]
    fn markdown_of_a_full_run_matches_the_golden_file() {
        fixture::is_golden("summary.md", &text(&fixture::events()));
    }

    #[test]
    fn text_from_a_guest_never_becomes_markdown_or_html() {
        let hostile = "a|b`c`<img src=x>\n## @all *x* [y](z) \\| www.example.org \u{202e}\x1b[2J";
        let expected = "a&#124;b&#96;c&#96;&#60;img src=x&#62;&#92;n&#35;&#35; &#64;all &#42;x&#42; \
                        &#91;y&#93;&#40;z&#41; &#92;&#124; www&#46;example&#46;org \
                        &#92;u&#123;202e&#125;&#92;u&#123;1b&#125;&#91;2J";
        assert_eq!(escape(&phrases::one_line(hostile, MAX_NAME)), expected);
        let mut farm = fixture::ScriptedFarm::new(1);
        farm.end_with(hostile, Status::Hang, |end| {
            let hang = fixture::hang("<b>", &[hostile], Some(hostile));
            (end.hang, end.reason, end.known) = (Some(hang), Some(hostile.into()), None);
        });
        farm.finish();
        let text = text(&farm.events);
        assert!(
            !text.contains("<img") && !text.contains("@all") && !text.contains("www."),
            "{text}"
        );
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
        let rows = text.lines().filter(|line| line.starts_with("| <code>"));
        for row in rows {
            let columns = row.matches('|').count() - 1;
            assert!(columns == 4 || columns == 6, "{row}");
        }
    }

    #[test]
    fn only_plain_web_addresses_become_links() {
        let address = "https://bugs.example/1?a=b&c";
        assert!(
            link(address).starts_with("<a href=\"https&#58;//bugs&#46;example/1&#63;a=b&#38;c\">")
        );
        for other in ["javascript:alert(1)", "https://x\" onclick=\"y", "https://x y", "BUG-1", ""]
        {
            assert!(link(other).starts_with("<code>"), "{other}");
        }
    }

    #[test]
    fn results_are_linked_where_the_summary_lies_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        let root = folder.join("a b/results");
        let mut farm = fixture::ScriptedFarm::new(1);
        farm.end_with("vm", Status::Fail, |end| {
            end.files.insert("html".into(), "report.html".into());
        });
        farm.finish();
        std::fs::create_dir_all(root.join("vms/vm/1.1")).unwrap();
        std::fs::create_dir(folder.join("elsewhere")).unwrap();
        for file in ["index.html", "vms/vm/1.1/report.html"] {
            std::fs::write(root.join(file), "a page").unwrap();
        }
        for (file, index, report) in [
            ("summary.md", "a%20b/results/index.html", "a%20b/results/vms/vm/1.1/report.html"),
            ("a b/results/summary.md", "index.html", "vms/vm/1.1/report.html"),
            ("a b/results/vms/summary.md", "../index.html", "vm/1.1/report.html"),
        ] {
            let text = written(&folder.join(file), &root, &farm.events);
            assert!(
                text.contains(&format!("<a href=\"{}\">on a page</a>", escape(index))),
                "{text}"
            );
            let link = format!("| <a href=\"{}\"><code>vm</code></a> |", escape(report));
            assert!(text.contains(&link), "{text}");
        }
        let text = written(&folder.join("elsewhere/summary.md"), &root, &farm.events);
        assert!(!text.contains("<a ") && text.contains("on a page in <code>index&#46;html</code>"));
    }

    #[test]
    fn summary_of_many_failures_stays_below_githubs_limit() {
        let mut farm = fixture::ScriptedFarm::new(6000);
        for number in 0..2000 {
            let name = format!("{number}/{}", "<".repeat(300));
            let lock = "|".repeat(300);
            let hang = |signature: String, end: &mut VmFinished| {
                end.hang = Some(fixture::hang(&signature, &[&*lock; 8], Some(&lock)));
                end.reason = Some("\x1b".repeat(500));
            };
            farm.end_with(&name, Status::Hang, |end| hang(format!("{number:016x}"), end));
            farm.end_with(&format!("known/{name}"), Status::Hang, |end| {
                hang(format!("f{number:015x}"), end);
                end.known = Some(format!("https://x/{}", "#".repeat(1900)));
            });
            let flaky = format!("flaky/{name}");
            farm.end_with(&flaky, Status::Crash, |end| {
                end.again = true;
                end.reason = Some("*".repeat(1000));
            });
            farm.end_with(&flaky, Status::Pass, |end| (end.id.attempt, end.flaky) = (2, true));
        }
        farm.finish();
        let text = text(&farm.events);
        assert!(text.len() < 1 << 20, "{}", text.len());
        assert_eq!(text.matches(" left out here; `events.jsonl` has all.").count(), 5);
    }
}
