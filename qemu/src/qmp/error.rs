//! Errors of a QMP connection.
//!
//! Owns the messages, which fit after "failed to" and say what the user can do.

use std::io;
use std::time::Duration;

use super::Address;

/// Why a QMP connection or a command on it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// Nothing lies at the address.
    #[error(
        "connect to {0}: there is no such socket: was QEMU started with \
         -qmp unix:PATH,server=on,wait=off and this path?"
    )]
    NoSocket(Address),
    /// A socket lies there, and nobody listens on it.
    #[error("connect to {0}: nobody listens there: has its QEMU ended?")]
    Refused(Address),
    /// The socket's permissions do not let this user in.
    #[error("connect to {0}: permission denied: run this as the user of that QEMU, or as root")]
    NotPermitted(Address),
    /// The path cannot be the address of a socket.
    #[error("connect to {0}: no socket has such an address")]
    BadAddress(Address),
    /// The connection was accepted, and no greeting came: QMP serves one client at a time.
    #[error(
        "read the greeting of {address} within {waited:?}: another client holds this monitor, or \
         its QEMU is stuck: end that client, or start QEMU with a second -qmp"
    )]
    NoGreeting {
        /// The address of the monitor.
        address: Address,
        /// The time that a greeting had.
        waited: Duration,
    },
    /// Something answers that does not speak QMP.
    #[error(
        "read the greeting of {address}: {line:?} is not QMP: is it a monitor for people \
         (-monitor), or another program's socket?"
    )]
    NotQmp {
        /// The address that answered.
        address: Address,
        /// The beginning of its line.
        line: String,
    },
    /// A line of the peer is no QMP message.
    #[error("read the answer to {command}: {line:?} is not QMP: is another program reading too?")]
    Malformed {
        /// The command that waited for its answer.
        command: String,
        /// The beginning of the line.
        line: String,
    },
    /// A line of the peer is longer than any answer can be.
    #[error("read the answer to {command}: its line is longer than {limit} bytes")]
    TooLong {
        /// The command that waited for its answer.
        command: String,
        /// The longest line that is read, in bytes.
        limit: usize,
    },
    /// No answer came in time. It may still come: the command is carried out or waits in QEMU.
    #[error(
        "have {command} answered within {waited:?}: QEMU is stuck, stopped, or busy with its \
         disks: see if its process runs"
    )]
    NoAnswer {
        /// The command.
        command: String,
        /// The time that the answer had.
        waited: Duration,
    },
    /// QEMU refused the command.
    #[error("carry out {command}: QEMU answered {class}: {desc}")]
    Command {
        /// The command.
        command: String,
        /// The class of the error, such as `CommandNotFound`.
        class: String,
        /// QEMU's sentence.
        desc: String,
    },
    /// The answer is well-formed QMP and not what the command's answer looks like.
    #[error("understand the answer to {command}: {answer}: this QEMU is not one that is known")]
    Unexpected {
        /// The command.
        command: String,
        /// The beginning of the answer.
        answer: String,
    },
    /// The peer closed the connection.
    #[error("have {command} answered: the connection was closed: QEMU has ended")]
    Closed {
        /// The command that waited for its answer.
        command: String,
    },
    /// The connection was left to the guardian, which alone may use it now.
    #[error("send {command}: the connection was left to the process that lets the guest go on")]
    HandedOver {
        /// The command that was not sent.
        command: String,
    },
    /// The host failed.
    #[error("{step}")]
    Host {
        /// The step that was tried.
        step: &'static str,
        /// The error of the host.
        #[source]
        source: io::Error,
    },
}

impl QmpError {
    /// True when the command is still on its way and its answer may come late.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }

    pub(crate) fn host(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::Host { step, source: error.into() }
    }
}
