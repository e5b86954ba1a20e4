//! A QMP connection over a unix socket.
//!
//! Owns the protocol: the greeting, the negotiation, commands, and answers, which are matched by id so
//! that a late answer is never taken for the answer to a later command. Events are queued. Refuses to own
//! the meaning of commands (`status`, `memory_map`, the handle `Qemu`).
//!
//! Every wait has a deadline, and a line of the peer is at most 16 MiB long. A command whose deadline
//! passed is *not* withdrawn: QEMU still carries it out later. The connection stays usable.

mod address;
mod error;
mod lines;
mod message;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use serde_json::{Value, json};

use crate::descriptor;
use crate::wait::{Deadline, wait_for};
use lines::{LONGEST_LINE, Lines, NoLine};
use message::Message;

pub use address::Address;
pub use error::QmpError;
pub(crate) use message::excerpt;
pub use message::{QmpEvent, Version};

/// Maximum number of queued events; beyond it, the oldest are dropped.
const MAX_EVENTS: usize = 256;

/// Prefix of the ids of a guardian's commands.
const GUARDIAN_ID: &str = "hold-";
/// Bytes that make QEMU's parser discard a partial command (QEMU, docs/interop/qmp-spec, "Forcing the JSON
/// parser into known-good state"). QEMU answers them with an error that has no id.
const PARSER_RESET: &[u8] = b"\xff\n";

/// Longest times for the steps of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Longest time until the connection is established.
    pub connect: Duration,
    /// Longest time from then until the greeting has arrived.
    pub greeting: Duration,
    /// Longest time for the answer to any command but `stop`.
    pub command: Duration,
    /// Longest time for the answer to `stop`, which waits for the VM's disks.
    pub stop: Duration,
    /// Longest time until the guardian process is ready, for which QEMU is not needed.
    pub guardian: Duration,
    /// Longest pause of the VM. When it expires, the guardian resumes the VM although the tool still lives,
    /// for example because Ctrl-Z stopped the tool.
    pub pause: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(1),
            greeting: seconds(1),
            command: seconds(5),
            stop: seconds(2),
            guardian: seconds(5),
            pause: seconds(2),
        }
    }
}

/// A QMP connection, ready for commands.
#[derive(Debug)]
pub struct Qmp {
    socket: OwnedFd,
    lines: Lines,
    /// Prefix of every command id, different for the tool and its guardian.
    client: &'static str,
    commands: u64,
    version: Option<Version>,
    events: VecDeque<QmpEvent>,
    /// True for a connection that was taken over: lines that are not messages are skipped.
    tolerant: bool,
    /// True if a command was written in part: QEMU's parser must be reset first.
    cut: bool,
    handed_over: bool,
    /// True once an answer to a guardian's command was read.
    guardian_answered: bool,
}

impl Qmp {
    /// Connects to the monitor at `address`, reads its greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// Any [`QmpError`]; [`QmpError::NoGreeting`] when another client holds the monitor.
    pub fn connect(address: &Address, deadlines: &Deadlines) -> Result<Self, QmpError> {
        let mut qmp = Self::from_socket(address.connect(deadlines.connect)?, "nmiscope-");
        qmp.greet(address, deadlines.greeting)?;
        qmp.execute("qmp_capabilities", deadlines.command)?;
        Ok(qmp)
    }

    /// Takes over a connection that another process may have left within a line, in either direction.
    pub(crate) fn adopt(socket: OwnedFd) -> Self {
        Self { tolerant: true, cut: true, ..Self::from_socket(socket, GUARDIAN_ID) }
    }

    /// Makes QEMU's parser discard another process's partial command before the next command is sent.
    pub(crate) fn reset_parser(&mut self) {
        self.cut = true;
    }

    fn from_socket(socket: OwnedFd, client: &'static str) -> Self {
        Self {
            socket,
            lines: Lines::new(LONGEST_LINE),
            client,
            commands: 0,
            version: None,
            events: VecDeque::new(),
            tolerant: false,
            cut: false,
            handed_over: false,
            guardian_answered: false,
        }
    }

