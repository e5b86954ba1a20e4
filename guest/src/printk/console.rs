//! The console's line format: `[    0.004123] cpu0: text`.
//!
//! Owns that format, and the buffer that a line is assembled in. Refuses to own the device: whole
//! lines go to [`Platform::console_write`]. Called by printk, and by a panic that cannot wait for
//! printk's locks.

use core::fmt;

use super::{Platform, log::LINE_MAX};

/// Length of the longest prefix: 20 digits of seconds, 6 of microseconds, 20 of CPU, and 11 others.
const PREFIX_MAX: usize = 57;

const CONSOLE_LINE_MAX: usize = PREFIX_MAX + LINE_MAX + 1;

/// State of the console, in the lock that printk holds while it writes there.
#[derive(Debug)]
pub struct Console {
    pub(super) line: ConsoleLine,
    /// Count of records that the log overwrote before they reached the console.
    pub(super) dropped: u64,
}

impl Console {
    /// Makes the console of a kernel that has printed nothing; all its bytes are zero.
    pub const fn new() -> Self {
        Self { line: ConsoleLine::new(), dropped: 0 }
    }

    /// Returns the count of records that the log overwrote before they reached the console.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

/// A line that is assembled for the console.
#[derive(Debug)]
pub(super) struct ConsoleLine {
    len: usize,
    bytes: [u8; CONSOLE_LINE_MAX],
}

impl ConsoleLine {
    pub(super) const fn new() -> Self {
        Self { len: 0, bytes: [0; CONSOLE_LINE_MAX] }
    }

    /// Begins a line with its prefix: time and CPU.
    pub(super) fn begin(&mut self, ts_ns: u64, cpu: usize) {
        self.len = 0;
        let microseconds = ts_ns / 1000;
        self.push(b"[");
        self.push_decimal(microseconds / 1_000_000, 5, b' ');
        self.push(b".");
        self.push_decimal(microseconds % 1_000_000, 6, b'0');
        self.push(b"] cpu");
        self.push_decimal(cpu as u64, 1, b'0');
        self.push(b": ");
    }

    /// Returns the free part of the buffer. Call [`ConsoleLine::advance`] with the length that was used.
    pub(super) fn text_room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..CONSOLE_LINE_MAX - 1]
    }

    pub(super) fn advance(&mut self, len: usize) {
        self.len = (self.len + len).min(CONSOLE_LINE_MAX - 1);
    }

    /// Appends the part of `bytes` that fits; returns true if that was all of it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let room = self.text_room();
        let len = bytes.len().min(room.len());
        room[..len].copy_from_slice(&bytes[..len]);
        self.advance(len);
        len == bytes.len()
    }

    /// Ends the line and returns all of it, line feed included.
    pub(super) fn end(&mut self) -> &[u8] {
        self.bytes[self.len] = b'\n';
        &self.bytes[..=self.len]
    }

    /// Appends a decimal number, padded to `width` with `fill`. `core::fmt` would take several times as many
    /// instructions, twice for every line.
    fn push_decimal(&mut self, mut value: u64, width: usize, fill: u8) {
        let mut digits = [fill; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.push(&digits[at.min(digits.len() - width)..]);
    }
}

/// Formatter that writes directly to the console, a line at a time, with a buffer on the stack. Each line
/// has its prefix; a line that is too long continues in the next.
pub(super) struct DirectWriter<'a, P: Platform> {
    platform: &'a P,
    line: ConsoleLine,
    ts_ns: u64,
    cpu: usize,
    begun: bool,
}

impl<'a, P: Platform> DirectWriter<'a, P> {
    pub(super) fn new(platform: &'a P, ts_ns: u64, cpu: usize) -> Self {
        Self { platform, line: ConsoleLine::new(), ts_ns, cpu, begun: false }
    }

    fn begin(&mut self) {
        if !self.begun {
            self.line.begin(self.ts_ns, self.cpu);
            self.begun = true;
        }
    }

    fn end(&mut self) {
        self.begin();
        self.platform.console_write(self.line.end());
        self.begun = false;
    }

    /// Ends the last line if it has been begun.
    pub(super) fn finish(mut self) {
        if self.begun {
            self.end();
        }
    }

    fn push(&mut self, mut text: &str) {
        while !text.is_empty() {
            self.begin();
            let room = self.line.text_room().len();
            let (now, later) = text.split_at(text.floor_char_boundary(room));
            self.line.push(now.as_bytes());
            text = later;
            if !text.is_empty() {
                self.end();
            }
        }
    }
}

impl<P: Platform> fmt::Write for DirectWriter<'_, P> {
    fn write_str(&mut self, mut s: &str) -> fmt::Result {
        while let Some(end) = s.find('\n') {
            self.push(&s[..end]);
            self.end();
            s = &s[end + 1..];
        }
        self.push(s);
        Ok(())
    }
}
