//! Debian's Chromium without a window, controlled through pipes: no port, no network, no profile of a user.
//!
//! Owns the process, its arguments and its end; refuses to own what a page is asked (`tab`). Tests that run
//! at the same time share one browser, which ends with the last of them.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::connection::{Connection, Session};

/// Deadline of the browser's own end, after which its processes are killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Descriptors 3 and 4 are the protocol's pipes. A browser whose pipes are closed ends by itself, so that
/// it does not outlive a test that was killed.
const START: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

const ARGUMENTS: [&str; 17] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--hide-scrollbars",
];

/// A running browser, with its connection and a profile of its own.
pub struct Browser {
    process: Mutex<Child>,
    connection: Arc<Connection>,
    session: Mutex<Session>,
    directory: TempDir,
}

impl Browser {
    /// Returns the browser that other tests use at the moment, or starts one.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Browser>> = Mutex::new(Weak::new());
        // A test that failed to start the browser has no bearing on the next one.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let browser = Arc::new(Self::start());
            *shared = Arc::downgrade(&browser);
            browser
        })
    }

    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let errors = File::create(directory.path().join("stderr")).expect("a file");
        let mut process = Command::new("sh")
            .args(["-c", START, "chromium"])
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
            .env("HOME", directory.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            // A group of its own, which ends as one.
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        let pipes = (process.stdin.take(), process.stdout.take());
        let (Some(writer), Some(reader)) = pipes else { panic!("pipes") };
        let connection = Arc::new(Connection::new(writer, reader));
        let session = Mutex::new(connection.session(""));
        let browser = Self { process: Mutex::new(process), connection, session, directory };
        browser.call("Browser.getVersion", json!({}));
        browser
    }

    /// Calls a method of the browser itself, and returns its result.
    #[track_caller]
    pub fn call(&self, method: &str, parameters: Value) -> Value {
        self.try_call(method, parameters).unwrap_or_else(|error| {
            panic!("{error}; Chromium of Debian's package chromium wrote:\n{}", self.errors())
        })
    }

    /// Calls a method of the browser itself, and returns its result.
    ///
    /// # Errors
    /// Fails where the browser refuses the call, has ended, or does not answer in time.
    pub fn try_call(&self, method: &str, parameters: Value) -> Result<Value, String> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).call(method, &parameters)
    }

    /// Opens an empty tab in a window and a profile of its own. Returns the profile's name and the session.
    pub fn open(&self) -> (String, Session) {
        let context = self.call("Target.createBrowserContext", json!({}));
        let context = context["browserContextId"].as_str().expect("a name").to_owned();
        let target = json!({"url": "about:blank", "browserContextId": context, "newWindow": true});
        let target = self.call("Target.createTarget", target);
        let session = self.call(
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        let session = session["sessionId"].as_str().expect("a name");
        (context, self.connection.session(session))
    }

    /// Returns what the browser wrote to its standard error.
    fn errors(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let pid = Pid::from_child(process);
        let _ = self.try_call("Browser.close", json!({}));
        let (sender, ended) = mpsc::channel();
        // The number of a process that is not reaped is not given to another one.
        let waiter = thread::spawn(move || {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let _ = sender.send(());
        });
        let _ = ended.recv_timeout(DEADLINE);
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = waiter.join();
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = process.wait();
    }
}
