//! The guest's console: its output goes to the user's sink, and its last lines into the report.
//!
//! The reader of a sink may be slow, or have stopped. So a thread of its own writes to the sink from a
//! bounded queue: a vCPU that prints waits up to [`PATIENCE`] for room in the queue, then its bytes are
//! dropped and counted.
//!
//! The tool's own text may go where the console goes. A [`ConsolePause`] orders the two: all output from
//! before it is written first, an unfinished line is ended, and the console waits while the pause lasts.
//!
//! Text for the console's own file, pipe or terminal ([`destination`]) waits for its reader without a limit:
//! the text itself could not be written any sooner, so that the order costs no time and ends no run that
//! would have gone on. All other waits have a limit, since nothing else would wait: text for another stream,
//! whose reader may want that text first, and the end of a run whose text goes elsewhere or nowhere, as a
//! farm's. The waits cannot become a deadlock: vCPUs do not wait for the session, the writer thread holds no
//! lock while it writes to a stream that is no terminal, and the signals' thread, which ends the process at
//! once on a second signal, waits for neither. Called by `live`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::STACK;
use crate::kernel::may_begin_panic;

mod destination;

use destination::{Opened, Output, Shares};

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
/// The most lines that are kept because a panic may begin with them: the first ones, and as many last ones.
const PANIC_LINES: usize = 8;
/// Capacity of the queue to the writer thread.
const QUEUE_BYTES: usize = 1 << 20;
/// Longest time that a vCPU waits for room in the queue.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time that an unfinished line waits for its end before it is written.
const LINGER: Duration = Duration::from_millis(50);
/// Longest time that text waits for the end of the line that a running guest writes. It is longer than a
/// prompt may take to show: a busy host runs a vCPU again only after tenths of a second.
const LINE_END: Duration = Duration::from_millis(500);
/// Longest time that the console's end, or a pause for text that goes elsewhere, waits for the sink to take
/// the output from before it.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Stream of this process that the tool's text goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextStream {
    /// Standard output, the usual place.
    Stdout,
    /// Standard error: standard output holds data.
    Stderr,
}

/// The session's handle to the guest's console.
pub struct GuestConsole {
    shared: Arc<Shared>,
    /// File that the console has for itself; `None` for another sink.
    file: Option<File>,
    shares: Shares,
}

/// Handle that pauses the guest's console, for whoever prints where the console goes.
#[derive(Clone)]
pub struct ConsoleOrder {
    shared: Arc<Shared>,
    shares: Shares,
}

/// A pause of the console's output, which ends when it is dropped.
pub struct ConsolePause(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when the queue grows, when it is emptied, and when the console is closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    /// Number of bytes that the sink is being given, and may have taken in part.
    in_flight: u64,
    /// True if the queue has no writer: there is no sink, or writing to it failed.
    has_no_sink: bool,
    /// True once the queue has been full for [`PATIENCE`]; vCPUs do not wait until there is room again.
    stalled: bool,
    closed: bool,
    pause: Pause,
    /// Number of pauses so far.
    pauses: u64,
    /// Number of bytes in the queue when the pause was asked for.
    before_pause: usize,
    /// True if the last byte that was taken from the queue is in an unfinished line.
    is_in_line: bool,
    /// True once a pause has waited in vain; the next ones do not wait until the sink takes output again.
    late: bool,
    /// Error of the sink, other than a closed pipe.
    failure: Option<io::Error>,
    dropped: u64,
    tail: VecDeque<Vec<u8>>,
    /// The first lines with which a panic may begin, then the last ones.
    panics: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

/// State of a pause of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pause {
    /// No pause: output is written as it comes.
    #[default]
    Off,
    /// Output so far is to be written.
    Wanted,
    /// Output so far is written, and later output waits.
    Reached,
}

