//! Reports as Markdown, for a ticket: the verdict, the facts, the blamed stacks, the waits and the end of the log.
//!
//! Owns what a ticket has, its limits and its escaping; the words are those of `text`. Called by the command line.
//!
//! Text of a guest is in code spans and code blocks alone, where GitHub's Markdown knows no markup, no links and
//! no mentions. A span or a block begins with more backquotes than its text has in a row.

use std::fmt::Write as _;

use crate::sanitize::{self, line};
use crate::text::{self, hang};
use crate::units::plural;
use crate::wait_graph;
use crate::{Hang, Outcome, Report};

/// The most bytes of the blamed stacks.
const MAX_STACK_BYTES: usize = 16 << 10;
/// The most hangs of a ticket.
const MAX_HANGS: usize = 8;
/// The most waits of a hang.
const MAX_WAITS: usize = 30;
/// The most bytes of all waits together.
const MAX_WAITS_BYTES: usize = 12 << 10;
/// The most lines of the log, and of the console.
const MAX_LOG_LINES: usize = 20;
/// The most characters of a code span, and of a line of the log.
const MAX_SPAN: usize = 300;

/// Returns a report as Markdown for a ticket: below 64 KiB, which is what GitHub takes.
pub fn ticket(report: &Report) -> String {
    let mut ticket = String::new();
    let ending = text::end(&report.outcome);
    let hangs: Vec<&Hang> = report.hangs.iter().take(MAX_HANGS).collect();
    for hang in &hangs {
        let label = if hang.certainty.is_verdict() { "Verdict" } else { "Not a verdict" };
        let _ = writeln!(ticket, "**{label}:** {}\n", span(&hang::headline(hang).words()));
        if let Some(recovery) = hang::recovery(hang) {
            let _ = writeln!(ticket, "{}\n", span(&recovery.words()));
        }
    }
    let more = report.hangs.len() - hangs.len();
    if more > 0 {
        let _ = writeln!(ticket, "and {}\n", plural(more as u64, "more hang"));
    }
    match &ending {
        Some(ending) => {
            let _ = writeln!(ticket, "**End of the run:** {}\n", span(&ending.words()));
        }
        None if hangs.is_empty() => ticket.push_str("**Verdict:** no hang\n\n"),
        None => {}
    }
    if report.redacted {
        let _ = writeln!(ticket, "Redacted: {}.\n", text::REDACTED);
    }
    facts(&mut ticket, report);
    stacks(&mut ticket, report);
    waits(&mut ticket, &hangs);
    log(&mut ticket, report);
    ticket
}

fn facts(ticket: &mut String, report: &Report) {
    let main = crate::html::main_hang(report);
    ticket.push_str("| fact | value |\n|---|---|\n");
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(ticket, "| {name} | {} |", cell(&value));
        }
    };
    row("bucket", main.and_then(|hang| hang.bucket.clone()));
    row("signature", main.map(|hang| hang.signature.clone()));
    row("certainty", main.map(|hang| crate::html::certainty(&hang.certainty)));
    row("captured at", report.captured_at.clone());
    row("host", Some(report.host.clone()));
    row("kernel", Some(crate::html::kernel(&report.image)));
    row("image", report.image.path.clone());
    row("build-id", report.image.build_id.clone());
    row("machine", Some(text::size_of_machine(&report.machine)));
    if report.outcome != Outcome::Hang {
        row("end of the run", Some(crate::html::end(&report.outcome)));
    }
    row("tool", Some(format!("{} {}", report.tool.name, report.tool.version)));
    ticket.push('\n');
}

fn stacks(ticket: &mut String, report: &Report) {
    let main = crate::html::main_hang(report);
    let index = main.and_then(|hang| hang.backtrace).map(|index| index as usize);
    let index = index.or_else(|| report.backtraces.len().checked_sub(1));
    let Some((index, backtrace)) = index.and_then(|at| Some((at, report.backtraces.get(at)?)))
    else {
        return;
    };
    let is_of_this = |hang: &&Hang| hang.backtrace.is_some_and(|at| at as usize == index);
    let hangs = report.hangs.iter().filter(is_of_this);
    let failed = crate::html::failed_cpu(report, index);
    let stacks = text::without_colors(&text::backtrace::main_parties(backtrace, hangs, failed));
    if stacks.trim().is_empty() {
        return;
    }
    ticket.push_str("**Stacks:**\n\n");
    let _ = writeln!(ticket, "{}", block(&cut_lines(&stacks, MAX_STACK_BYTES)));
}

