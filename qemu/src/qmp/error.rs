//! Errors of a QMP connection.
//!
//! Owns the messages, which fit after "failed to" and say what the user can do.

use std::io;
use std::time::Duration;

use super::Address;

/// Error of a QMP connection or of a command on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// No socket exists at the address.
    #[error(
        "connect to {0}: there is no such socket: was QEMU started with \
         -qmp unix:PATH,server=on,wait=off and this path?"
    )]
    NoSocket(Address),
    /// The socket exists, but no process listens on it.
    #[error("connect to {0}: no process listens there: has its QEMU ended?")]
    Refused(Address),
    /// The socket's permissions exclude this user.
    #[error("connect to {0}: permission denied: run this as the user of that QEMU, or as root")]
    NotPermitted(Address),
    /// The address is not valid for a socket, or belongs to a socket of another type.
    #[error("connect to {0}: this cannot be the address of a QMP socket")]
    BadAddress(Address),
    /// No greeting arrived: a QMP monitor serves one client at a time.
    #[error(
        "read the greeting of {address} within {waited:?}: another client holds this monitor, or \
         its QEMU is stuck: end that client, or start QEMU with a second -qmp"
    )]
    NoGreeting {
        /// Address of the silent monitor.
        address: Address,
        /// Time allowed for the greeting.
        waited: Duration,
    },
    /// The peer does not speak QMP.
    #[error(
        "read the greeting of {address}: {line:?} is not QMP: is it a human monitor \
         (-monitor), or another program's socket?"
    )]
    NotQmp {
        /// Address of the peer that answered.
        address: Address,
        /// The beginning of the peer's line.
        line: String,
    },
    /// A line of the peer is not a QMP message.
    #[error("read the answer to {command}: {line:?} is not QMP: is another program reading too?")]
    Malformed {
        /// Name of the command whose answer was awaited.
        command: String,
        /// The beginning of that line.
        line: String,
    },
    /// A line of the peer exceeds the maximum length.
    #[error("read the answer to {command}: its line is longer than {limit} bytes")]
    TooLong {
        /// Name of the command whose answer was awaited.
        command: String,
        /// Maximum length of a line, in bytes.
        limit: usize,
    },
    /// No answer came in time. It may still come, since the command is not withdrawn.
    #[error(
        "wait {waited:?} for the answer to {command}: QEMU is stuck, stopped, or busy with its \
         disks: check that its process runs"
    )]
    NoAnswer {
        /// Name of the failed command.
        command: String,
        /// Time allowed for the answer.
        waited: Duration,
    },
    /// QEMU answered the command with an error.
    #[error("carry out {command}: QEMU answered {class}: {desc}")]
    Command {
        /// Name of the failed command.
        command: String,
        /// Class of QEMU's error, such as `CommandNotFound`.
        class: String,
        /// Description of the error, as QEMU sent it.
        desc: String,
    },
    /// The answer is well-formed QMP but does not match the command.
    #[error("understand the answer to {command}: {answer}: this version of QEMU is not supported")]
    Unexpected {
        /// Name of the failed command.
        command: String,
        /// The beginning of QEMU's answer.
        answer: String,
    },
    /// The peer closed the connection before it answered.
    #[error("read the answer to {command}: the connection was closed: QEMU has ended")]
    Closed {
        /// Name of the command whose answer was awaited.
        command: String,
    },
    /// The guardian has taken over the connection, and only it may use the connection now.
    #[error("send {command}: the guardian process has taken over the connection")]
    HandedOver {
        /// Name of the command that was not sent.
        command: String,
    },
    /// A system call on the host failed.
    #[error("{step}")]
    Host {
        /// The step that failed, as a fragment after "failed to".
        step: &'static str,
        /// Error returned by the host.
        #[source]
        source: io::Error,
    },
}

impl QmpError {
    /// True if the command was not withdrawn and its answer may still come.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }

    pub(crate) fn host(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::Host { step, source: error.into() }
    }
}
