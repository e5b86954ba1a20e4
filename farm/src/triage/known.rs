//! Hangs that are known: which signature is tracked where, as somebody has written it down in TOML.
//!
//! ```toml
//! [[known]]
//! signature = "7f3a91c2"     # 8 or 16 hexadecimal digits: the start of a signature, or all of it
//! url = "https://bugs.example/42"
//! note = "waits for the new journal"
//! until = "2026-12-31"       # the last day on which it counts as known
//! ```

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// All that is known, on some day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownFailures {
    entries: HashMap<String, KnownEntry>,
    today: Option<Date>,
}

/// Something that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KnownEntry {
    /// The signature, or the start of it: 16 or 8 hexadecimal digits.
    pub signature: String,
    /// Where it is tracked.
    pub url: String,
    /// What there is to say; null if that is nothing.
    pub note: Option<String>,
    /// The last day on which it counts as known; null if that is every day.
    pub until: Option<Date>,
}

/// A day: the year, the month, and the day of the month, as in `2026-12-31`, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Date(String);

impl Date {
    /// The current one.
    pub fn today() -> Self {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self(now.chars().take_while(|&character| character != 'T').collect())
    }
}

/// The reason why a text is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no day as in 2026-12-31")]
pub struct InvalidDate(String);

impl FromStr for Date {
    type Err = InvalidDate;

    fn from_str(text: &str) -> Result<Self, InvalidDate> {
        // Of one form, so that the order of texts is that of days.
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

/// Why a file does not say what is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", path.display())]
pub struct KnownFileError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1 on.
    pub line: usize,
    /// The column, in characters, from 1 on.
    pub column: usize,
    /// What is wrong there.
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
    until: Option<Spanned<String>>,
}

impl KnownFailures {
    /// Reads a file, for what is known today.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong ([`Wrong`]).
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        Ok(Self::parse(&text, path, Date::today())?)
    }

    /// What a file says, for what is known on a day.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
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
                    "a signature is wanted, or the start of one: 16 or 8 hexadecimal digits";
                return Err(wrong(at, message.into()));
            }
            let until = written.until.map(|until| {
                until
                    .get_ref()
                    .parse()
                    .map_err(|no_date: InvalidDate| wrong(until.span().start, no_date.to_string()))
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

    /// What is known of a signature today. An entry for all of it goes before one for its start.
    pub fn find(&self, signature: &str) -> Option<&KnownEntry> {
        self.entries_for(signature).find(|entry| !self.is_expired(entry))
    }

    /// What was known of a signature, until a day that is over.
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
    fn an_entry_is_found_by_the_start_of_a_signature_until_its_day_is_over() {
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
        let known = parse(TWO, "2027-01-01").unwrap();
        assert_eq!(known.expired("7f3a91c2deadbeef").unwrap().url, "https://bugs.example/2");
        assert_eq!(known.expired("7f3a91c200000000"), None);
    }

    #[test]
    fn what_is_wrong_has_a_line_and_a_column() {
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
    fn days_are_days() {
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