    fn greet(&mut self, address: &Address, within: Duration) -> Result<(), QmpError> {
        let address = || address.clone();
        let line = match self.lines.next(self.socket.as_fd(), Deadline::after(within)) {
            Ok(line) => line,
            Err(NoLine::Late) if self.lines.is_empty() => {
                return Err(QmpError::NoGreeting { address: address(), waited: within });
            }
            // The prompt of a human monitor has no end of line.
            Err(NoLine::Late | NoLine::TooLong) => {
                let line = excerpt(self.lines.pending());
                return Err(QmpError::NotQmp { address: address(), line });
            }
            Err(NoLine::Closed) => return Err(closed("the greeting")),
            Err(NoLine::Host(error)) => return Err(QmpError::host("read a greeting")(error)),
        };
        match Message::parse(&line) {
            Some(Message::Greeting(version)) => self.version = Some(version),
            _ => return Err(QmpError::NotQmp { address: address(), line: excerpt(&line) }),
        }
        Ok(())
    }

    /// QEMU's version, from its greeting; `None` on a connection that was taken over.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Borrows the socket, to read its peer's credentials or to pass it to a guardian.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns true if an answer to the guardian has been read since the last call.
    pub(crate) fn take_guardian_answered(&mut self) -> bool {
        std::mem::take(&mut self.guardian_answered)
    }

    /// Sends a command and leaves its answer to the process that reads the connection. Returns false if
    /// the socket did not take it at once.
    pub(crate) fn send_only(&mut self, command: &str) -> Result<bool, QmpError> {
        let (_, message) = self.compose(command, &Value::Null);
        self.send(command, &message, None, Deadline::after(Duration::ZERO))
    }

    /// Gives up the connection: every later command fails with [`QmpError::HandedOver`].
    pub(crate) fn hand_over(&mut self) {
        self.handed_over = true;
    }

    /// Sends a command without arguments and waits for its answer.
    ///
    /// # Errors
    /// Any [`QmpError`] about the command.
    pub fn execute(&mut self, command: &str, within: Duration) -> Result<Value, QmpError> {
        self.execute_with(command, &Value::Null, within)
    }

    /// Sends a command with arguments (null for none) and waits for its answer.
    ///
    /// # Errors
    /// Any [`QmpError`] about the command.
    pub fn execute_with(
        &mut self,
        command: &str,
        arguments: &Value,
        within: Duration,
    ) -> Result<Value, QmpError> {
        self.execute_passing(command, arguments, None, within)
    }

    fn execute_passing(
        &mut self,
        command: &str,
        arguments: &Value,
        descriptor: Option<BorrowedFd<'_>>,
        within: Duration,
    ) -> Result<Value, QmpError> {
        if self.handed_over {
            return Err(QmpError::HandedOver { command: command.to_owned() });
        }
        let deadline = Deadline::after(within);
        let (id, message) = self.compose(command, arguments);
        let late = || QmpError::NoAnswer { command: command.to_owned(), waited: within };
        if !self.send(command, &message, descriptor, deadline)? {
            return Err(late());
        }
        match self.read_answer(command, &id, deadline)? {
            Some(value) => Ok(value),
            None => Err(late()),
        }
    }

    /// Passes a descriptor to QEMU under `name` (`getfd`), for one later command to use as `fd:NAME`.
    ///
    /// # Errors
    /// Any [`QmpError`] about `getfd`.
    pub(crate) fn pass_descriptor(
        &mut self,
        name: &str,
        descriptor: BorrowedFd<'_>,
        within: Duration,
    ) -> Result<(), QmpError> {
        let arguments = json!({ "fdname": name });
        self.execute_passing("getfd", &arguments, Some(descriptor), within).map(|_| ())
    }

