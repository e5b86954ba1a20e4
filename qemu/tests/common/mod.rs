//! A monitor that follows a script, and this program as a guardian.
//!
//! Owns the fake peer. Refuses to own what is expected of the client (the tests).

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

/// The longest that any test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Deadlines that a stuck peer makes no test long with, and a slow machine does not miss.
pub fn deadlines() -> Deadlines {
    let short = Duration::from_millis(300);
    let (command, pause) = (PATIENCE, PATIENCE);
    Deadlines { connect: short, greeting: short, command, stop: short, guardian: PATIENCE, pause }
}

/// A monitor at a socket, and the thread that plays it.
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

    /// What the script returned.
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
    /// The peer of a client that has connected already.
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let lines = BufReader::new(stream.try_clone().expect("a descriptor"));
        Self { stream, lines }
    }

    /// Sends bytes; a client that is gone is none of the script's errors.
    pub fn say(&mut self, text: &str) {
        let _ = self.try_say(text);
    }

    /// Sends bytes while there is a client.
    pub fn try_say(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Sends a line.
    pub fn line(&mut self, text: impl ToString) {
        self.say(&format!("{}\r\n", text.to_string()));
    }

    /// The next command, without what makes a parser forget; null once the client has gone.
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

    /// Answers a command.
    pub fn answer(&mut self, command: &Value, result: Value) {
        self.line(json!({ "return": result, "id": command["id"] }));
    }

    /// Greets and answers the negotiation.
    pub fn negotiate(&mut self) {
        self.line(GREETING);
        let command = self.command();
        assert_eq!(command["execute"], "qmp_capabilities");
        self.answer(&command, json!({}));
    }

    /// Answers the queries of a running VM until another command comes, which it returns.
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

/// The answer to `query-status`.
pub fn status(name: &str) -> Value {
    json!({ "status": name, "running": name == "running", "singlestep": false })
}

const GUARDIAN: &str = "NMISCOPE_TEST_GUARDIAN";

/// The command that makes this test program a guardian, by a test of its own: `guardian_process` at
/// its root.
pub fn guardian() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test program"));
    command.args(["--exact", "guardian_process"]).env(GUARDIAN, "1");
    command
}

/// The body of that test, which serves as guardian where it is asked to.
pub fn serve_as_guardian() {
    if std::env::var_os(GUARDIAN).is_none() {
        return;
    }
    let link = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input");
    hold::run(link, PATIENCE).expect("the guest goes on");
}
