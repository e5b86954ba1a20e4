//! Deadlines, and waits on file descriptors that they bound.
//!
//! Owns the one call to poll(2). Refuses to own the error of a deadline that passed: each caller (`qmp`,
//! `hold`, `process`) has its own.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A point in time at which a wait ends; `None` for no end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// Returns the deadline `time` from now. A time that the clock cannot represent never passes.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now().checked_add(time))
    }

    /// Time left until the deadline; 0 once it has passed.
    pub(crate) fn left(self) -> Duration {
        match self.0 {
            Some(end) => end.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        }
    }

    /// True once the deadline has passed.
    pub(crate) fn has_passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Waits until one of `flags`, a hang-up or an error is pending on `fd`. Returns false if the deadline
/// passes first. With a deadline that has already passed, `fd` is still polled once.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Deadline,
) -> Result<bool, Errno> {
    loop {
        let left = deadline.left();
        let timeout = Timespec::try_from(left).ok();
        let mut polled = [PollFd::from_borrowed_fd(fd, flags)];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) if deadline.has_passed() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}
