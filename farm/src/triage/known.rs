//! Known failures: signatures with the pages that track them, from a TOML file.
//!
//! ```toml
//! [[known]]
//! signature = "7f3a91c2"     # 8 or 16 hexadecimal digits: the start of a signature, or all of it
//! url = "https://bugs.example/42"
//! note = "waits for the new journal"
//! until = 2026-12-31         # the last day on which it counts as known
//! ```
//!
//! Owns the format and its mistakes; refuses to own the effect on an exit code. Called by triage, and by
//! a farm with `--known`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::timestamp::Timestamp;

/// Known failures on a given day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownFailures {
    entries: HashMap<String, KnownEntry>,
    today: Option<Date>,
}

/// A known failure, as the file of known failures lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KnownEntry {
    /// Signature of the failure, or its first eight digits: 16 or 8 hexadecimal digits.
    pub signature: String,
    /// URL of the page that tracks the failure.
    pub url: String,
    /// Remark for readers of the groups; null if there is none.
    pub note: Option<String>,
    /// Last day on which the failure counts as known; null if it never expires.
    pub until: Option<Date>,
}

/// Day in UTC, as in `2026-12-31`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Date(String);

impl Date {
    /// Returns the current day in UTC.
    pub fn today() -> Self {
        Timestamp::now().into()
    }
}

impl From<Timestamp> for Date {
    /// Returns the day of a time, in UTC.
    fn from(time: Timestamp) -> Self {
        Self(time.to_string().chars().take_while(|&character| character != 'T').collect())
    }
}

/// Error for a text that is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no day as in 2026-12-31")]
pub struct InvalidDate(String);

impl FromStr for Date {
    type Err = InvalidDate;

    fn from_str(text: &str) -> Result<Self, InvalidDate> {
        // Days have one form only, so that they compare as texts.
        let is_date =
            text.len() == 10 && humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).is_ok();
        if is_date { Ok(Self(text.into())) } else { Err(InvalidDate(text.into())) }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Mistake in a file of known failures, located by line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", path.display())]
pub struct KnownFileError {
    /// Path of the file of known failures.
    pub path: PathBuf,
    /// Line of the mistake, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Description of the mistake, for people.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownFile {
    #[serde(default)]
    known: Vec<EntryTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryTable {
    signature: Spanned<String>,
    url: String,
    note: Option<String>,
    until: Option<Spanned<toml::Value>>,
}

impl KnownFailures {
    /// Reads a file of known failures, as of today.
    ///
    /// # Errors
    /// Fails if the file cannot be read or has a mistake ([`KnownFileError`]).
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        Ok(Self::parse(&text, path, Date::today())?)
    }

    /// Parses a file of known failures, as of `today`.
    ///
    /// # Errors
    /// Fails with the first mistake in the text.
    pub fn parse(text: &str, path: &Path, today: Date) -> Result<Self, KnownFileError> {
        let wrong = |at: usize, message: String| {
            let before = &text[..text.floor_char_boundary(at)];
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            KnownFileError {
                path: path.into(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message,
            }
        };
        let written: KnownFile = toml::from_str(text).map_err(|error| {
            wrong(error.span().map_or(0, |span| span.start), error.message().to_owned())
        })?;
        let mut entries = HashMap::new();
        for written in written.known {
            let at = written.signature.span().start;
            let signature = written.signature.into_inner().to_ascii_lowercase();
            let digits = signature.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !digits || !matches!(signature.len(), 8 | 16) {
                let message =
                    "expected a signature, or the start of one: 16 or 8 hexadecimal digits";
                return Err(wrong(at, message.into()));
            }
            let until = written.until.map(|until| {
                // A date of TOML, or the same in quotes; a time with it is no day.
                let text = match until.get_ref() {
                    toml::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let no_day = |no_date: InvalidDate| wrong(until.span().start, no_date.to_string());
                text.parse().map_err(no_day)
            });
            let entry = KnownEntry {
                signature: signature.clone(),
                url: written.url,
                note: written.note,
                until: until.transpose()?,
            };
            if entries.insert(signature, entry).is_some() {
                return Err(wrong(at, "this signature is there already, further up".into()));
            }
        }
        Ok(Self { entries, today: Some(today) })
    }

    /// Makes entries that never expire of signatures and the URLs at which they are tracked, as a farm's
    /// events have them.
    pub fn from_urls<'a>(urls: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let entry = |(signature, url): (&str, &str)| {
            let entry = KnownEntry {
                signature: signature.into(),
                url: url.into(),
                note: None,
                until: None,
            };
            (signature.to_owned(), entry)
        };
        Self { entries: urls.into_iter().map(entry).collect(), today: None }
    }

    /// Finds the entry that makes a signature known today; one for the whole signature precedes one for
    /// its start.
    pub fn find(&self, signature: &str) -> Option<&KnownEntry> {
        self.entries_for(signature).find(|entry| !self.is_expired(entry))
    }