impl GuestConsole {
    /// Opens the sink. A file keeps its old contents until [`GuestConsole::start`].
    ///
    /// # Errors
    /// The file cannot be opened, or the writer thread cannot be started.
    pub fn open(sink: &Sink) -> anyhow::Result<Self> {
        let Opened { output, file, shares } = destination::open(sink)?;
        let state = State { has_no_sink: output.is_none(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), ..Shared::default() });
        if let Some(output) = output {
            let shared = shared.clone();
            thread::Builder::new()
                .name("console".into())
                .stack_size(STACK)
                .spawn(move || shared.pass_on(output))
                .context("failed to start a thread for the guest's console")?;
        }
        Ok(Self { shared, file, shares })
    }

    /// Begins the console of a run: empties the sink if it is a file of the console's own.
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

    /// Returns the lines in which the message of a panic may be: those with which one may begin, wherever they
    /// were printed, then the last ones of the console.
    pub fn panic_lines(&self) -> Vec<String> {
        let panics = self.shared.lock().panics.clone();
        let mut lines: Vec<String> =
            panics.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        lines.extend(self.tail());
        lines
    }

    /// Returns a handle that pauses the console.
    pub fn order(&self) -> ConsoleOrder {
        ConsoleOrder { shared: self.shared.clone(), shares: self.shares }
    }

    /// Ends the console's output: waits until the sink has received all of it, and ends an unfinished line.
    /// The wait lasts a second at most, unless the sink gets the text of `next` too. Later output, and output
    /// that the sink did not take, is dropped.
    pub fn finish(&self, next: Option<TextStream>) {
        let is_shared = next.is_some_and(|stream| self.shares.is_with(stream));
        let _pause = self.order().pause(Some(PAUSE).filter(|_| !is_shared));
        let mut state = self.shared.lock();
        state.dropped += state.queue.len() as u64 + state.in_flight;
        state.queue.clear();
        state.has_no_sink = true;
        state.closed = true;
    }

    /// Returns the error of the sink, other than a closed pipe; `None` if it took the output.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.shared.lock().failure.take()
    }

    /// Returns the number of bytes that were dropped: the queue stayed full, or the sink had not taken them
    /// at the end.
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

    /// Waits up to [`LINE_END`] for the end of the line that a running guest writes, and returns the number of
    /// bytes to write before the pause: to the end of that line, or all.
    fn bytes_before_pause<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, usize) {
        let until = Instant::now() + LINE_END;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Some(bytes) = state.end_of_line() {
                return (state, bytes);
            }
            if left.is_zero() || state.pause != Pause::Wanted {
                let bytes = state.queue.len();
                return (state, bytes);
            }
            state = self.wait(state, left);
        }
    }

    /// Runs the writer thread: writes whole lines at once, an unfinished line after [`LINGER`].
    fn pass_on(&self, mut output: Output) {
        let mut state = self.lock();
        while !(state.closed && state.queue.is_empty() && state.pause == Pause::Off) {
            match state.pause {
                Pause::Reached => {
                    state = self.wait(state, Duration::from_secs(1));
                    continue;
                }
                Pause::Off if state.queue.is_empty() => {
                    state = self.wait(state, Duration::from_secs(1));
                    continue;
                }
                Pause::Off if state.may_linger() => state = self.wait(state, LINGER),
                Pause::Off | Pause::Wanted => {}
            }
            let pause = (state.pause == Pause::Wanted).then_some(state.pauses);
            let mut count = state.queue.len();
            if pause.is_some() && output.is_shared() {
                (state, count) = self.bytes_before_pause(state);
            }
            let bytes: Vec<u8> = state.queue.drain(..count).collect();
            state.is_in_line = bytes.last().map_or(state.is_in_line, |&byte| byte != b'\n');
            state.in_flight = bytes.len() as u64;
            drop(state);
            let result = output.write(&bytes, pause.is_some());
            state = self.lock();
            state.in_flight = 0;
            state.wrote(result, pause);
            self.changed.notify_all();
            if state.has_no_sink {
                state.queue.clear();
                return;
            }
        }
    }
}

impl ConsoleOrder {
    /// Pauses the console for text to `stream`: waits until the sink has received all output so far, and ends
    /// an unfinished line. The wait lasts a second at most if the text goes elsewhere. `None` where no order
    /// is needed: the console has a file of its own. There is one pause at a time.
    pub fn pause_for(&self, stream: TextStream) -> Option<ConsolePause> {
        let is_shared = self.shares.is_with(stream);
        let is_wanted = is_shared || self.shares.is_a_stream();
        is_wanted.then(|| self.pause(Some(PAUSE).filter(|_| !is_shared)))
    }

    /// Pauses the console, and waits for the sink `for_at_most` that time; `None` is no limit.
    fn pause(&self, for_at_most: Option<Duration>) -> ConsolePause {
        let mut state = self.shared.lock();
        let for_at_most = for_at_most.map(|time| if state.late { Duration::ZERO } else { time });
        let until = for_at_most.map(|time| Instant::now() + time);
        state.pause = Pause::Wanted;
        state.pauses += 1;
        state.before_pause = state.queue.len();
        self.shared.changed.notify_all();
        while !state.has_no_sink && state.pause == Pause::Wanted {
            let left = until.map_or(PAUSE, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                state.late = true;
                break;
            }
            state = self.shared.wait(state, left);
        }
        drop(state);
        ConsolePause(self.shared.clone())
    }
}

impl Drop for ConsolePause {
    fn drop(&mut self) {
        self.0.lock().pause = Pause::Off;
        self.0.changed.notify_all();
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
    /// Returns true if the queue may still get the end of its line.
    fn may_linger(&self) -> bool {
        !self.closed && !self.queue.contains(&b'\n') && self.queue.len() < QUEUE_BYTES / 2
    }

    /// Returns the number of bytes in the queue to the end of the line in which the pause was asked for;
    /// `None` if the line has no end yet.
    fn end_of_line(&self) -> Option<usize> {
        let (before, after) = self.queue.split_at_checked(self.before_pause)?;
        match before.last() {
            Some(b'\n') => Some(self.before_pause),
            None if !self.is_in_line => Some(0),
            _ => after.iter().position(|&byte| byte == b'\n').map(|at| self.before_pause + at + 1),
        }
    }

    /// Records that the sink has taken output, or why it has not; before the `pause` of that number, if it
    /// was for one.
    fn wrote(&mut self, result: io::Result<()>, pause: Option<u64>) {
        self.stalled = false;
        self.late = false;
        if pause.is_some() {
            // The sink's line has been ended.
            self.is_in_line = false;
        }
        // A pause that waited in vain is over, and another one may have begun.
        if pause == Some(self.pauses) && self.pause == Pause::Wanted {
            self.pause = Pause::Reached;
        }
        if let Err(error) = result {
            // A sink that fails, such as a closed pipe, does not end the run.
            self.has_no_sink = true;
            self.failure = Some(error).filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        }
    }

    fn remember(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                let line = std::mem::take(&mut self.line);
                if may_begin_panic(&line) {
                    if self.panics.len() == 2 * PANIC_LINES {
                        self.panics.remove(PANIC_LINES);
                    }
                    self.panics.push_back(line.clone());
                }
                self.tail.push_back(line);
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
mod tests;
