//! Phrases that several reporters share.
//!
//! Owns the wording of statuses, hangs, names and times; refuses to own any layout. Called by the
//! reporters.

use std::path::Path;

use crate::event::{HangSummary, Id, Status, VmFinished};
use crate::results;
use nmiscope_report::sanitize;
use nmiscope_report::short_name;

/// Maximum length of a name in characters.
pub const MAX_NAME: usize = 160;
/// Maximum length of a sentence in characters.
pub const MAX_SENTENCE: usize = 400;
/// Maximum number of parties or locks of a hang that are named.
const MAX_PARTIES: usize = 4;

/// Makes text safe for a terminal and cuts it to one line of at most `most` characters.
pub fn one_line(text: &str, most: usize) -> String {
    // An escape has up to ten characters. Text far beyond the cut is not examined.
    let Some((end, _)) = text.char_indices().nth(most) else {
        return cut(sanitize::line(text), most);
    };
    cut(sanitize::line(&text[..end]) + "…", most)
}

fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        let last = text[..end].char_indices().next_back().map_or(0, |(last, _)| last);
        text.truncate(last);
        text.push('…');
    }
    text
}

/// Formats a VM's name, with the number of the run unless it is the first.
pub fn run_name(id: &Id) -> String {
    let name = one_line(&id.name, MAX_NAME);
    if id.run > 1 { format!("{name} #{}", id.run) } else { name }
}

/// Returns the verb for VMs with this status, as in "3 passed".
pub fn status_verb(status: Status) -> &'static str {
    match status {
        Status::Pass => "passed",
        Status::Fail => "failed",
        Status::Hang => "hung",
        Status::Crash => "crashed",
        Status::Timeout => "timed out",
        Status::Starved => "starved",
        Status::Broken => "broken",
        Status::Interrupted => "interrupted",
    }
}

/// Explains a try's status: its hang, the page that tracks it, the reason; `None` if there is nothing to
/// explain.
pub fn finding_text(end: &VmFinished) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(hang) = end.hang.as_ref().filter(|_| end.status == Status::Hang) {
        parts.push(hang_line(hang));
    }
    if let Some(url) = &end.known {
        parts.push(format!("known: {}", one_line(url, MAX_SENTENCE)));
    }
    if let Some(reason) = &end.reason {
        parts.push(one_line(reason, MAX_SENTENCE));
    }
    if end.flaky {
        parts.push(format!("passed in try {}", end.id.attempt));
    }
    (!parts.is_empty()).then(|| parts.join("   "))
}

/// Describes a hang on one line: its class, its parties, its signature.
pub fn hang_line(hang: &HangSummary) -> String {
    let mut text = hang.class.name().to_owned();
    if let Some(between) = parties(hang) {
        text = format!("{text}  {between}");
    }
    format!("{text}   sig {}", short_signature(hang))
}

/// Lists the locks of a hang, or else the parties to blame; `None` if there are none.
pub fn parties(hang: &HangSummary) -> Option<String> {
    let parties = if hang.locks.is_empty() { &hang.blamed } else { &hang.locks };
    // A cycle of waits ends where it began.
    let is_cycle = hang.class.is_cycle() && !hang.locks.is_empty();
    let separator = if is_cycle { " <-> " } else { ", " };
    let shown: Vec<String> =
        parties.iter().take(MAX_PARTIES).map(|party| one_line(party, MAX_NAME)).collect();
    let shown = shown.join(separator);
    match parties.len().saturating_sub(MAX_PARTIES) {
        _ if parties.is_empty() => None,
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

/// Describes a hang by its class and function.
pub fn hang_title(hang: &HangSummary) -> String {
    match &hang.function {
        Some(function) => format!("{} in {}", hang.class, one_line(short_name(function), MAX_NAME)),
        None => hang.class.name().into(),
    }
}

/// Returns the first eight digits of a hang's signature.
pub fn short_signature(hang: &HangSummary) -> String {
    one_line(results::short_signature(&hang.signature), 16)
}

/// Makes a path safe for a terminal.
pub fn path_text(path: &Path) -> String {
    one_line(&path.to_string_lossy(), 4096)
}

/// Formats a duration in seconds, for a column.
pub fn format_seconds(elapsed_ms: f64) -> String {
    format!("{:.2}s", elapsed_ms / 1000.0)
}

/// Formats the duration of a whole run, with minutes and hours where it is long.
pub fn format_duration(elapsed_ms: f64) -> String {
    let seconds = elapsed_ms / 1000.0;
    if seconds < 120.0 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 {
        format!("{minutes} min {seconds} s")
    } else {
        format!("{hours} h {minutes} min {seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_their_limit_after_escaping() {
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("abcde", 4), "abc…");
        assert_eq!(one_line("äöüßé", 4), "äöü…");
        assert_eq!(one_line("a\x1b[2J", 8), "a\\u{1b}…");
        for text in ["\x1b".repeat(1000), "\u{202e}x".repeat(1000), "x".repeat(1000)] {
            for most in [1, 2, 5, 100] {
                let line = one_line(&text, most);
                assert_eq!(line.chars().count(), most, "{line}");
                assert!(!line.chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn long_durations_show_minutes_and_hours() {
        assert_eq!(format_duration(18_300.0), "18.3 s");
        assert_eq!(format_duration(119_900.0), "119.9 s");
        assert_eq!(format_duration(123_000.0), "2 min 3 s");
        assert_eq!(format_duration(3_723_000.0), "1 h 2 min 3 s");
    }
}
