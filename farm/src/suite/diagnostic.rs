//! Mistakes in a suite: each message with its line and column, the line itself, and a mark below the
//! mistake.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nmiscope_report::nearest;
use nmiscope_report::sanitize;

/// Reason why a file is no suite.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The file cannot be read.
    #[error("failed to read the suite {}", path.display())]
    Unreadable {
        /// Path of the suite's file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file is no valid suite.
    #[error("{}", show_all(path, diagnostics))]
    Invalid {
        /// Path of the suite's file.
        path: PathBuf,
        /// Mistakes in the file from top to bottom, at least one.
        diagnostics: Vec<Diagnostic>,
    },
}

/// A mistake in a suite, located by line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line of the mistake, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Description of the mistake, for people.
    pub message: String,
    /// Line of the mistake, with a mark below it.
    excerpt: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n{}", self.line, self.column, self.message, self.excerpt)
    }
}

/// Maximum number of mistakes shown; a file with more was hardly meant to be a suite.
const MAX_SHOWN: usize = 20;

fn show_all(path: &Path, wrong: &[Diagnostic]) -> String {
    let path = sanitize::line(&path.display().to_string());
    let shown = wrong.iter().take(MAX_SHOWN).map(|wrong| format!("{path}:{wrong}"));
    let more = wrong.len().saturating_sub(MAX_SHOWN);
    let more = (more > 0).then(|| format!("and {more} more"));
    shown.chain(more).collect::<Vec<_>>().join("\n")
}

/// A mistake in a suite, located by bytes of the text: the form in which it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    span: Range<usize>,
    message: String,
    /// Second place that belongs to the mistake, as a phrase and a byte offset.
    other: Option<(&'static str, usize)>,
}

impl Problem {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), other: None }
    }

    /// Mistake of repeating something that stands at `first` already.
    pub(super) fn duplicate(span: Range<usize>, message: impl Into<String>, first: usize) -> Self {
        Self { other: Some(("the first one is in line", first)), ..Self::new(span, message) }
    }

    /// Mistake of using a key that does not exist.
    pub(super) fn unknown_key(span: Range<usize>, key: &str, keys: &[&str]) -> Self {
        Self::new(span, format!("unknown key `{key}`; {}", nearest::hint(key, keys)))
    }

    /// Converts an error of the TOML parser or of a type of [`super::file`]. `also` lists keys that the
    /// table may have in addition to the type's.
    pub(super) fn from_toml(error: &toml::de::Error, also: &[&str]) -> Self {
        let message = error.message();
        let message = rewrite_serde_message(message, also).unwrap_or_else(|| message.to_owned());
        Self::new(error.span().unwrap_or(0..0), message)
    }

    pub(super) fn at(&self) -> usize {
        self.span.start
    }
}

/// Rewrites serde's message about an unknown name to suggest the name that is meant. serde has the known
/// names only inside its message; a message of another form yields `None`.
fn rewrite_serde_message(message: &str, also: &[&str]) -> Option<String> {
    let (kind, rest, also) = match message.strip_prefix("unknown field `") {
        Some(rest) => ("key", rest, also),
        None => ("word", message.strip_prefix("unknown variant `")?, &[][..]),
    };
    let (name, known) = rest.split_once("`, expected ")?;
    let known: Vec<&str> =
        known.split('`').skip(1).step_by(2).chain(also.iter().copied()).collect();
    Some(format!("unknown {kind} `{name}`; {}", nearest::hint(name, &known)))
}

impl SuiteError {
    pub(super) fn wrong(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::at);
        let diagnostics = problems.into_iter().map(|problem| locate(text, problem)).collect();
        Self::Invalid { path: path.into(), diagnostics }
    }
}

fn locate(text: &str, problem: Problem) -> Diagnostic {
    let Problem { span, message, other } = problem;
    let start = text.floor_char_boundary(span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let number = line_of(text, start);
    let column = text[line_start..start].chars().count();
    let end = text
        .floor_char_boundary(span.end)
        .clamp(start, line_start + line.len().max(start - line_start));
    let width = text[start..end].chars().count().max(1);
    let message = match other {
        Some((what, at)) => format!("{message}; {what} {}", line_of(text, at)),
        None => message,
    };
    let excerpt = excerpt(number, line, column, width);
    Diagnostic { line: number, column: column + 1, message: sanitize::line(&message), excerpt }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..text.floor_char_boundary(at)].matches('\n').count() + 1
}

