//! The log: a ring of printed lines in memory, in which the newest overwrite the oldest.
//!
//! Owns the records, the line that is being formatted, and the counts of records overwritten and lines
//! cut. Refuses to own locking ([`Printk`](super::Printk) keeps it in a lock) and consoles. Called
//! by printk; read by tests through [`Log::records`], and by the host from outside.
//!
//! For the host: a record is a [`RecordHeader`], as it lies in memory, and then `text_len` bytes,
//! back to back with the next one. `tail` and `head` are the positions of the oldest record and of the
//! end of the newest: counts of bytes ever written, so that the index into `buf` is the position modulo
//! its size. Both header and text can wrap around. The records are numbered `first_seq` up to but not
//! including `next_seq`; `first_seq` is also the count of overwritten records. `line` is the line that a
//! CPU that holds the log's lock is formatting, or the last line formatted.

use core::{fmt, mem};

/// Size of the kernel's log in bytes.
#[cfg(not(loom))]
pub const LOG_BUF_SIZE: usize = 16 * 1024;

/// Size of the log in bytes; small, because loom creates a log for every interleaving.
#[cfg(loom)]
pub const LOG_BUF_SIZE: usize = 1024;

/// Most bytes of text in a record. A longer line is cut, marked and counted.
pub const LINE_MAX: usize = 256;

/// Flag in [`RecordHeader::flags`]: the line was longer, or its `fmt` implementation failed. Its text ends
/// with [`CUT_MARK`].
pub const RECORD_CUT: u8 = 1;

/// Mark at the end of a line that was cut.
pub const CUT_MARK: &str = "[...]";

const HEADER: usize = mem::size_of::<RecordHeader>();

/// Header of a record in the ring.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHeader {
    /// Number of the record; the first one ever has 0.
    pub seq: u64,
    /// Time at which it was printed, in nanoseconds since boot.
    pub ts_ns: u64,
    /// Number of the CPU that printed it.
    pub cpu: u32,
    /// Length in bytes of the text that follows, at most [`LINE_MAX`].
    pub text_len: u16,
    /// Severity, as [`LogLevel`](super::LogLevel): 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Flags of the record: [`RECORD_CUT`] or 0.
    pub flags: u8,
}

/// Defines the header's conversion to and from its bytes in memory, without unsafe code.
macro_rules! record_header_bytes {
    ($($field:ident: $type:ty),*) => {
        fn to_bytes(self) -> [u8; HEADER] {
            let mut bytes = [0; HEADER];
            $({
                let at = mem::offset_of!(RecordHeader, $field);
                bytes[at..at + mem::size_of::<$type>()].copy_from_slice(&self.$field.to_ne_bytes());
            })*
            bytes
        }

        fn from_bytes(bytes: &[u8; HEADER]) -> Self {
            let mut header = Self::default();
            $({
                let at = mem::offset_of!(RecordHeader, $field);
                let mut field = [0; mem::size_of::<$type>()];
                field.copy_from_slice(&bytes[at..at + mem::size_of::<$type>()]);
                header.$field = <$type>::from_ne_bytes(field);
            })*
            header
        }
    };
}

impl RecordHeader {
    record_header_bytes!(seq: u64, ts_ns: u64, cpu: u32, text_len: u16, level: u8, flags: u8);
}

/// A copy of a record, read back from the ring.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The record's time, CPU and severity.
    pub header: RecordHeader,
    text: [u8; LINE_MAX],
}

impl LogRecord {
    /// Returns the line's text without a line feed. Control characters are as they were printed.
    pub fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.header.text_len).min(LINE_MAX)]
    }
}

/// The line that is being formatted. The log's lock protects it, as it does the ring.
#[derive(Debug)]
struct Line {
    header: RecordHeader,
    text: [u8; LINE_MAX],
}

