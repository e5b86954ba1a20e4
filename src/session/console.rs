//! The guest's console: passed on to where the user wants it, and its last lines kept for the
//! report.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

use crate::report::sanitize::Terminal;

/// Where the guest's console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// To standard output, made harmless.
    Stdout,
    /// To standard error, made harmless.
    Stderr,
    /// To a file, byte for byte.
    File(PathBuf),
    /// Nowhere.
    None,
}

const TAIL_LINES: usize = 64;
const TAIL_LINE_BYTES: usize = 256;
/// What is passed on at once, at most, when the guest prints without ending a line.
const CHUNK_BYTES: usize = 4096;

/// The session's hold on the console.
pub struct Console(Arc<Mutex<State>>);

struct State {
    output: Option<Box<dyn Write + Send>>,
    pending: Vec<u8>,
    tail: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

impl Console {
    /// Opens the sink.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(sink: &Sink) -> anyhow::Result<Self> {
        let output: Option<Box<dyn Write + Send>> = match sink {
            Sink::Stdout => Some(Box::new(Terminal::new(io::stdout()))),
            Sink::Stderr => Some(Box::new(Terminal::new(io::stderr()))),
            Sink::File(path) => Some(Box::new(File::create(path).with_context(|| {
                format!("failed to create {} for the guest's console", path.display())
            })?)),
            Sink::None => None,
        };
        let (pending, tail, line) = Default::default();
        Ok(Self(Arc::new(Mutex::new(State { output, pending, tail, line }))))
    }

    /// What the serial port writes to.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(Writer(self.0.clone()))
    }

    /// Passes on a line that has not ended yet.
    pub fn flush(&self) {
        lock(&self.0).pass_on();
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        let state = lock(&self.0);
        let unfinished = Some(&state.line).filter(|line| !line.is_empty());
        let lines = state.tail.iter().chain(unfinished);
        lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

struct Writer(Arc<Mutex<State>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.0);
        for &byte in bytes {
            state.take(byte);
        }
        Ok(bytes.len())
    }

    /// The serial port asks for it after every byte, which is too often.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn take(&mut self, byte: u8) {
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
        self.pending.push(byte);
        if byte == b'\n' || self.pending.len() >= CHUNK_BYTES {
            self.pass_on();
        }
    }

    /// A console that nobody listens to any more, a closed pipe for one, is no reason to stop.
    fn pass_on(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if let Some(output) = &mut self.output
            && output.write_all(&self.pending).and_then(|()| output.flush()).is_err()
        {
            self.output = None;
        }
        self.pending.clear();
    }
}

/// A thread that panicked with the console in hand left it whole enough.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_and_bounds_each() {
        let console = Console::open(&Sink::None).unwrap();
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
    fn a_file_gets_every_byte_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let console = Console::open(&Sink::File(path.clone())).unwrap();
        console.writer().write_all(b"\x1b[1mraw\r\nend").unwrap();
        console.flush();
        assert_eq!(std::fs::read(path).unwrap(), b"\x1b[1mraw\r\nend");
    }
}
