//! The status line at the bottom of a terminal, and its order with all other output there.
//!
//! Owns the state of the terminal's last line: whoever writes to the terminal holds an [`OutputGuard`], which
//! has erased the status, and no status is drawn behind a line that is not finished. Refuses to own the text.
//! Called by the guest's console and by the command line's output.
//!
//! The status is drawn by a thread of its own: a terminal that Ctrl-S has stopped must not stop the session.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Context;

/// Stack size of the drawing thread, in bytes.
const STACK: usize = 256 << 10;

/// Width assumed for a terminal that does not report it.
const DEFAULT_WIDTH: usize = 80;

/// Sequences of ECMA-48: return to the start of the line, and erase to its end (EL).
const ERASE: &[u8] = b"\r\x1b[K";

static TERMINAL: Mutex<LastLine> =
    Mutex::new(LastLine { enabled: false, is_shown: false, is_in_line: false });

/// State of the terminal's last line.
struct LastLine {
    /// True while a [`StatusLine`] exists. Without one, no output is changed.
    enabled: bool,
    /// True while the status is on the screen.
    is_shown: bool,
    /// True while the cursor is behind an unfinished line of other output.
    is_in_line: bool,
}

/// Guard for output to a terminal. While it is held, there is no status on the screen.
pub struct OutputGuard(MutexGuard<'static, LastLine>);

fn lock() -> MutexGuard<'static, LastLine> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Erases the status, and keeps it away for as long as the guard is held.
pub fn erase() -> OutputGuard {
    let mut line = lock();
    line.erase();
    OutputGuard(line)
}

impl OutputGuard {
    /// Records that these bytes were written to the terminal.
    fn wrote(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.0.is_in_line = *last != b'\n';
        }
    }
}

impl LastLine {
    fn erase(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            // An error cannot be handled here: there is only a status less.
            let _ = io::stderr().write_all(ERASE);
        }
    }

    fn draw(&mut self, text: &str) {
        if !self.enabled || self.is_in_line {
            return;
        }
        let size = rustix::termios::tcgetwinsize(io::stderr());
        let width = size.map_or(0, |size| usize::from(size.ws_col));
        let width = if width == 0 { DEFAULT_WIDTH } else { width };
        // One column less: a cursor in the last one may have wrapped.
        let shown: String = text.chars().take(width - 1).collect();
        let mut bytes = ERASE.to_vec();
        bytes.extend(shown.as_bytes());
        self.is_shown = io::stderr().write_all(&bytes).is_ok();
    }
}

/// Status line of a run; erased when dropped.
#[derive(Debug)]
pub struct StatusLine(SyncSender<String>);

impl StatusLine {
    /// Creates the status line on standard error. `None` if that is no terminal, or one that cannot erase.
    ///
    /// # Errors
    /// The drawing thread cannot be started.
    pub fn on_stderr() -> anyhow::Result<Option<Self>> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        if !io::stderr().is_terminal() || is_dumb {
            return Ok(None);
        }
        let (sender, texts) = mpsc::sync_channel::<String>(1);
        let draw = move || texts.iter().for_each(|text| lock().draw(&text));
        thread::Builder::new()
            .name("status".into())
            .stack_size(STACK)
            .spawn(draw)
            .context("failed to start a thread for the status line")?;
        lock().enabled = true;
        Ok(Some(Self(sender)))
    }

    /// Shows a text soon. It is dropped if an earlier one is still being drawn.
    pub fn show(&self, text: String) {
        let _ = self.0.try_send(text);
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        let mut line = lock();
        line.enabled = false;
        line.erase();
    }
}

/// Writer to a terminal that keeps the status apart from its output; to anything else, it changes nothing.
pub struct BesideStatus<W> {
    inner: W,
    is_terminal: bool,
}

impl<W: Write + IsTerminal> BesideStatus<W> {
    /// Wraps a stream, which may be a terminal.
    pub fn new(inner: W) -> Self {
        let is_terminal = inner.is_terminal();
        Self { inner, is_terminal }
    }
}

impl<W: Write> Write for BesideStatus<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_terminal {
            return self.inner.write(bytes);
        }
        let mut guard = erase();
        let count = self.inner.write(bytes)?;
        // Written before a status may follow.
        self.inner.flush()?;
        guard.wrote(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
