//! A scripted fake monitor, and this test program as a guardian.
//!
//! Owns the fake peer. Refuses to own the expectations of the client (the tests).

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use nmiscope_qemu::{Address, Deadlines, hold};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

/// Longest time that a test waits for any event.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Deadlines short enough for tests with a stuck peer, and long enough for a slow machine.
pub fn deadlines() -> Deadlines {
    let short = Duration::from_millis(300);
    let (command, pause) = (PATIENCE, PATIENCE);
    Deadlines { connect: short, greeting: short, command, stop: short, guardian: PATIENCE, pause }
}

/// A fake monitor at a socket, and the thread that plays it.
pub struct Fake<T> {
    pub address: Address,
    thread: JoinHandle<T>,
    _directory: TempDir,
}

impl<T: Send + 'static> Fake<T> {
    /// Accepts one client and plays `script` with it.
    pub fn start(script: impl FnOnce(Peer) -> T + Send + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("a socket");
        let thread = spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            script(Peer::new(stream))
        });
        Self { address: Address::Path(path), thread, _directory: directory }
    }

    /// Waits for the script to end and returns its result.
    pub fn end(self) -> T {
        self.thread.join().expect("a script without a panic")
    }
}

/// The monitor's end of a connection.
pub struct Peer {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Peer {
    /// Wraps the monitor's end of an established connection.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let lines = BufReader::new(stream.try_clone().expect("a descriptor"));
        Self { stream, lines }
    }

    /// Sends bytes; a client that has disconnected is not an error.
    pub fn say(&mut self, text: &str) {
        let _ = self.try_say(text);
    }

    /// Sends bytes; fails once the client has disconnected.
    pub fn try_say(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Sends a text with a line end.
    pub fn line(&mut self, text: impl ToString) {
        self.say(&format!("{}\r\n", text.to_string()));
    }

    /// Reads the next command and skips parser resets; null once the client has disconnected.
    pub fn command(&mut self) -> Value {
        loop {
            let mut line = Vec::new();
            match self.lines.read_until(b'\n', &mut line) {
                Ok(0) => return Value::Null,
                Ok(_) if line.starts_with(b"\xff") => {
                    self.line(r#"{"error": {"class": "GenericError", "desc": "stray"}}"#);
                }
                Ok(_) => return serde_json::from_slice(&line).expect("a command"),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Value::Null,
                Err(error) => panic!("no command: {error}"),
            }
        }
    }

    /// Answers a command with a result.
    pub fn answer(&mut self, command: &Value, result: Value) {
        self.line(json!({ "return": result, "id": command["id"] }));
    }

    /// Sends the greeting and answers the negotiation.
    pub fn negotiate(&mut self) {
        self.line(GREETING);
        let command = self.command();
        assert_eq!(command["execute"], "qmp_capabilities");
        self.answer(&command, json!({}));
    }

    /// Answers queries as a running VM does, until another command arrives, and returns that command.
    pub fn answer_queries(&mut self) -> Value {
        loop {
            let command = self.command();
            match command["execute"].as_str() {
                Some("query-status") => self.answer(&command, status("running")),
                Some("query-migrate") => self.answer(&command, json!({})),
                Some("query-dump") => self.answer(&command, json!({ "status": "none" })),
                Some("query-sev") => self.answer(&command, json!({ "enabled": false })),
                Some("qom-get") => self.answer(&command, json!("")),
                _ => return command,
            }
        }
    }
}

/// Returns the answer to `query-status` for a run state.
pub fn status(name: &str) -> Value {
    json!({ "status": name, "running": name == "running", "singlestep": false })
}

const GUARDIAN: &str = "NMISCOPE_TEST_GUARDIAN";

/// Returns the command that runs this test program as a guardian, through its test
/// `guardian_process`.
pub fn guardian() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test program"));
    command.args(["--exact", "guardian_process"]).env(GUARDIAN, "1");
    command
}

/// Body of the test `guardian_process`: serves as guardian if the environment asks for one.
pub fn serve_as_guardian() {
    if std::env::var_os(GUARDIAN).is_none() {
        return;
    }
    let link = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input");
    hold::run(link, PATIENCE).expect("the guest runs");
}