fn waits(ticket: &mut String, hangs: &[&Hang]) {
    let mut left = MAX_WAITS_BYTES;
    for hang in hangs {
        let sentences = wait_graph::sentences(*hang);
        let shown = sentences.iter().take(MAX_WAITS).filter(|_| !hang.edges.is_empty());
        let items = shown.map(|sentence| format!("- {}\n", span(sentence)));
        let items: Vec<String> = items
            .take_while(|item| {
                let rest = left.checked_sub(item.len());
                left = rest.unwrap_or_default();
                rest.is_some()
            })
            .collect();
        if items.is_empty() {
            continue;
        }
        let list = items.concat();
        let more = match sentences.len() - items.len() {
            0 => String::new(),
            more => format!("- and {more} more\n"),
        };
        let _ = writeln!(ticket, "**Waits:**\n\n{list}{more}");
    }
}

fn log(ticket: &mut String, report: &Report) {
    let log = report.backtraces.iter().rev().find_map(|backtrace| backtrace.log.as_ref());
    let lines = log.map_or(&[][..], |log| &log.lines);
    let text: Vec<String> = last(lines)
        .iter()
        .map(|record| format!("{} {}", text::uptime(record), cut(&line(&record.text))))
        .collect();
    if !text.is_empty() {
        let _ = writeln!(ticket, "**Log:**\n\n{}", block(&text.join("\n")));
        return;
    }
    let text: Vec<String> =
        last(&report.console_tail).iter().map(|text| cut(&line(text))).collect();
    if !text.is_empty() {
        let _ = writeln!(ticket, "**Console:**\n\n{}", block(&text.join("\n")));
    }
}

fn last<T>(lines: &[T]) -> &[T] {
    &lines[lines.len().saturating_sub(MAX_LOG_LINES)..]
}

/// Returns the beginning of a text that a ticket has room for.
fn cut(text: &str) -> String {
    sanitize::cut(text.to_owned(), MAX_SPAN)
}

/// Returns the first lines of a text, of `most` bytes together, with a remark where it is longer.
fn cut_lines(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for line in text.trim_end().split_inclusive('\n') {
        let line = cut(line);
        if shown.len() + line.len() > most {
            shown.push_str("…, left out\n");
            break;
        }
        shown.push_str(&line);
        if line.ends_with('…') {
            shown.push('\n');
        }
    }
    shown
}

/// Returns the length of the longest run of backquotes in a text.
fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// Returns text as a code span.
fn span(text: &str) -> String {
    let text = cut(&line(text));
    let fence = "`".repeat(longest_run(&text) + 1);
    // A space on either side is dropped, and keeps a backquote apart from the fence. A span of spaces alone keeps
    // them, so that an empty text is no span.
    match text.trim().is_empty() {
        true => String::new(),
        false => format!("{fence} {text} {fence}"),
    }
}

/// Returns text as a code span in the cell of a table, where a bar ends the cell unless it is escaped.
fn cell(text: &str) -> String {
    // A backslash before the bar would escape the one that escapes the bar.
    span(text).replace("\\|", "\\ |").replace('|', "\\|")
}

/// Returns text as a code block.
fn block(text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_and_a_block_are_longer_than_any_backquotes_in_them() {
        assert_eq!(span("a"), "` a `");
        assert_eq!(span("a``b`"), "``` a``b` ```");
        assert_eq!(span("` <b>"), "`` ` <b> ``");
        assert_eq!(span("a\nb\x1b"), "` a\\nb\\u{1b} `");
        assert_eq!(block("x\n````\ny\n"), "`````text\nx\n````\ny\n`````\n");
        assert_eq!(block("x"), "```text\nx\n```\n");
    }

    #[test]
    fn a_bar_ends_no_cell() {
        assert_eq!(cell("a|b"), "` a\\|b `");
        assert_eq!(cell("a\\|b"), "` a\\ \\|b `");
    }

    #[test]
    fn long_stacks_are_cut_at_a_line() {
        let text = "0123456789\n".repeat(100);
        assert_eq!(cut_lines(&text, 35), "0123456789\n0123456789\n0123456789\n…, left out\n");
        assert_eq!(cut_lines("a\nb\n", 35), "a\nb");
    }
}
