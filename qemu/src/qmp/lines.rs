//! Lines from a socket that does not block.
//!
//! Owns the buffer and the budget of a line. Refuses to own what a line says (`message`).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, read};

use crate::wait::{Deadline, wait_for};

/// Longest line that is read, in bytes. `info mtree -f` of a VM with a thousand devices takes 1 MiB.
pub(super) const LONGEST_LINE: usize = 16 << 20;
/// Bytes that one read(2) may bring.
const CHUNK: usize = 64 << 10;

/// The end of a wait for a line, where none came.
#[derive(Debug)]
pub(super) enum NoLine {
    /// The deadline passed.
    Late,
    /// The peer closed the connection; what it had begun is thrown away.
    Closed,
    /// The line is over its budget.
    TooLong,
    /// The host failed.
    Host(Errno),
}

/// Bytes that were read, and not yet handed out.
#[derive(Debug)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Bytes that were handed out.
    taken: usize,
    /// Bytes that are known to hold no line's end.
    searched: usize,
    limit: usize,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), taken: 0, searched: 0, limit }
    }

    /// Bytes of a line that is not whole yet.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// True when no byte waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    /// The next line without its end, as soon as it is there whole.
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
