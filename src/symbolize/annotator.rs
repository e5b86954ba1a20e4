//! The log as a whole: takes bytes in pieces of any size, and writes the same bytes with annotations at the
//! ends of lines, or a JSON record for each reference.
//!
//! Owns the splitting into lines, and the address offset (KASLR) of each boot in the log. Every byte of the
//! log is written unchanged. Does no I/O except on the given output. Called by `cli`.
//!
//! A kernel prints its address offset at the end of a panic, after the addresses that need it. So a line
//! with a bare address, and everything after it, is held back until the offset is known, the boot or the
//! log ends, or the caller calls [`Annotator::flush`] because no more input comes for now. Modern traces
//! have names instead of addresses, and are never held back.

use std::io::{self, Write};
use std::mem;

use super::grammar::{CodeLocation, Grammar, Line, Notice, Reference};
use super::lookup::{Lookup, Resolution};
use super::summary::release;
use super::{LogSummary, one_line, write_record};

/// Largest piece of a line that is parsed at once, in bytes. A longer line is still written as one line.
const MAX_PIECE: usize = 64 << 10;
/// Largest number of bytes that are held back.
const MAX_HELD: usize = 256 << 20;
/// Size at which the annotation of one line takes no more matches, in bytes.
const MAX_ANNOTATION: usize = 64 << 10;
/// KASLR moves a kernel by multiples of CONFIG_PHYSICAL_ALIGN, which is at least 2 MiB, and by less
/// than 1 GiB (`handle_relocations()` in arch/x86/boot/compressed/misc.c).
const OFFSET_GRANULE: u64 = 2 << 20;
const MAX_OFFSET: u64 = 1 << 30;

/// Format of the output that an annotator writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The log, with functions and source lines at the ends of lines.
    Text,
    /// A line with a [`Record`](nmiscope_report::reference::ResolvedReference) for each reference, without the log.
    Json,
}

/// The state of annotating one log.
pub struct Annotator<'a, W> {
    lookup: Lookup<'a>,
    output: W,
    format: Format,
    grammar: Grammar,
    /// Unparsed part of the current line.
    partial: Vec<u8>,
    /// True if `partial` is not the start of its line.
    is_continued: bool,
    /// Annotation to write at the end of the current line.
    annotation: String,
    /// Number of resolutions that had no room in the annotation.
    unshown: u64,
    /// Number of the current line, from 1.
    line_number: u64,
    /// KASLR offset that the user gave, in bytes.
    given_offset: Option<u64>,
    /// KASLR offset of the current boot, in bytes; `None` before it is known.
    offset: Option<u64>,
    /// Lines that are held back until the offset is known.
    held: Option<Held>,
    /// True once lines of this boot were released without an offset: no more are held back.
    holds_no_more: bool,
    /// True if the image has a `Linux version`, so that the log's is not needed for the release.
    has_banner: bool,
    summary: LogSummary,
}

/// Lines that are held back, and the grammar's state at their start.
struct Held {
    bytes: Vec<u8>,
    grammar: Grammar,
}

impl<'a, W: Write> Annotator<'a, W> {
    /// Prepares to annotate a log from `lookup`. `offset` is the distance in bytes of the running kernel
    /// from its link addresses, if the user gave it; otherwise the log may contain it.
    pub fn new(mut lookup: Lookup<'a>, offset: Option<u64>, format: Format, output: W) -> Self {
        let summary = LogSummary::new(lookup.image());
        let has_banner = summary.image_banner.is_some();
        lookup.set_release(summary.image_banner.as_deref().and_then(release));
        Self {
            summary,
            has_banner,
            lookup,
            output,
            format,
            grammar: Grammar::default(),
            partial: Vec::new(),
            is_continued: false,
            annotation: String::new(),
            unshown: 0,
            line_number: 1,
            given_offset: offset,
            offset: None,
            held: None,
            holds_no_more: false,
        }
    }

