//! The guardian: a small process that lets the guest go on when the tool cannot.
//!
//! Owns both halves: [`start`], by which the tool has one before it stops anything, and [`run`],
//! which that process does. Refuses to own when to stop (`qemu`), and the command line by which the
//! tool's program becomes a guardian (the caller's).
//!
//! A client of QMP that goes away leaves its VM stopped. So another process holds the same connection:
//!
//! 1. The tool starts its own program again in a way that leads to [`run`], with one end of a
//!    socket pair as standard input, and passes the QMP socket over it. It goes on when the guardian
//!    has answered.
//! 2. *Before* it sends `stop`, the tool writes a message: armed. After `cont` was answered it writes
//!    another: disarmed. A message is in the guardian's buffer as soon as it is written, so there is no
//!    moment at which the guest is stopped and the guardian would not know.
//! 3. While the tool lives, it alone reads the QMP socket; the guardian waits for the pair. Only when the
//!    guest was not let go on within the longest pause, because somebody stopped the tool itself with
//!    Ctrl-Z for one, the guardian sends `cont`, whose answer the tool drops by its id, and sends it again
//!    after each such time.
//! 4. The pair closes when the tool ends, however it ends, or when it drops its end. A guardian that
//!    is disarmed ends too. One that is armed owns the QMP socket now: it makes QEMU's parser forget
//!    a half command, passes over half an answer, and asks for the run state. QEMU answers in order, so
//!    that a `stop` on its way is over by then. If the VM is paused it sends `cont`, until that is
//!    answered, QEMU ends, or its patience does.
//!
//! The guardian is the leader of a session of its own, so that neither Ctrl-C nor a terminal that
//! closes ends it. Whoever calls [`run`] may ignore SIGTERM too, which a service manager sends to all
//! of a group.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recv, recvmsg, send,
};

use crate::descriptor;
use crate::qmp::{Qmp, QmpError};
use crate::status::{RunState, run_state};
use crate::wait::{Deadline, wait_for};

/// The first message to the guardian, which brings the QMP socket.
const SOCKET: u8 = b'q';
/// The one byte that the guardian answers.
const READY: u8 = b'r';
/// The guest may be stopped from now on; the longest pause follows, in ms.
const ARMED: u8 = b's';
/// The guest runs again.
const DISARMED: u8 = b'c';
/// The length of a message to the guardian: a kind and a little-endian number of 32 bits.
const MESSAGE: usize = 5;
/// Time until `cont` is tried again after QEMU refused it, as it does while a dump is written.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest pause after which `cont` is sent over the tool's head.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Longest time for a guardian that is not needed any more to end.
const DISMISSAL_TIME: Duration = Duration::from_secs(1);

/// The outcome of a guardian's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardianOutcome {
    /// The tool ended and had let the guest go on itself.
    NotNeeded,
    /// The guest was stopped, and runs again.
    Resumed,
    /// The guest was not in the state that `stop` leaves, and nothing was sent.
    NotStopped(RunState),
    /// The QEMU process ended, and its guest with it.
    QemuEnded,
}

/// Why there is no guardian, or why it could not let the guest go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardianError {
    /// The program did not start.
    #[error("start the process that lets the guest go on: {program}")]
    Start {
        /// The program.
        program: String,
        /// The error of the host.
        #[source]
        source: io::Error,
    },
    /// The program started and did not become a guardian.
    #[error(
        "have the process that lets the guest go on ready within {0:?}: without it nothing is stopped"
    )]
    NotReady(Duration),
    /// The guardian has ended.
    #[error("reach the process that lets the guest go on: it has ended: nothing is stopped")]
    Ended,
    /// The standard input of the guardian is not the link to a tool.
    #[error(
        "serve as guardian: standard input is not the tool's socket: this is no command for people"
    )]
    NoLink,
    /// QEMU did not answer for as long as the guardian waits.
    #[error("let the guest go on within {0:?}")]
    TimedOut(Duration),
    /// The QMP connection or a command on it failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// A guardian, as the tool sees it. Dropped while it is armed it takes over at once.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    link: UnixStream,
}

/// Starts a guardian for a QMP socket. `command` is a program that calls [`run`] with its standard
/// input; its output goes nowhere, and it keeps the working directory.
///
/// # Errors
/// [`GuardianError`]: nothing may be stopped then.
pub fn start(
    mut command: Command,
    socket: BorrowedFd<'_>,
    within: Duration,
) -> Result<Guardian, GuardianError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| GuardianError::Start { program, source };
    let (link, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => return Err(failed(error)),
    };
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(failed)?;
    // The command keeps the guardian's end open, and with it this end would never see it close.
    drop(command);
    let mut guardian = Guardian { child, link };
    match guardian.pass_socket(socket, within) {
        Ok(()) => Ok(guardian),
        Err(error) => {
            // It is not a guardian, and was told of nothing.
            let _ = guardian.child.kill();
            let _ = guardian.child.wait();
            Err(error)
        }
    }
}

impl Guardian {
    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn pass_socket(&self, socket: BorrowedFd<'_>, within: Duration) -> Result<(), GuardianError> {
        descriptor::send(self.link.as_fd(), &[SOCKET, 0, 0, 0, 0], socket)
            .map_err(|_| GuardianError::Ended)?;
        let mut byte = [0];
        match wait_for(self.link.as_fd(), PollFlags::IN, Deadline::after(within)) {
            Ok(true) => match recv(&self.link, byte.as_mut_slice(), RecvFlags::empty()) {
                Ok((1, _)) if byte == [READY] => Ok(()),
                _ => Err(GuardianError::Ended),
            },
            _ => Err(GuardianError::NotReady(within)),
        }
    }

