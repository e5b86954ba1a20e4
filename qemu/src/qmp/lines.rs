//! Line reader for a non-blocking socket.
//!
//! Owns the buffer and the maximum length of a line. Refuses to own the content of lines (`message`).
//! Called by `qmp`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, read};

use crate::wait::{Deadline, wait_for};

/// Maximum length of a line, in bytes. `info mtree -f` of a VM with a thousand devices takes 1 MiB.
pub(super) const LONGEST_LINE: usize = 16 << 20;
/// Maximum number of bytes per read(2).
const CHUNK: usize = 64 << 10;

/// Reason why no line was read.
#[derive(Debug)]
pub(super) enum NoLine {
    /// The deadline passed before the line was complete.
    Late,
    /// The peer closed the connection; a partial line is discarded.
    Closed,
    /// The line exceeds the maximum length.
    TooLong,
    /// A system call on the host failed.
    Host(Errno),
}

/// Buffer of received bytes from which lines are taken.
#[derive(Debug)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Number of leading bytes that were already returned as lines.
    taken: usize,
    /// Number of leading bytes without another end of line.
    searched: usize,
    limit: usize,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), taken: 0, searched: 0, limit }
    }

    /// Received bytes that have not been returned yet.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// True if no received byte is left.
    pub(super) fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    /// Waits for the next complete line and returns it without its end.
    pub(super) fn next(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<Vec<u8>, NoLine> {
        let mut polled = false;
        loop {
            if let Some(line) = self.take() {
                return Ok(line);
            }
            if self.bytes.len() > self.limit {
                return Err(NoLine::TooLong);
            }
            if polled && deadline.has_passed() {
                return Err(NoLine::Late);
            }
            polled = true;
            if !wait_for(socket, PollFlags::IN, deadline).map_err(NoLine::Host)? {
                return Err(NoLine::Late);
            }
            self.fill(socket)?;
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        match self.bytes[self.searched..].iter().position(|&byte| byte == b'\n') {
            Some(length) => {
                let end = self.searched + length;
                let mut line = self.bytes[self.taken..end].to_vec();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                (self.taken, self.searched) = (end + 1, end + 1);
                Some(line)
            }
            None => {
                self.bytes.drain(..self.taken);
                (self.taken, self.searched) = (0, self.bytes.len());
                None
            }
        }
    }

    fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<(), NoLine> {
        let old = self.bytes.len();
        self.bytes.resize(old + CHUNK, 0);
        let result = read(socket.as_fd(), &mut self.bytes[old..]);
        self.bytes.truncate(old + result.unwrap_or(0));
        match result {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE) => Err(NoLine::Closed),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(NoLine::Host(error)),
        }
    }
}
