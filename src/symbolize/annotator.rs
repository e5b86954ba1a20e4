//! A log as a whole: bytes in, in pieces of any size; the same bytes out, with annotations at the
//! ends of lines, or a JSON record for each reference.
//!
//! Owns where lines begin and end, and the address offset (KASLR) of each boot that the log is of.
//! Every byte of the log is written as it came. Owns no I/O but writing to what it is given. Called
//! by `cli`.
//!
//! A kernel prints its address offset at the end of a panic, behind the addresses that it concerns.
//! So a line with a bare address is held back, and everything behind it, until the offset is
//! known, the boot or the log ends, or the caller says that nothing more is coming for now
//! ([`Annotator::flush`]). Modern traces have names instead of addresses, and are never held.

use std::io::{self, Write};
use std::mem;

use super::grammar::{Grammar, Line, Notice, Reference, Target};
use super::lookup::{Answer, Lookup};
use super::summary::release;
use super::{Summary, one_line, write_record};

/// Longer lines are read in pieces, so that memory is bounded; they are still written as one line.
const MAX_PIECE: usize = 64 << 10;
/// The most that is held back, in bytes.
const MAX_HELD: usize = 256 << 20;
/// The most that is written behind one line, in bytes.
const MAX_ANNOTATION: usize = 64 << 10;
/// KASLR moves a kernel by multiples of CONFIG_PHYSICAL_ALIGN, which is at least 2 MiB, and by less
/// than 1 GiB (`handle_relocations()` in arch/x86/boot/compressed/misc.c).
const OFFSET_GRANULE: u64 = 2 << 20;
const MAX_OFFSET: u64 = 1 << 30;

/// The output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The log, annotated.
    Text,
    /// A [`ResolvedReference`](nmiscope_report::reference::ResolvedReference) a line for each reference, and nothing of the log.
    Json,
}

/// Annotates a log.
pub struct Annotator<'a, W> {
    lookup: Lookup<'a>,
    output: W,
    format: Format,
    grammar: Grammar,
    /// The part of a line that has come so far.
    partial: Vec<u8>,
    /// `partial` is not the start of its line.
    is_continued: bool,
    /// The text that is to be written at the end of the line.
    annotation: String,
    /// Number of answers for which there was no room in it.
    unshown: u64,
    /// The number of the line, from 1.
    line_number: u64,
    /// The offset that the user has given.
    given_offset: Option<u64>,
    /// The offset of the boot that the log is at.
    offset: Option<u64>,
    /// Lines that wait for the offset.
    held: Option<Held>,
    /// The caller has said that nothing more came: lines of this boot wait no more.
    holds_no_more: bool,
    /// The image says of which kernel it is, so that the log need not be asked.
    has_banner: bool,
    summary: Summary,
}

/// Lines that wait, and the state from which they are read again.
struct Held {
    bytes: Vec<u8>,
    grammar: Grammar,
}

impl<'a, W: Write> Annotator<'a, W> {
    /// Annotates with what `lookup` knows. `offset` is how many bytes above its link addresses the
    /// kernel runs, if the user knows; otherwise the log may say so.
    pub fn new(mut lookup: Lookup<'a>, offset: Option<u64>, format: Format, output: W) -> Self {
        let summary = Summary::new(lookup.image());
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

    /// True while lines wait for more of the log to come.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Takes the next bytes of the log, and writes what can be written.
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

    /// Writes what is held back, as far as it is known: nothing more comes for now.
    ///
    /// # Errors
    /// The output cannot be written to.
    pub fn flush(&mut self) -> io::Result<()> {
        self.release()?;
        self.output.flush()
    }

    /// Writes all that is left, and gives the summary.
    ///
    /// # Errors
    /// The output cannot be written to.
    pub fn finish(mut self) -> io::Result<Summary> {
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

    /// Reads `partial`, which is a line, its last piece, or a piece before that.
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

    /// Makes ready for what follows a piece.
    fn next_piece(&mut self, mut piece: Vec<u8>, rest: Vec<u8>, is_last: bool) {
        self.is_continued = !is_last;
        // The buffer is used again.
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

    /// A kernel boots: it is moved by another offset than the last one.
    fn begin_boot(&mut self, banner: &[u8]) {
        self.offset = None;
        self.holds_no_more = false;
        self.summary.compare_banner(banner);
        if !self.has_banner {
            self.lookup.set_release(release(&String::from_utf8_lossy(banner)));
        }
    }

    /// The log says how far the kernel was moved. One that says it twice, and differently, is of two
    /// boots, and lacks the line with which the second one begins.
    fn set_offset(&mut self, offset: u64) {
        let is_other = self.offset.is_some_and(|known| known != offset);
        self.summary.several_offsets |= is_other && self.given_offset.is_none();
        self.offset = Some(offset);
    }

    /// True when a reference can only be looked up when the offset is known.
    fn must_wait(&mut self, reference: &Reference<'_>) -> bool {
        let is_known = self.given_offset.or(self.offset).is_some();
        let Target::Address(address) = reference.target else { return false };
        !is_known
            && !self.holds_no_more
            && !self.lookup.is_user_space(address)
            && self.lookup.may_be_moved(address)
    }

    /// Reads again what was held back, and holds nothing more of this boot.
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
            if let Target::Address(address) = reference.target
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

    fn annotate(&mut self, answer: &Answer) {
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
        answer: &Answer,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(&text[reference.span.clone()]);
        write_record(&mut self.output, Some(self.line_number), &text, reference, answer)
    }

    /// Takes the offset from an address that stands beside the symbol that it is.
    fn learn_offset(&mut self, reference: &Reference<'_>) {
        let Target::Symbol(symbol) = &reference.target else { return };
        let Some(address) = symbol.address.filter(|_| self.offset.is_none()) else { return };
        let Some(linked) = self.lookup.linked_address(symbol) else { return };
        // A hashed pointer is no such distance from anything, but for one time in a million.
        let offset = address.wrapping_sub(linked);
        if offset < MAX_OFFSET && offset % OFFSET_GRANULE == 0 {
            self.offset = Some(offset);
        }
    }
}

/// A line without its end.
fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
    &line[..end]
}

/// The length of the longest part of a piece that cuts no word: up to its last blank, if it has one.
fn word_boundary(piece: &[u8]) -> usize {
    match piece.iter().rposition(|&byte| byte == b' ') {
        Some(blank) if blank > 0 => blank,
        _ => piece.len(),
    }
}
