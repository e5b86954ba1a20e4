//! An append-only text buffer that holds a prefix of the messages printed into it.
//!
//! Owns the bytes, and the count of messages that did not fit. Refuses to own access from several CPUs:
//! that is up to [`NmiPrintSeq`](super::NmiPrintSeq), its only caller outside of tests.
//!
//! A message is stored whole or not at all, and after the first that does not fit, none is stored until
//! [`SeqBuf::wipe`]: a reader never takes text from beyond a gap for a continuation. `len` is written
//! last, so that a CPU that is stopped in the middle of an append has whole messages. The host may write
//! any of this memory: with any value of `len`, indices stay within the buffer.

use core::fmt;

use crate::sync::atomic::{Ordering, compiler_fence};

/// Text of at most `SIZE` bytes, and a count of messages that did not fit.
#[derive(Debug)]
pub struct SeqBuf<const SIZE: usize> {
    /// Number of bytes of `buffer` that are text. More than `SIZE` is garbage, and counts as a full buffer.
    len: u32,
    /// Count of messages that were dropped since the last wipe.
    lost: u32,
    buffer: [u8; SIZE],
}

impl<const SIZE: usize> SeqBuf<SIZE> {
    /// Makes an empty buffer; all its bytes are zero.
    pub const fn new() -> Self {
        Self { len: 0, lost: 0, buffer: [0; SIZE] }
    }

    /// Appends the formatted message and returns its length in bytes; if it does not fit, drops it whole,
    /// counts it as lost, and returns 0.
    pub fn append(&mut self, args: fmt::Arguments<'_>) -> usize {
        let start = self.len as usize;
        let free = match self.buffer.get_mut(start..) {
            Some(free) if self.lost == 0 => free,
            _ => {
                self.lost = self.lost.saturating_add(1);
                return 0;
            }
        };
        let mut cursor = Cursor { free, used: 0, overflowed: false };
        let result = fmt::write(&mut cursor, args);
        let (used, overflowed) = (cursor.used, cursor.overflowed);
        if result.is_err() || overflowed {
            self.lost = self.lost.saturating_add(1);
            return 0;
        }
        // The text first: the CPU can be stopped, and its memory read, at any instruction.
        compiler_fence(Ordering::Release);
        // `start + used <= SIZE`, by the bounds of `free`.
        self.len = (start + used) as u32;
        used
    }

    /// Returns the text so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[..(self.len as usize).min(SIZE)]
    }

    /// Returns the count of messages that were dropped since the last wipe.
    pub const fn lost(&self) -> u32 {
        self.lost
    }

    /// Empties the buffer and resets its count of lost messages. The bytes are not cleared.
    pub const fn wipe(&mut self) {
        self.len = 0;
        self.lost = 0;
    }
}

impl<const SIZE: usize> Default for SeqBuf<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

/// Formatter that writes into the free part of the buffer. Its text counts only once `len` is advanced.
struct Cursor<'a> {
    free: &'a mut [u8],
    used: usize,
    /// True once a write did not fit. Kept apart from the result of formatting, because a `fmt`
    /// implementation can ignore an error and write something shorter.
    overflowed: bool,
}

impl fmt::Write for Cursor<'_> {
    #[inline]
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.used.saturating_add(s.len());
        match self.free.get_mut(self.used..end) {
            Some(slot) if !self.overflowed => {
                slot.copy_from_slice(s.as_bytes());
                self.used = end;
                Ok(())
            }
            _ => {
                self.overflowed = true;
                Err(fmt::Error)
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn garbage_in_len_is_a_full_buffer() {
        for garbage in [5, 0x8000_0000, u32::MAX] {
            let mut buf = SeqBuf::<4>::new();
            buf.len = garbage;
            assert_eq!(buf.append(format_args!("x")), 0);
            assert_eq!(buf.lost(), 1);
            assert_eq!(buf.as_bytes(), [0; 4]);
            buf.wipe();
            assert_eq!(buf.append(format_args!("x")), 1);
            assert_eq!(buf.as_bytes(), b"x");
        }
    }

    #[test]
    fn the_count_of_lost_messages_saturates() {
        let mut buf = SeqBuf::<1>::new();
        buf.lost = u32::MAX;
        assert_eq!(buf.append(format_args!("x")), 0);
        assert_eq!(buf.lost(), u32::MAX);
    }
}