/// A ring of `SIZE` bytes of records; see the module's description for the layout.
#[derive(Debug)]
pub struct Log<const SIZE: usize = LOG_BUF_SIZE> {
    head: u64,
    tail: u64,
    first_seq: u64,
    next_seq: u64,
    /// Count of lines that were cut.
    cut: u64,
    line: Line,
    buf: [u8; SIZE],
}

/// A run of records: those that a printing CPU has just stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pos: u64,
    seq: u64,
    end_seq: u64,
    /// Length in bytes of the text in the run.
    pub(super) bytes: usize,
    /// Count of records of the run that were overwritten before they were read.
    pub(super) overwritten: u64,
}

/// Position of a record that a [`Span`] has reached. Valid while the log stays locked.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: RecordHeader,
    text_pos: u64,
}

impl<const SIZE: usize> Log<SIZE> {
    /// Makes an empty log; all its bytes are zero.
    pub const fn new() -> Self {
        assert!(SIZE.is_power_of_two() && SIZE >= HEADER + LINE_MAX);
        let header = RecordHeader { seq: 0, ts_ns: 0, cpu: 0, text_len: 0, level: 0, flags: 0 };
        let line = Line { header, text: [0; LINE_MAX] };
        Self { head: 0, tail: 0, first_seq: 0, next_seq: 0, cut: 0, line, buf: [0; SIZE] }
    }

    /// Formats a message and stores each of its lines as a record. Returns the number of bytes of text
    /// stored, without line feeds.
    pub fn print(&mut self, ts_ns: u64, cpu: usize, level: u8, args: fmt::Arguments<'_>) -> usize {
        self.print_span(ts_ns, cpu, level, args).bytes
    }

    pub(super) fn print_span(
        &mut self,
        ts_ns: u64,
        cpu: usize,
        level: u8,
        args: fmt::Arguments<'_>,
    ) -> Span {
        let mut writer = LineWriter::new(self, ts_ns, cpu, level);
        if fmt::write(&mut writer, args).is_err() {
            writer.cut = true;
        }
        writer.finish()
    }

    /// Stores a line that is formatted already; otherwise like [`Log::print_span`].
    pub(super) fn print_bytes(&mut self, ts_ns: u64, cpu: usize, level: u8, line: &[u8]) -> Span {
        let mut writer = LineWriter::new(self, ts_ns, cpu, level);
        writer.push(line);
        writer.commit();
        writer.finish()
    }