    /// Returns true while lines are held back.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Takes the next bytes of the log, and writes all lines that are not held back.
    ///
    /// # Errors
    /// The output cannot be written to.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.partial.len();
            let within = &bytes[..bytes.len().min(room)];
            if let Some(end) = within.iter().position(|&byte| byte == b'\n') {
                self.partial.extend_from_slice(&bytes[..=end]);
                bytes = &bytes[end + 1..];
                self.take_piece(true)?;
            } else {
                self.partial.extend_from_slice(within);
                bytes = &bytes[within.len()..];
                if self.partial.len() == MAX_PIECE {
                    self.take_piece(false)?;
                }
            }
        }
        self.output.flush()
    }

    /// Writes the lines that are held back, without an offset. Call it when no more input comes for now.
    ///
    /// # Errors
    /// The output cannot be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.release()?;
        self.output.flush()
    }

    /// Writes the rest of the log, and returns the summary.
    ///
    /// # Errors
    /// The output cannot be written to.
    pub fn finish(mut self) -> io::Result<LogSummary> {
        if !self.partial.is_empty() || self.is_continued {
            self.take_piece(true)?;
        }
        self.release()?;
        if self.is_continued {
            self.end_line(b"")?;
        }
        self.output.flush()?;
        Ok(self.summary)
    }

    /// Parses `partial`, which is a whole line or the last piece of one if `is_last`, and otherwise an
    /// earlier piece.
    fn take_piece(&mut self, is_last: bool) -> io::Result<()> {
        let mut piece = mem::take(&mut self.partial);
        let rest = if is_last { Vec::new() } else { piece.split_off(word_boundary(&piece)) };
        if let Some(held) = &mut self.held {
            let notice = if self.is_continued { None } else { Grammar::notice(content(&piece)) };
            let is_full = held.bytes.len() + piece.len() > MAX_HELD;
            if notice.is_none() && !is_full {
                held.bytes.extend_from_slice(&piece);
                self.next_piece(piece, rest, is_last);
                return Ok(());
            }
            if let Some(Notice::Offset(offset)) = notice {
                self.set_offset(offset);
            }
            self.release()?;
        }
        self.read(&piece, is_last)?;
        self.next_piece(piece, rest, is_last);
        Ok(())
    }

    /// Prepares for the input after a piece. `rest` is the start of the next piece.
    fn next_piece(&mut self, mut piece: Vec<u8>, rest: Vec<u8>, is_last: bool) {
        self.is_continued = !is_last;
        // Reuses the buffer.
        piece.clear();
        piece.extend_from_slice(&rest);
        self.partial = piece;
    }

    fn read(&mut self, piece: &[u8], is_last: bool) -> io::Result<()> {
        let before = self.grammar.clone();
        let text = if is_last { content(piece) } else { piece };
        let Line { references, notice } = if self.is_continued {
            self.grammar.continuation(text)
        } else {
            self.grammar.line(text)
        };
        match notice {
            Some(Notice::Offset(offset)) => self.set_offset(offset),
            Some(Notice::Boot(banner)) => self.begin_boot(banner),
            None => {}
        }
        if !self.is_continued && references.iter().any(|reference| self.must_wait(reference)) {
            self.held = Some(Held { bytes: piece.to_vec(), grammar: before });
            return Ok(());
        }
        self.emit(text, &references)?;
        if is_last {
            self.end_line(&piece[text.len()..])?;
        }
        Ok(())
    }

    /// Begins the log of another boot, whose kernel has another offset.
    fn begin_boot(&mut self, banner: &[u8]) {
        self.offset = None;
        self.holds_no_more = false;
        self.summary.compare_banner(banner);
        if !self.has_banner {
            self.lookup.set_release(release(&String::from_utf8_lossy(banner)));
        }
    }

    /// Sets the KASLR offset that the log contains. A second, different offset is of another boot whose
    /// first line is missing from the log, which the summary reports.
    fn set_offset(&mut self, offset: u64) {
        let is_other = self.offset.is_some_and(|known| known != offset);
        self.summary.several_offsets |= is_other && self.given_offset.is_none();
        self.offset = Some(offset);
    }

    /// Returns true if a reference must be held back because its lookup needs the offset.
    fn must_wait(&mut self, reference: &Reference<'_>) -> bool {
        let is_known = self.given_offset.or(self.offset).is_some();
        let CodeLocation::Address(address) = reference.target else { return false };
        !is_known
            && !self.holds_no_more
            && !self.lookup.is_user_space(address)
            && self.lookup.may_be_moved(address)
    }

    /// Parses the lines that were held back again, writes them, and holds back no more of this boot.
    fn release(&mut self) -> io::Result<()> {
        let Some(held) = self.held.take() else { return Ok(()) };
        self.grammar = held.grammar;
        self.holds_no_more = true;
        for line in held.bytes.split_inclusive(|&byte| byte == b'\n') {
            self.is_continued = false;
            let mut rest = line;
            while rest.len() > MAX_PIECE {
                let (piece, more) = rest.split_at(word_boundary(&rest[..MAX_PIECE]));
                self.read(piece, false)?;
                self.is_continued = true;
                rest = more;
            }
            let is_last = rest.ends_with(b"\n");
            self.read(rest, is_last)?;
            self.is_continued = !is_last;
        }
        Ok(())
    }

    /// Writes a line's text and remembers its annotation, or writes its records.
    fn emit(&mut self, text: &[u8], references: &[Reference<'_>]) -> io::Result<()> {
        if self.format == Format::Text {
            self.output.write_all(text)?;
        }
        for reference in references {
            if let CodeLocation::Address(address) = reference.target
                && self.lookup.is_user_space(address)
            {
                continue;
            }
            self.learn_offset(reference);
            let offset = self.given_offset.or(self.offset);
            let answer = self.lookup.answer(reference, offset.unwrap_or(0));
            self.summary.count(reference, &answer, offset);
            match self.format {
                Format::Json => self.record(text, reference, &answer)?,
                Format::Text => self.annotate(&answer),
            }
        }
        Ok(())
    }

    fn annotate(&mut self, answer: &Resolution) {
        if answer.matches.is_empty() {
            return;
        }
        if self.annotation.len() >= MAX_ANNOTATION {
            self.unshown += 1;
            return;
        }
        self.annotation.push_str("  ");
        self.annotation.push_str(&one_line(answer));
    }

    fn end_line(&mut self, ending: &[u8]) -> io::Result<()> {
        self.line_number += 1;
        let unshown = mem::take(&mut self.unshown);
        if unshown > 0 {
            self.annotation.push_str(&format!("  ({unshown} more, not shown)"));
        }
        if self.format == Format::Text {
            self.output.write_all(self.annotation.as_bytes())?;
            self.output.write_all(ending)?;
        }
        self.annotation.clear();
        Ok(())
    }

    fn record(
        &mut self,
        text: &[u8],
        reference: &Reference<'_>,
        answer: &Resolution,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(&text[reference.span.clone()]);
        write_record(&mut self.output, Some(self.line_number), &text, reference, answer)
    }

    /// Derives the offset from an address that is printed beside its symbol.
    fn learn_offset(&mut self, reference: &Reference<'_>) {
        let CodeLocation::Symbol(symbol) = &reference.target else { return };
        let Some(address) = symbol.address.filter(|_| self.offset.is_none()) else { return };
        let Some(linked) = self.lookup.linked_address(symbol) else { return };
        // A hashed pointer passes this check about once in a million times.
        let offset = address.wrapping_sub(linked);
        if offset < MAX_OFFSET && offset % OFFSET_GRANULE == 0 {
            self.offset = Some(offset);
        }
    }
}

/// Returns a line without its line end.
fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
    &line[..end]
}

/// Returns the length of the piece up to its last blank, so that no word is cut; the whole length without
/// a blank.
fn word_boundary(piece: &[u8]) -> usize {
    match piece.iter().rposition(|&byte| byte == b' ') {
        Some(blank) if blank > 0 => blank,
        _ => piece.len(),
    }
}
