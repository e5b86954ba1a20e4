//! The guardian: a small process that resumes the guest when the tool cannot.
//!
//! Owns both halves: [`start`], with which the tool starts a guardian before it stops the VM, and
//! [`run`], the body of the guardian process. Refuses to own when to stop (`qemu`), and the command line
//! that turns the tool's program into a guardian (the caller's).
//!
//! A VM stopped over QMP stays stopped if the client disconnects. Therefore a second process holds the
//! same connection:
//!
//! 1. The tool starts its own program with arguments that lead to [`run`] and one end of a socket pair as
//!    standard input, passes the QMP socket over the pair, and waits for the guardian's answer.
//! 2. The tool writes an *armed* message before it sends `stop`, and a *disarmed* message after `cont` is
//!    answered. A written message is in the guardian's buffer at once, so the guardian is armed at every
//!    moment at which the guest is stopped.
//! 3. While the tool lives, only the tool reads the QMP socket; the guardian waits on the pair. If it is
//!    still armed after the longest pause, for example because Ctrl-Z stopped the tool, it sends `cont`,
//!    and again after every further such pause. The tool recognises the answers by their ids and drops
//!    them.
//! 4. The pair closes when the tool ends, however it ends, or drops its end. A disarmed guardian then ends
//!    too. An armed one takes over the QMP socket: it resets QEMU's parser after a partial command, skips
//!    a partial answer, and queries the run state. QEMU answers in order, so a pending `stop` has been
//!    carried out by then. While the VM is paused, the guardian sends `cont` until it succeeds, QEMU ends,
//!    or its patience expires.
//!
//! The guardian leads a session of its own, so that neither Ctrl-C nor a closed terminal ends it. The
//! caller of [`run`] may also ignore SIGTERM, which a service manager sends to a whole cgroup.

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

/// Kind of the first message to the guardian, which carries the QMP socket.
const SOCKET: u8 = b'q';
/// The guardian's answer to that message.
const READY: u8 = b'r';
/// Message kind: the guest may be stopped from now on. The number is the longest pause, in ms.
const ARMED: u8 = b's';
/// Message kind: the guest runs again. The number is 0.
const DISARMED: u8 = b'c';
/// Length of a message to the guardian, in bytes: a kind and a little-endian 32-bit number.
const MESSAGE: usize = 5;
/// Time until `cont` is retried after QEMU refused it, as it does while a dump is written.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest pause after which the guardian sends `cont` while the tool still lives.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Longest time to wait for a dismissed guardian to end.
const DISMISSAL_TIME: Duration = Duration::from_secs(1);

/// Result of a guardian that has finished its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardianOutcome {
    /// The guardian was not armed when the tool ended.
    NotNeeded,
    /// The guest was still stopped, and the guardian resumed it.
    Resumed,
    /// The guest was not paused, so the guardian did not send `cont`.
    NotStopped(RunState),
    /// The QEMU process ended, and the guest with it.
    QemuEnded,
}

/// Error of starting a guardian, or of a guardian that could not resume the guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardianError {
    /// The guardian's program did not start.
    #[error("start the guardian process, which resumes the guest: {program}")]
    Start {
        /// The program that was started.
        program: String,
        /// Error returned by the host.
        #[source]
        source: io::Error,
    },
    /// The program started but did not answer as a guardian in time.
    #[error(
        "wait {0:?} for the guardian process, which resumes the guest: without it nothing is stopped"
    )]
    NotReady(Duration),
    /// The guardian has already ended.
    #[error(
        "reach the guardian process, which resumes the guest: it has ended: nothing is stopped"
    )]
    Ended,
    /// The guardian's standard input is not the socket of a tool.
    #[error(
        "serve as guardian: standard input is not the tool's socket: do not start a guardian by hand"
    )]
    NoLink,
    /// The guest was not resumed within the guardian's patience.
    #[error("resume the guest within {0:?}")]
    TimedOut(Duration),
    /// The QMP connection or a command on it failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// The tool's handle to its guardian. If it is dropped while armed, the guardian takes over at once.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    link: UnixStream,
}

/// Starts a guardian for a QMP socket. `command` is a program that calls [`run`] with its standard
/// input; its output is discarded, and it keeps the working directory.
///
/// # Errors
/// [`GuardianError`]: do not stop the VM then.
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
    // The command keeps a copy of the guardian's end, with which this end would never read EOF.
    drop(command);
    let mut guardian = Guardian { child, link };
    match guardian.pass_socket(socket, within) {
        Ok(()) => Ok(guardian),
        Err(error) => {
            // It was never armed.
            let _ = guardian.child.kill();
            let _ = guardian.child.wait();
            Err(error)
        }
    }
}

impl Guardian {
    /// PID of the guardian process.
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

    /// Arms the guardian: from now on it resumes the guest when the tool ends or `pause` expires. Call this
    /// before sending `stop`.
    ///
    /// # Errors
    /// [`GuardianError::Ended`].
    pub fn arm(&mut self, pause: Duration) -> Result<(), GuardianError> {
        self.send_message(ARMED, pause.as_millis().try_into().unwrap_or(u32::MAX))
    }

    /// Disarms the guardian, since the guest runs again, and waits for it to end.
    pub fn dismiss(mut self) {
        // A guardian that has already ended needs no message.
        let _ = self.send_message(DISARMED, 0);
        let _ = self.link.shutdown(Shutdown::Write);
        let deadline = Deadline::after(DISMISSAL_TIME);
        // The guardian's end of the pair closes when it exits.
        let _ = wait_for(self.link.as_fd(), PollFlags::IN, deadline);
        while let Ok(None) = self.child.try_wait() {
            if deadline.has_passed() {
                tracing::warn!(pid = self.pid(), "a dismissed guardian has not ended");
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
/// [`start`] gave to the process; `patience` is the longest time to wait for QEMU after the tool's end.
///
/// # Errors
/// [`GuardianError`]: the guest may still be stopped.
pub fn run(link: impl Into<OwnedFd>, patience: Duration) -> Result<GuardianOutcome, GuardianError> {
    let link = link.into();
    let socket = receive_socket(link.as_fd())?;
    // Fails only for the leader of a process group, which is already separate from the tool's group.
    let _ = rustix::process::setsid();
    send(&link, &[READY], SendFlags::NOSIGNAL).map_err(|_| GuardianError::Ended)?;
    let mut qmp = Qmp::adopt(socket);
    if watch(link.as_fd(), &mut qmp)? {
        resume_guest(&mut qmp, patience)
    } else {
        Ok(GuardianOutcome::NotNeeded)
    }
}

/// Waits until the tool has ended or dropped its end of the link; only the tool's life bounds this wait.
/// Returns true if the guest may still be stopped.
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
                // A `cont` that the socket does not take at once is retried after the next pause.
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

/// Receives a message; `None` once the other end is closed. Each message is written at once, and so
/// arrives whole.
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

/// Resumes a paused VM, over a connection that the tool may have left within a command or an answer.
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
            // Another client's dump is under way; afterwards it restores the previous run state.
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
            Self::NotNeeded => write!(f, "the guardian was not armed when the tool ended"),
            Self::Resumed => write!(f, "the guest was resumed"),
            Self::NotStopped(state) => write!(f, "the guest was left {}", state.name()),
            Self::QemuEnded => write!(f, "QEMU has ended"),
        }
    }
}