    /// Iterates over copies of the records in the ring, oldest first.
    pub fn records(&self) -> impl Iterator<Item = LogRecord> + '_ {
        let mut span = Span {
            pos: self.tail,
            seq: self.first_seq,
            end_seq: self.next_seq,
            bytes: 0,
            overwritten: 0,
        };
        core::iter::from_fn(move || {
            let found = self.next_in(&mut span)?;
            let mut record = LogRecord { header: found.header, text: [0; LINE_MAX] };
            self.copy_text(&found, &mut record.text);
            Some(record)
        })
    }

    /// Returns the count of records that later ones have overwritten.
    pub const fn overwritten(&self) -> u64 {
        self.first_seq
    }

    /// Returns the count of lines that were cut.
    pub const fn cut(&self) -> u64 {
        self.cut
    }

    /// Steps to the next record of `span` that is still in the ring; counts those that are not.
    pub(super) fn next_in(&self, span: &mut Span) -> Option<Found> {
        if span.seq < self.first_seq {
            let gone = self.first_seq.min(span.end_seq) - span.seq;
            span.overwritten += gone;
            span.seq += gone;
            span.pos = self.tail;
        }
        if span.seq >= span.end_seq {
            return None;
        }
        let header = self.header_at(span.pos);
        let text_pos = span.pos.wrapping_add(HEADER as u64);
        span.pos = text_pos.wrapping_add(u64::from(header.text_len));
        span.seq += 1;
        Some(Found { header, text_pos })
    }

    /// Copies a record's text to the beginning of `out`; returns its length.
    pub(super) fn copy_text(&self, found: &Found, out: &mut [u8]) -> usize {
        let len = usize::from(found.header.text_len).min(out.len());
        self.copy_out(found.text_pos, &mut out[..len]);
        len
    }

    fn header_at(&self, pos: u64) -> RecordHeader {
        let mut bytes = [0; HEADER];
        self.copy_out(pos, &mut bytes);
        let mut header = RecordHeader::from_bytes(&bytes);
        header.text_len = header.text_len.min(LINE_MAX as u16);
        header
    }

    /// Copies the line that is being formatted into the ring.
    fn store_line(&mut self) {
        self.line.header.seq = self.next_seq;
        let len = usize::from(self.line.header.text_len).min(LINE_MAX);
        let need = (HEADER + len) as u64;
        self.make_room(need);
        let header = self.line.header.to_bytes();
        copy_in(&mut self.buf, self.head, &header);
        copy_in(&mut self.buf, self.head.wrapping_add(HEADER as u64), &self.line.text[..len]);
        self.head = self.head.wrapping_add(need);
        self.next_seq = self.next_seq.wrapping_add(1);
    }

    /// Drops the oldest records until `need` bytes are free. It ends because each step frees a record, or
    /// finds the positions corrupted and empties the log.
    fn make_room(&mut self, need: u64) {
        loop {
            let used = self.head.wrapping_sub(self.tail);
            if used > SIZE as u64 {
                self.tail = self.head;
                self.first_seq = self.next_seq;
                return;
            }
            if used + need <= SIZE as u64 {
                return;
            }
            let oldest = self.header_at(self.tail);
            self.tail = self.tail.wrapping_add(HEADER as u64 + u64::from(oldest.text_len));
            self.first_seq = self.first_seq.wrapping_add(1);
        }
    }

    fn copy_out(&self, pos: u64, out: &mut [u8]) {
        let at = index::<SIZE>(pos);
        let first = out.len().min(SIZE - at);
        let (start, rest) = out.split_at_mut(first);
        start.copy_from_slice(&self.buf[at..at + first]);
        if !rest.is_empty() {
            rest.copy_from_slice(&self.buf[..rest.len()]);
        }
    }
}

impl<const SIZE: usize> Default for Log<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
const fn index<const SIZE: usize>(pos: u64) -> usize {
    // `SIZE` is a power of two (`Log::new`).
    pos as usize & (SIZE - 1)
}

fn copy_in<const SIZE: usize>(buf: &mut [u8; SIZE], pos: u64, bytes: &[u8]) {
    let at = index::<SIZE>(pos);
    let first = bytes.len().min(SIZE - at);
    let (start, rest) = bytes.split_at(first);
    buf[at..at + first].copy_from_slice(start);
    if !rest.is_empty() {
        buf[..rest.len()].copy_from_slice(rest);
    }
}

/// Formatter that splits a message into lines and stores each in the ring.
struct LineWriter<'a, const SIZE: usize> {
    log: &'a mut Log<SIZE>,
    span: Span,
    /// True if bytes of the current line were left out.
    cut: bool,
}

impl<'a, const SIZE: usize> LineWriter<'a, SIZE> {
    fn new(log: &'a mut Log<SIZE>, ts_ns: u64, cpu: usize, level: u8) -> Self {
        let (pos, seq) = (log.head, log.next_seq);
        log.line.header =
            RecordHeader { seq, ts_ns, cpu: cpu as u32, text_len: 0, level, flags: 0 };
        let span = Span { pos, seq, end_seq: seq, bytes: 0, overwritten: 0 };
        Self { log, span, cut: false }
    }

