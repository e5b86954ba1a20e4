//! The journal of a results directory: the farm's events in order, one line of JSON each.
//!
//! An event is appended before it is reported, so the journal is true even if the farm that wrote it died.
//!
//! Owns the format of a line and how a cut one is treated; refuses to own the meaning of events
//! (`event`). Called by `results`, `merge`, triage and the command line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Context;

use super::event::{EVENT_SCHEMA_VERSION, EventKind, FarmEvent};

/// Name of the journal's file in a results directory.
pub const FILE: &str = "events.jsonl";

/// Maximum number of bytes read of a line; an event takes a few hundred.
const MAX_LINE: u64 = 1 << 20;

/// A journal open for appending.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Length of the journal's complete lines in bytes.
    length: u64,
}

impl Journal {
    /// Opens the journal of a results directory, and creates it if there is none.
    ///
    /// # Errors
    /// Fails if the file cannot be read or written.
    pub fn open(results: &Path) -> anyhow::Result<Self> {
        let path = results.join(FILE);
        let failed = || format!("failed to open {}", path.display());
        let options = OpenOptions::new().create(true).append(true).read(true).open(&path);
        let mut file = options.with_context(failed)?;
        // A farm that died may have left half a line.
        let mut length = file.seek(SeekFrom::End(0)).with_context(failed)?;
        if length > 0 {
            file.seek(SeekFrom::End(-1)).with_context(failed)?;
            let mut last = [0];
            file.read_exact(&mut last).with_context(failed)?;
            if last != *b"\n" {
                file.write_all(b"\n").with_context(failed)?;
                length += 1;
            }
        }
        Ok(Self { file, length })
    }

    /// Appends an event as a whole line, or nothing: of an event for which the disk has no room, the bytes
    /// already written are cut off again.
    ///
    /// # Errors
    /// Fails if the line could not be written, for example because the disk is full.
    pub fn append(&mut self, event: &FarmEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let written = self.file.write_all(&line);
        match written {
            Ok(()) => self.length += line.len() as u64,
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }
}

/// Contents of a journal, as far as they could be parsed.
#[derive(Debug, Default)]
pub struct JournalContents {
    /// Events in the order in which they happened.
    pub events: Vec<FarmEvent>,
    /// Numbers, from 1, of lines that are not events: a farm died while writing them.
    pub damaged: Vec<u64>,
}

impl JournalContents {
    /// Returns why this program cannot read the journal if a later version wrote it; `None` if it can.
    pub fn is_later(&self) -> Option<String> {
        let version = self.events.iter().find_map(|event| match &event.kind {
            EventKind::FarmStarted(started) => {
                Some(started.schema_version).filter(|&is| is > EVENT_SCHEMA_VERSION)
            }
            _ => None,
        })?;
        Some(format!(
            "its events are of format {version}, and this program reads format {EVENT_SCHEMA_VERSION}"
        ))
    }
}

/// Reads the journal of a results directory.
///
/// # Errors
/// Fails if the journal does not exist or cannot be read.
pub fn read(results: &Path) -> anyhow::Result<JournalContents> {
    let path = results.join(FILE);
    let failed = || format!("failed to read {}", path.display());
    let mut reader = BufReader::new(File::open(&path).with_context(failed)?);
    let mut contents = JournalContents::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.with_context(failed)? == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(event) => contents.events.push(event),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(_) => contents.damaged.push(number),
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::Timestamp;

    fn interrupted(by: &str) -> FarmEvent {
        FarmEvent {
            time: Timestamp::from_unix_ms(7),
            kind: EventKind::FarmInterrupted { by: by.into() },
        }
    }

    #[test]
    fn half_a_journal_line_does_not_damage_the_next_line() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        journal.append(&interrupted("a")).unwrap();
        journal.file.write_all(b"{\"time\": \"2026-").unwrap();
        drop(journal);
        let mut journal = Journal::open(directory.path()).unwrap();
        journal.append(&interrupted("b")).unwrap();
        let contents = read(directory.path()).unwrap();
        assert_eq!(contents.events, [interrupted("a"), interrupted("b")]);
        assert_eq!(contents.damaged, [2]);
    }

    /// Journal in tests/former: written by a farm whose events were of version 1.
    #[test]
    fn journal_of_version_1_is_read_completely() {
        let directory = tempfile::tempdir().unwrap();
        let former = include_str!("../tests/former/events.jsonl");
        std::fs::write(directory.path().join(FILE), former).unwrap();
        let contents = read(directory.path()).unwrap();
        assert_eq!((contents.events.len(), &contents.damaged[..]), (10, &[][..]));
        assert_eq!(contents.is_later(), None);
        let EventKind::FarmStarted(started) = &contents.events[0].kind else {
            panic!("{contents:?}")
        };
        assert_eq!((started.schema_version, started.planned), (1, 3));
        // `date --date=@1795849609.903 --utc`.
        assert_eq!(contents.events[0].time.to_string(), "2026-11-28T07:06:49.903Z");
        let EventKind::VmFinished(end) = &contents.events[8].kind else { panic!("{contents:?}") };
        assert_eq!(end.hang.as_ref().unwrap().signature, "0a2e58fd7c78e78d");
    }

    #[test]
    fn journal_of_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let former = include_str!("../tests/former/events.jsonl");
        let later = former.replace("\"version\":1", "\"schema_version\":3");
        std::fs::write(directory.path().join(FILE), later).unwrap();
        let reason = read(directory.path()).unwrap().is_later();
        assert!(reason.is_some_and(|reason| reason.contains("format 3")));
    }

    #[test]
    fn missing_journal_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = format!("{:#}", read(directory.path()).unwrap_err());
        assert!(error.contains(FILE), "{error}");
    }
}