    /// Returns the id of a new command and its line.
    fn compose(&mut self, command: &str, arguments: &Value) -> (String, String) {
        self.commands += 1;
        let id = format!("{}{}", self.client, self.commands);
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments.clone();
        }
        (id, format!("{message}\n"))
    }

    /// Executes a command of the human monitor (HMP) and returns its text. HMP has no error codes: the text
    /// of a failed command contains the error message.
    ///
    /// # Errors
    /// Any [`QmpError`] about the command.
    pub fn execute_hmp(&mut self, line: &str, within: Duration) -> Result<String, QmpError> {
        const COMMAND: &str = "human-monitor-command";
        let arguments = json!({ "command-line": line });
        match self.execute_with(COMMAND, &arguments, within)? {
            Value::String(text) => Ok(text),
            other => Err(unexpected(line, &other)),
        }
    }

    /// Writes a whole command. Returns false if the deadline passes first.
    fn send(
        &mut self,
        command: &str,
        line: &str,
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<bool, QmpError> {
        if self.cut && !self.write(command, PARSER_RESET, None, deadline)? {
            return Ok(false);
        }
        self.cut = true;
        let whole = self.write(command, line.as_bytes(), descriptor, deadline)?;
        self.cut = !whole;
        Ok(whole)
    }

    fn write(
        &mut self,
        command: &str,
        mut bytes: &[u8],
        mut descriptor: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<bool, QmpError> {
        while !bytes.is_empty() {
            let sent = match descriptor {
                Some(passed) => descriptor::send(self.socket.as_fd(), bytes, passed),
                None => send(&self.socket, bytes, SendFlags::NOSIGNAL),
            };
            match sent {
                Ok(written) => {
                    bytes = &bytes[written..];
                    descriptor = None;
                }
                Err(Errno::AGAIN) => {
                    let writable = wait_for(self.socket.as_fd(), PollFlags::OUT, deadline)
                        .map_err(QmpError::host("wait for a QMP socket"))?;
                    if !writable {
                        return Ok(false);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(closed(command)),
                Err(error) => return Err(QmpError::host("write to a QMP socket")(error)),
            }
        }
        Ok(true)
    }

    /// Waits for the answer with this id; `None` if the deadline passes first. Answers to other commands
    /// are late ones, or the guardian's, and are dropped.
    fn read_answer(
        &mut self,
        command: &str,
        id: &str,
        deadline: Deadline,
    ) -> Result<Option<Value>, QmpError> {
        loop {
            match self.read_message(command, deadline)? {
                None => return Ok(None),
                Some(Message::Answer { id: Some(found), result }) if found == id => {
                    return result.map(Some).map_err(|refusal| QmpError::Command {
                        command: command.to_owned(),
                        class: refusal.class,
                        desc: refusal.desc,
                    });
                }
                Some(Message::Answer { id, .. }) => {
                    let is_guardians = id.as_ref().is_some_and(|id| id.starts_with(GUARDIAN_ID));
                    self.guardian_answered |= is_guardians;
                    tracing::debug!(?id, command, "an answer to another command");
                }
                Some(Message::Event(event)) => self.keep_event(event),
                Some(Message::Greeting(_)) => {}
            }
            // An endless stream of other messages does not extend the deadline.
            if deadline.has_passed() {
                return Ok(None);
            }
        }
    }

    fn read_message(
        &mut self,
        command: &str,
        deadline: Deadline,
    ) -> Result<Option<Message>, QmpError> {
        loop {
            let line = match self.lines.next(self.socket.as_fd(), deadline) {
                Ok(line) => line,
                Err(NoLine::Late) => return Ok(None),
                Err(NoLine::Closed) => return Err(closed(command)),
                Err(NoLine::TooLong) => {
                    let command = command.to_owned();
                    return Err(QmpError::TooLong { command, limit: LONGEST_LINE });
                }
                Err(NoLine::Host(error)) => {
                    return Err(QmpError::host("read from a QMP socket")(error));
                }
            };
            match Message::parse(&line) {
                Some(message) => return Ok(Some(message)),
                None if self.tolerant && deadline.has_passed() => return Ok(None),
                None if self.tolerant => tracing::debug!(line = excerpt(&line), "not a message"),
                None => {
                    let (command, line) = (command.to_owned(), excerpt(&line));
                    return Err(QmpError::Malformed { command, line });
                }
            }
        }
    }

    fn keep_event(&mut self, event: QmpEvent) {
        tracing::debug!(name = event.name, "event");
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Takes the events queued since the last call, oldest first, at most 256. Events are read only while a
    /// command waits for its answer.
    pub fn take_events(&mut self) -> Vec<QmpEvent> {
        self.events.drain(..).collect()
    }
}

fn closed(command: &str) -> QmpError {
    QmpError::Closed { command: command.to_owned() }
}

/// Returns the error of an answer that does not match its command.
pub(crate) fn unexpected(command: &str, answer: &Value) -> QmpError {
    let answer = excerpt(answer.to_string().as_bytes());
    QmpError::Unexpected { command: command.to_owned(), answer }
}