    /// Appends the part of `bytes` that fits to the current line.
    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        let line = &mut self.log.line;
        let at = usize::from(line.header.text_len).min(LINE_MAX);
        let len = bytes.len().min(LINE_MAX - at);
        line.text[at..at + len].copy_from_slice(&bytes[..len]);
        line.header.text_len = (at + len) as u16;
        self.cut |= len < bytes.len();
    }

    /// Ends the current line and begins the next one.
    fn commit(&mut self) {
        if mem::take(&mut self.cut) {
            self.mark_cut();
        }
        self.span.bytes += usize::from(self.log.line.header.text_len);
        self.log.store_line();
        self.log.line.header.text_len = 0;
        self.log.line.header.flags = 0;
    }

    /// Ends the last line if it has been begun, and returns the run of records.
    fn finish(mut self) -> Span {
        if self.log.line.header.text_len > 0 || self.cut {
            self.commit();
        }
        self.span.end_seq = self.log.next_seq;
        self.span
    }

    fn mark_cut(&mut self) {
        let line = &mut self.log.line;
        let len = usize::from(line.header.text_len).min(LINE_MAX);
        let at = char_boundary(&line.text[..len], LINE_MAX - CUT_MARK.len());
        line.text[at..at + CUT_MARK.len()].copy_from_slice(CUT_MARK.as_bytes());
        line.header.text_len = (at + CUT_MARK.len()) as u16;
        line.header.flags |= RECORD_CUT;
        self.log.cut += 1;
    }
}

impl<const SIZE: usize> fmt::Write for LineWriter<'_, SIZE> {
    fn write_str(&mut self, mut s: &str) -> fmt::Result {
        while let Some(end) = s.find('\n') {
            self.push(&s.as_bytes()[..end]);
            self.commit();
            s = &s[end + 1..];
        }
        self.push(s.as_bytes());
        Ok(())
    }
}

/// Returns the greatest index up to `max` at which UTF-8 text can be cut without splitting a character.
/// For other text the index is at most three bytes less than `max`.
pub(super) fn char_boundary(text: &[u8], max: usize) -> usize {
    let max = max.min(text.len());
    let floor = max.saturating_sub(3);
    let is_boundary = |&at: &usize| text.get(at).is_none_or(|&byte| byte & 0xc0 != 0x80);
    (floor..=max).rev().find(is_boundary).unwrap_or(max)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn records_lie_in_memory_as_documented_for_the_host() {
        let mut log = Log::<512>::new();
        log.print(0x0102_0304, 5, 6, format_args!("ab\nc"));
        let first =
            RecordHeader { seq: 0, ts_ns: 0x0102_0304, cpu: 5, text_len: 2, level: 6, flags: 0 };
        // The ring has no alignment, and the host copies; so does this.
        // SAFETY: `buf` is longer than a header, which is plain integers without padding.
        let header: RecordHeader =
            unsafe { log.buf.as_ptr().cast::<RecordHeader>().read_unaligned() };
        assert_eq!(header, first);
        assert_eq!(log.buf[HEADER..HEADER + 2], *b"ab");
        // SAFETY: as above, for the record that begins where the first one ends.
        let header: RecordHeader =
            unsafe { log.buf[HEADER + 2..].as_ptr().cast::<RecordHeader>().read_unaligned() };
        assert_eq!(header, RecordHeader { seq: 1, text_len: 1, ..first });
        assert_eq!((log.tail, log.head), (0, 2 * HEADER as u64 + 3));
        assert_eq!((log.first_seq, log.next_seq), (0, 2));
    }

    #[test]
    fn garbage_in_ring_and_positions_causes_no_endless_loop_or_overrun() {
        for garbage in [0, 1, 511, u64::MAX / 2, u64::MAX - 1] {
            for field in 0..3 {
                let mut log = Log::<512>::new();
                log.print(0, 0, 6, format_args!("before"));
                log.buf.fill(garbage as u8);
                match field {
                    0 => log.head = garbage,
                    1 => log.tail = garbage,
                    _ => log.first_seq = garbage,
                }
                for _ in 0..20 {
                    log.print(0, 0, 6, format_args!("{:200}", "after"));
                }
                assert!(log.records().take(1000).all(|record| record.text().len() <= LINE_MAX));
            }
        }
    }
}
