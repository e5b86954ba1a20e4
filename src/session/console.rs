//! The guest's console: its output goes to the user's sink, and its last lines into the report.
//!
//! The reader of a sink may be slow, or have stopped. So a thread of its own writes to the sink from a
//! bounded queue: a vCPU that prints waits up to [`PATIENCE`] for room in the queue, then its bytes are
//! dropped and counted. Called by `live`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nmiscope_report::sanitize::TerminalFilter;

use super::STACK;

/// Destination of the guest's console output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output, without control characters that a terminal obeys.
    Stdout,
    /// Standard error, without control characters that a terminal obeys.
    Stderr,
    /// A file, which gets the output byte for byte.
    File(PathBuf),
    /// No destination; the report still has the last lines.
    None,
}

const TAIL_LINES: usize = 64;
const TAIL_LINE_BYTES: usize = 256;
/// Capacity of the queue to the writer thread.
const QUEUE_BYTES: usize = 1 << 20;
/// Longest time that a vCPU waits for room in the queue.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time that an unfinished line waits for its end before it is written.
const LINGER: Duration = Duration::from_millis(50);

/// The session's handle to the guest's console.
pub struct GuestConsole {
    shared: Arc<Shared>,
    file: Option<File>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when the queue grows, when it is emptied, and when the console is closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    /// True while the writer thread writes bytes that it took from the queue.
    writing: bool,
    /// True if the queue has no writer: there is no sink, or writing to it failed.
    has_no_sink: bool,
    /// True once the queue has been full for [`PATIENCE`]; vCPUs do not wait until there is room again.
    stalled: bool,
    closed: bool,
    dropped: u64,
    tail: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

impl GuestConsole {
    /// Opens the sink. A file keeps its old contents until [`GuestConsole::start`].
    ///
    /// # Errors
    /// The file cannot be opened, or the writer thread cannot be started.
    pub fn open(sink: &Sink) -> anyhow::Result<Self> {
        let mut file = None;
        let output: Option<Box<dyn Write + Send>> = match sink {
            Sink::Stdout => Some(Box::new(TerminalFilter::new(io::stdout()))),
            Sink::Stderr => Some(Box::new(TerminalFilter::new(io::stderr()))),
            Sink::File(path) => {
                let failed =
                    || format!("failed to open {} for the guest's console", path.display());
                let mut options = File::options();
                let opened = options
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .with_context(failed)?;
                file = Some(opened.try_clone().with_context(failed)?);
                Some(Box::new(opened))
            }
            Sink::None => None,
        };
        let state = State { has_no_sink: output.is_none(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        if let Some(output) = output {
            let shared = shared.clone();
            thread::Builder::new()
                .name("console".into())
                .stack_size(STACK)
                .spawn(move || shared.pass_on(output))
                .context("failed to start a thread for the guest's console")?;
        }
        Ok(Self { shared, file })
    }

    /// Begins the console of a run: empties the sink if it is a file.
    pub fn start(&self) {
        if let Some(file) = &self.file {
            // A pipe or a device has no length to set.
            let _ = file.set_len(0);
        }
    }

    /// Returns the writer for the guest's serial port.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(Writer(self.shared.clone()))
    }

    /// Returns the last lines of the console, the unfinished one included.
    pub fn tail(&self) -> Vec<String> {
        let state = self.shared.lock();
        let unfinished = Some(&state.line).filter(|line| !line.is_empty());
        let lines = state.tail.iter().chain(unfinished);
        lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Waits until the sink has received all output so far, for `deadline` at most. The console stays open.
    pub fn drain(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        while !state.has_no_sink && (state.writing || !state.queue.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.wait(state, left);
        }
        state.closed = false;
    }

    /// Returns the number of bytes that were dropped because the queue stayed full.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl Drop for GuestConsole {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Locks the state. A thread that panicked while it held the lock left the state usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        for_at_most: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, for_at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Runs the writer thread: writes whole lines at once, an unfinished line after [`LINGER`].
    fn pass_on(&self, mut output: Box<dyn Write + Send>) {
        let mut state = self.lock();
        loop {
            if state.queue.is_empty() {
                if state.closed {
                    return;
                }
                state = self.wait(state, Duration::from_secs(1));
                continue;
            }
            if !state.closed && !state.queue.contains(&b'\n') && state.queue.len() < QUEUE_BYTES / 2
            {
                state = self.wait(state, LINGER);
            }
            let bytes = std::mem::take(&mut state.queue);
            state.writing = true;
            drop(state);
            let result = output.write_all(&bytes).and_then(|()| output.flush());
            state = self.lock();
            state.writing = false;
            state.stalled = false;
            // A sink that fails, such as a closed pipe, does not end the run.
            state.has_no_sink |= result.is_err();
            self.changed.notify_all();
            if state.has_no_sink {
                state.queue.clear();
                return;
            }
        }
    }
}

struct Writer(Arc<Shared>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        for &byte in bytes {
            state.remember(byte);
        }
        if state.queue.len() + bytes.len() > QUEUE_BYTES && !state.has_no_sink && !state.stalled {
            state = self.0.wait(state, PATIENCE);
        }
        if state.has_no_sink {
            return Ok(bytes.len());
        }
        if state.queue.len() + bytes.len() > QUEUE_BYTES {
            state.stalled = true;
            state.dropped += bytes.len() as u64;
            return Ok(bytes.len());
        }
        let was_empty = state.queue.is_empty();
        state.queue.extend_from_slice(bytes);
        if was_empty || bytes.contains(&b'\n') {
            self.0.changed.notify_all();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn remember(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.tail.push_back(std::mem::take(&mut self.line));
                if self.tail.len() > TAIL_LINES {
                    self.tail.pop_front();
                }
            }
            b'\r' => {}
            _ if self.line.len() < TAIL_LINE_BYTES => self.line.push(byte),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_64_lines_and_cuts_long_ones() {
        let console = GuestConsole::open(&Sink::None).unwrap();
        let mut writer = console.writer();
        for line in 0..100 {
            write!(writer, "line {line}\r\n").unwrap();
        }
        writer.write_all(&[b'x'; 10_000]).unwrap();
        let tail = console.tail();
        assert_eq!(tail.len(), TAIL_LINES + 1);
        assert_eq!(tail[0], "line 36");
        assert_eq!(tail[TAIL_LINES].len(), TAIL_LINE_BYTES);
    }

    #[test]
    fn a_file_sink_gets_every_byte_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let console = GuestConsole::open(&Sink::File(path.clone())).unwrap();
        console.writer().write_all(b"\x1b[1mraw\r\nend").unwrap();
        console.drain(Duration::from_secs(5));
        assert_eq!(std::fs::read(path).unwrap(), b"\x1b[1mraw\r\nend");
    }

    #[test]
    fn a_stopped_reader_costs_bytes_and_does_not_stop_the_guest() {
        let (_reader, writer) = io::pipe().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let console = GuestConsole { shared: shared.clone(), file: None };
        thread::spawn(move || shared.pass_on(Box::new(writer)));
        let started = Instant::now();
        let mut guest = console.writer();
        for _ in 0..4 * QUEUE_BYTES / 1024 {
            guest.write_all(&[b'x'; 1024]).unwrap();
        }
        assert!(console.dropped() > 0);
        console.drain(Duration::from_millis(10));
        assert!(started.elapsed() < Duration::from_secs(60), "every wait has a bound");
    }
}