/// Formats a line, cut to the width of a terminal, with a mark below some of its characters.
fn excerpt(number: usize, line: &str, column: usize, width: usize) -> String {
    const WIDEST: usize = 100;
    let harmless = |character: char| {
        let dangerous = sanitize::line(character.encode_utf8(&mut [0; 4])).chars().count() != 1;
        // Replace characters one for one, so that the mark stays in place.
        if dangerous { if character == '\t' { ' ' } else { '\u{fffd}' } } else { character }
    };
    let cut = column.saturating_sub(WIDEST / 2);
    let shown: String = line.chars().skip(cut).take(WIDEST).map(harmless).collect();
    let before = if cut > 0 { "..." } else { "" };
    let indent = " ".repeat(before.len() + column - cut);
    let mark = "^".repeat(width.min(WIDEST + cut - column).max(1));
    let number = number.to_string();
    let gutter = " ".repeat(number.len());
    format!("  {number} | {before}{shown}\n  {gutter} | {indent}{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_stands_below_the_marked_characters() {
        let long = format!("{}x = 1", "y".repeat(300));
        let rows = [
            ("a = 1\nbcd = 2\n", 6..9, "2:1", "  2 | bcd = 2\n    | ^^^"),
            ("\u{e4}\u{f6} = 1", 7..8, "1:6", "  1 | \u{e4}\u{f6} = 1\n    |      ^"),
            ("a\t= \u{7}", 4..5, "1:5", "  1 | a = \u{fffd}\n    |     ^"),
            // A mark ends with its line; at the line's end, it still marks one column.
            ("a = [\n1]", 4..8, "1:5", "  1 | a = [\n    |     ^"),
            ("a = 1", 5..5, "1:6", "  1 | a = 1\n    |      ^"),
            ("a = 1", 99..200, "1:6", "  1 | a = 1\n    |      ^"),
            ("a\r\nb\r\n", 3..4, "2:1", "  2 | b\n    | ^"),
            ("", 0..0, "1:1", "  1 | \n    | ^"),
        ];
        for (text, span, place, excerpt) in rows {
            let wrong = locate(text, Problem::new(span, "no"));
            assert_eq!(wrong.to_string(), format!("{place}: no\n{excerpt}"));
        }
        let wrong = locate(&long, Problem::new(300..301, "no"));
        let lines: Vec<&str> = wrong.excerpt.lines().collect();
        assert!(lines[0].len() < 120, "{}", wrong.excerpt);
        assert_eq!(lines[0].find('x'), lines[1].find('^'));
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let rows = [
            (
                "unknown field `cpu`, expected one of `cpus`, `memory`",
                Some("unknown key `cpu`; did you mean `cpus`?"),
            ),
            (
                "unknown field `nmae`, expected `cpus`",
                Some("unknown key `nmae`; did you mean `name`?"),
            ),
            (
                "unknown field `xyzzy`, expected `cpus` or `memory`",
                Some("unknown key `xyzzy`; there are cpus, memory, name"),
            ),
            (
                "unknown variant `pas`, expected `pass`",
                Some("unknown word `pas`; did you mean `pass`?"),
            ),
            // Keys are no hint for a value.
            (
                "unknown variant `nmae`, expected `pass` or `hang`",
                Some("unknown word `nmae`; there are pass, hang"),
            ),
            ("missing field `x`", None),
        ];
        for (message, ours) in rows {
            assert_eq!(rewrite_serde_message(message, &["name"]).as_deref(), ours);
        }
    }

    #[test]
    fn long_lists_of_mistakes_are_cut() {
        let problems = (0..30).map(|at| Problem::new(at..at, "no")).collect();
        let error = SuiteError::wrong(Path::new("s.toml"), &"x".repeat(30), problems).to_string();
        assert!(error.starts_with("s.toml:1:1: no\n"), "{error}");
        assert!(error.ends_with("\nand 10 more"), "{error}");
    }
}
