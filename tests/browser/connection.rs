//! The DevTools protocol over a pair of pipes: JSON messages with a NUL after each.
//!
//! Owns numbering, the routes of messages to their sessions, and deadlines; refuses to own the process
//! (`chromium`) and what is asked (`tab`). The protocol:
//! <https://chromedevtools.github.io/devtools-protocol/>.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Deadline of one answer or event, longer than any takes on a loaded machine: a later one never comes.
const DEADLINE: Duration = Duration::from_secs(60);

/// The pipes to a browser.
pub struct Connection {
    writer: Mutex<Box<dyn Write + Send>>,
    routes: Arc<Mutex<Routes>>,
    next_call: AtomicU64,
}

/// The receivers of messages, by session; the browser itself is the session without a name.
#[derive(Default)]
struct Routes {
    by_session: HashMap<String, Route>,
    has_ended: bool,
}

/// The queue of a session's messages. The first message may come before anyone asks for the queue.
struct Route {
    sender: Sender<Value>,
    receiver: Option<Receiver<Value>>,
}

impl Default for Route {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver: Some(receiver) }
    }
}

impl Connection {
    /// Connects to a browser that reads from `writer` and writes to `reader`.
    pub fn new(writer: impl Write + Send + 'static, reader: impl Read + Send + 'static) -> Self {
        let routes = Arc::<Mutex<Routes>>::default();
        let theirs = routes.clone();
        thread::spawn(move || deliver(reader, &theirs));
        Self { writer: Mutex::new(Box::new(writer)), routes, next_call: AtomicU64::new(1) }
    }

    /// Returns the session of a name; each can be taken once.
    pub fn session(self: &Arc<Self>, name: &str) -> Session {
        let mut routes = self.routes.lock().expect("the routes");
        let route = routes.by_session.entry(name.to_owned()).or_default();
        let messages = route.receiver.take().expect("a session is taken once");
        if routes.has_ended {
            routes.by_session.clear();
        }
        drop(routes);
        Session { connection: self.clone(), name: name.to_owned(), messages, events: Vec::new() }
    }

    fn send(&self, session: &str, method: &str, parameters: &Value) -> u64 {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        // An error is noticed by the deadline, or by the end of the other pipe.
        let _ = self.writer.lock().expect("the pipe").write_all(&bytes);
        id
    }
}

/// Puts each message into its session's queue, until the browser closes its end of the pipe.
fn deliver(reader: impl Read, routes: &Mutex<Routes>) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while let Ok(count @ 1..) = reader.read_until(0, &mut bytes) {
        let message: Value =
            serde_json::from_slice(&bytes[..count - 1]).expect("a message of the browser is JSON");
        let session = message["sessionId"].as_str().unwrap_or_default().to_owned();
        let mut routes = routes.lock().expect("the routes");
        // A session that is no longer used has no receiver.
        let _ = routes.by_session.entry(session).or_default().sender.send(message);
        bytes.clear();
    }
    let mut routes = routes.lock().expect("the routes");
    routes.by_session.clear();
    routes.has_ended = true;
}

/// A session: a tab, or the browser itself.
pub struct Session {
    connection: Arc<Connection>,
    name: String,
    messages: Receiver<Value>,
    events: Vec<Value>,
}

impl Session {
    /// Calls a method, and returns its result.
    ///
    /// # Errors
    /// Fails where the browser refuses the call, has ended, or does not answer in time.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Result<Value, String> {
        let id = self.connection.send(&self.name, method, parameters);
        let mut answer = self.wait(method, |message| message["id"] == id)?;
        match answer.get("error") {
            Some(error) => Err(format!("{method}: {error}")),
            None => Ok(answer["result"].take()),
        }
    }

    /// Waits for an event, whether it came already or not, and takes it.
    ///
    /// # Errors
    /// Fails where the browser has ended, or the event does not come in time.
    pub fn event(&mut self, method: &str) -> Result<Value, String> {
        let is_wanted = |event: &Value| event["method"] == method;
        if let Some(index) = self.events.iter().position(is_wanted) {
            return Ok(self.events.remove(index));
        }
        self.wait(method, is_wanted)
    }

    /// Discards the events that came so far.
    pub fn forget_events(&mut self) {
        self.events.clear();
        self.messages.try_iter().for_each(drop);
    }

    /// Returns the events that came so far and were not waited for.
    pub fn events(&mut self) -> &[Value] {
        self.events.extend(self.messages.try_iter());
        &self.events
    }

    fn wait(&mut self, method: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) if is_wanted(&message) => return Ok(message),
                Ok(message) => self.events.push(message),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{method}: nothing within {DEADLINE:?}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{method}: the browser has ended"));
                }
            }
        }
    }
}