    /// Finds the entry that made a signature known until it expired.
    pub fn expired(&self, signature: &str) -> Option<&KnownEntry> {
        self.entries_for(signature).find(|entry| self.is_expired(entry))
    }

    fn entries_for(&self, signature: &str) -> impl Iterator<Item = &KnownEntry> {
        let starts = [signature.get(..16), signature.get(..8)];
        starts.into_iter().flatten().filter_map(|start| self.entries.get(start))
    }

    fn is_expired(&self, entry: &KnownEntry) -> bool {
        entry.until.as_ref().is_some_and(|until| self.today.as_ref() > Some(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, today: &str) -> Result<KnownFailures, KnownFileError> {
        KnownFailures::parse(text, Path::new("known.toml"), today.parse().unwrap())
    }

    const TWO: &str = r#"
        [[known]]
        signature = "7F3A91C2"
        url = "https://bugs.example/1"
        [[known]]
        signature = "7f3a91c2deadbeef"
        url = "https://bugs.example/2"
        note = "only on Tuesdays"
        until = "2026-12-31"
    "#;

    #[test]
    fn known_entry_matches_a_signatures_start_until_it_expires() {
        let rows = [
            ("7f3a91c2deadbeef", "2026-12-31", Some("https://bugs.example/2")),
            ("7f3a91c2deadbeef", "2027-01-01", Some("https://bugs.example/1")),
            ("7f3a91c200000000", "2026-12-31", Some("https://bugs.example/1")),
            ("7f3a91c300000000", "2026-12-31", None),
            ("7f3a", "2026-12-31", None),
            ("", "2026-12-31", None),
        ];
        for (signature, today, url) in rows {
            let known = parse(TWO, today).unwrap();
            let found = known.find(signature).map(|entry| entry.url.as_str());
            assert_eq!(found, url, "{signature} on {today}");
        }
        // A date of TOML is the same day.
        let dated = TWO.replace("\"2026-12-31\"", "2026-12-31");
        assert_eq!(parse(&dated, "2026-12-31"), parse(TWO, "2026-12-31"));
        let known = parse(TWO, "2027-01-01").unwrap();
        assert_eq!(known.expired("7f3a91c2deadbeef").unwrap().url, "https://bugs.example/2");
        assert_eq!(known.expired("7f3a91c200000000"), None);
    }

    #[test]
    fn an_empty_known_file_lists_no_failure() {
        assert_eq!(parse("", "2026-12-31").unwrap().find("7f3a91c2deadbeef"), None);
    }

    #[test]
    fn mistakes_in_a_known_file_have_line_and_column() {
        let rows = [
            ("[[known]]\nsignature = \"7f3\"\nurl = \"\"", (2, 13), "hexadecimal"),
            ("[[known]]\nsignature = \"7f3a91cg\"\nurl = \"\"", (2, 13), "hexadecimal"),
            ("[[known]]\nsignature = \"7f3a91c2\"", (1, 1), "url"),
            ("[[known]]\nsig = \"7f3a91c2\"", (2, 1), "unknown field `sig`"),
            ("[[known]]\n  signature = 7\nurl = \"\"", (2, 15), "invalid type"),
            ("known = [", (1, 10), "array"),
            (
                "[[known]]\nsignature = \"7f3a91c2\"\nurl = \"\"\nuntil = \"2026-02-30\"",
                (4, 9),
                "no day",
            ),
            ("[[known]]\nsignature = \"7f3a91c2\"\nurl = \"\"\nuntil = 7", (4, 9), "no day"),
            (
                "[[known]]\nsignature = \"7f3a91c2\"\nurl = \"\"\nuntil = 2026-12-31T00:00:00Z",
                (4, 9),
                "no day",
            ),
            (
                "[[known]]\nsignature = \"7f3a91c2\"\nurl = \"\"\n\
                 [[known]]\nsignature = \"7F3A91C2\"\nurl = \"\"",
                (5, 13),
                "already",
            ),
        ];
        for (text, at, message) in rows {
            let wrong = parse(text, "2026-01-01").unwrap_err();
            assert_eq!((wrong.line, wrong.column), at, "{wrong}");
            assert!(wrong.to_string().contains(message), "{wrong}");
            assert!(wrong.to_string().starts_with("known.toml:"), "{wrong}");
        }
        assert_eq!(parse("", "2026-01-01").unwrap().find("7f3a91c2deadbeef"), None);
    }

    #[test]
    fn only_calendar_days_parse_as_dates() {
        for day in ["2026-12-31", "2024-02-29"] {
            assert_eq!(day.parse::<Date>().unwrap().to_string(), day);
        }
        for day in
            ["", "2026-13-01", "2026-1-1", "2025-02-29", "31.12.2026", "2026-12-31T00:00:00Z"]
        {
            assert!(day.parse::<Date>().is_err(), "{day}");
        }
        assert!(Date::today() >= "2020-01-01".parse().unwrap());
        assert!(Date::today().to_string().parse::<Date>().is_ok());
    }
}