    /// Has it let the guest go on from now on, when the tool ends or the longest pause is over. Call it
    /// before `stop` is sent.
    ///
    /// # Errors
    /// [`GuardianError::Ended`].
    pub fn arm(&mut self, pause: Duration) -> Result<(), GuardianError> {
        self.send_message(ARMED, pause.as_millis().try_into().unwrap_or(u32::MAX))
    }

    /// Has it do nothing, since the guest runs again, and waits for its end.
    pub fn dismiss(mut self) {
        // One that has ended needs no word.
        let _ = self.send_message(DISARMED, 0);
        let _ = self.link.shutdown(Shutdown::Write);
        let deadline = Deadline::after(DISMISSAL_TIME);
        // Its end of the pair closes when it exits.
        let _ = wait_for(self.link.as_fd(), PollFlags::IN, deadline);
        while let Ok(None) = self.child.try_wait() {
            if deadline.has_passed() {
                tracing::warn!(pid = self.pid(), "a guardian that is not needed has not ended");
                return;
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn send_message(&self, kind: u8, number: u32) -> Result<(), GuardianError> {
        let [a, b, c, d] = number.to_le_bytes();
        loop {
            match send(&self.link, &[kind, a, b, c, d], SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(GuardianError::Ended),
            }
        }
    }
}

/// Serves as guardian until the tool has ended and the guest runs. `link` is the standard input that
/// [`start`] gave to the process; `patience` is the longest time to wait for QEMU after that.
///
/// # Errors
/// [`GuardianError`]: the guest may be stopped still.
pub fn run(link: impl Into<OwnedFd>, patience: Duration) -> Result<GuardianOutcome, GuardianError> {
    let link = link.into();
    let socket = receive_socket(link.as_fd())?;
    // Fails for the leader of a process group, which has been put apart already.
    let _ = rustix::process::setsid();
    send(&link, &[READY], SendFlags::NOSIGNAL).map_err(|_| GuardianError::Ended)?;
    let mut qmp = Qmp::adopt(socket);
    if watch(link.as_fd(), &mut qmp)? {
        resume_guest(&mut qmp, patience)
    } else {
        Ok(GuardianOutcome::NotNeeded)
    }
}

/// Waits until the tool has ended or dropped its end, whose life bounds this. True when the guest may
/// be stopped then.
fn watch(link: BorrowedFd<'_>, qmp: &mut Qmp) -> Result<bool, GuardianError> {
    let mut pause = None;
    loop {
        let deadline = Deadline::after(pause.unwrap_or(Duration::MAX));
        match wait_for(link, PollFlags::IN, deadline) {
            Ok(true) => match receive_message(link) {
                Some((ARMED, longest)) => {
                    pause = Some(Duration::from_millis(longest.into()).max(SHORTEST_PAUSE));
                }
                Some(_) => pause = None,
                None => return Ok(pause.is_some()),
            },
            Ok(false) => {
                // One that is not taken at once is tried again after the next pause.
                qmp.send_only("cont")?;
            }
            Err(error) => return Err(QmpError::host("wait for the tool")(error).into()),
        }
    }
}

fn receive_socket(link: BorrowedFd<'_>) -> Result<OwnedFd, GuardianError> {
    let mut bytes = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(link, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let is_socket = received.is_ok_and(|received| received.bytes == MESSAGE) && bytes[0] == SOCKET;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.filter(|_| is_socket).ok_or(GuardianError::NoLink)
}

/// Receives a message; `None` when the other end is closed. Messages are written whole, and so come
/// whole.
fn receive_message(link: BorrowedFd<'_>) -> Option<(u8, u32)> {
    let mut bytes = [0; MESSAGE];
    loop {
        match recv(link, bytes.as_mut_slice(), RecvFlags::WAITALL) {
            Ok((MESSAGE, _)) => {
                let [kind, number @ ..] = bytes;
                return Some((kind, u32::from_le_bytes(number)));
            }
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
}

/// Lets a paused VM go on, over a connection of which nobody knows where it was left.
fn resume_guest(qmp: &mut Qmp, patience: Duration) -> Result<GuardianOutcome, GuardianError> {
    qmp.reset_parser();
    match resume_until(qmp, patience, Deadline::after(patience)) {
        Err(GuardianError::Qmp(QmpError::Closed { .. })) => Ok(GuardianOutcome::QemuEnded),
        result => result,
    }
}

fn resume_until(
    qmp: &mut Qmp,
    patience: Duration,
    deadline: Deadline,
) -> Result<GuardianOutcome, GuardianError> {
    loop {
        match run_state(qmp, deadline.left()) {
            Ok(RunState::Paused) => match qmp.execute("cont", deadline.left()) {
                Ok(_) => return Ok(GuardianOutcome::Resumed),
                Err(QmpError::Command { .. }) => {}
                Err(error) => return Err(error.into()),
            },
            // A dump that somebody else began; it leaves the state that it found.
            Ok(RunState::SaveVm) | Err(QmpError::Command { .. }) => {}
            Ok(state) => return Ok(GuardianOutcome::NotStopped(state)),
            Err(error) => return Err(error.into()),
        }
        if deadline.has_passed() {
            return Err(GuardianError::TimedOut(patience));
        }
        sleep(RETRY_INTERVAL.min(deadline.left()));
    }
}

impl fmt::Display for GuardianOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => write!(f, "the guest had been let go on"),
            Self::Resumed => write!(f, "the guest was let go on"),
            Self::NotStopped(state) => write!(f, "the guest was left {}", state.name()),
            Self::QemuEnded => write!(f, "QEMU has ended"),
        }
    }
}
