//! Writing to a stream that another process may have made non-blocking: a write waits, as it would have.
//!
//! Owns the wait; refuses to own what is written. Called by `destination`, the command line and consoles.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};

/// Writer that waits for its stream where a write would have to wait. Processes that share a pipe or a
/// terminal share its flag O_NONBLOCK.
#[derive(Debug)]
pub struct BlockingWriter<W> {
    inner: W,
    stream: BorrowedFd<'static>,
}

impl<W: Write> BlockingWriter<W> {
    /// Wraps a writer whose bytes go to `stream`.
    pub fn new(inner: W, stream: BorrowedFd<'static>) -> Self {
        Self { inner, stream }
    }

    /// Repeats a write that would have to wait.
    fn until_ready<T>(&mut self, mut write: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
        loop {
            match write(&mut self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // An error shows at the next write.
                    let _ = poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], None);
                }
                written => return written,
            }
        }
    }
}

impl<W: Write> Write for BlockingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_ready(|inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_ready(W::flush)
    }
}
