//! Destination of the guest's console: opened, compared with this process's own streams, and written to.
//!
//! Owns the answer to which text shares the console's file, pipe or terminal; refuses to own the order of the
//! two (the parent module, which calls this).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use nmiscope_report::blocking::BlockingWriter;
use nmiscope_report::sanitize::TerminalFilter;
use rustix::fs::fstat;
use rustix::process::getsid;
use rustix::stdio::{stderr, stdout};
use rustix::termios::{isatty, tcgetsid};

use super::{Sink, TextStream};
use crate::status_line::BesideStatus;

/// Sink that was opened, and what shares it.
pub struct Opened {
    /// Writer to the sink; `None` without one.
    pub output: Option<Output>,
    /// File that the console has for itself.
    pub file: Option<File>,
    /// Text that goes where the console goes.
    pub shares: Shares,
}

/// Streams of this process that lead where the console leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// True if standard output does.
    pub stdout: bool,
    /// True if standard error does.
    pub stderr: bool,
}

impl Shares {
    /// Returns true if text to `stream` goes where the console goes.
    pub fn is_with(self, stream: TextStream) -> bool {
        match stream {
            TextStream::Stdout => self.stdout,
            TextStream::Stderr => self.stderr,
        }
    }

    /// Returns true if the console goes to a stream of this process, by whatever name.
    pub fn is_a_stream(self) -> bool {
        self.stdout || self.stderr
    }

    /// Returns the streams that lead to the same file, pipe or terminal as `sink`.
    fn of(sink: impl AsFd) -> Self {
        Self { stdout: is_same(&sink, stdout()), stderr: is_same(&sink, stderr()) }
    }
}

/// Returns true if a sink and a stream are one file, pipe or terminal. `/dev/tty` is another name of the
/// terminal that controls this process.
fn is_same(sink: impl AsFd, stream: impl AsFd) -> bool {
    let (Ok(a), Ok(b)) = (fstat(&sink), fstat(&stream)) else { return false };
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
        || a.st_rdev == dev_tty() && isatty(sink) && is_controlling(stream)
}

/// Returns the device number of `/dev/tty` (Linux, Documentation/admin-guide/devices.txt).
fn dev_tty() -> u64 {
    rustix::fs::makedev(5, 0)
}

/// Returns true if a stream is the terminal that controls this process.
fn is_controlling(stream: impl AsFd) -> bool {
    let session = tcgetsid(stream).ok();
    session.is_some() && session == getsid(None).ok()
}

/// Opens a sink. A file keeps its old contents.
///
/// # Errors
/// The file cannot be opened.
pub fn open(sink: &Sink) -> anyhow::Result<Opened> {
    match sink {
        Sink::Stdout => Ok(Opened::stream(TextStream::Stdout)),
        Sink::Stderr => Ok(Opened::stream(TextStream::Stderr)),
        Sink::File(path) => open_file(path),
        Sink::None => Ok(Opened { output: None, file: None, shares: Shares::default() }),
    }
}

fn open_file(path: &Path) -> anyhow::Result<Opened> {
    let failed = || format!("failed to open {} for the guest's console", path.display());
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false);
    let opened = options.open(path).with_context(failed)?;
    let shares = Shares::of(&opened);
    if shares.is_a_stream() {
        // Of two descriptors with positions of their own, one would overwrite what the other wrote.
        let stream = if shares.stdout { TextStream::Stdout } else { TextStream::Stderr };
        let output = Output::Bytes { stream: writer(stream), is_in_line: false };
        return Ok(Opened { output: Some(output), file: None, shares });
    }
    let file = Some(opened.try_clone().with_context(failed)?);
    Ok(Opened { output: Some(Output::File(Box::new(opened))), file, shares })
}

impl Opened {
    fn stream(stream: TextStream) -> Self {
        let shares = match stream {
            TextStream::Stdout => Shares { stdout: true, ..Shares::of(stdout()) },
            TextStream::Stderr => Shares { stderr: true, ..Shares::of(stderr()) },
        };
        Self { output: Some(Output::text(writer(stream))), file: None, shares }
    }
}

/// Returns a writer to a stream of this process, which waits for it and keeps the status line apart.
fn writer(stream: TextStream) -> Box<dyn Write + Send> {
    match stream {
        TextStream::Stdout => {
            Box::new(BlockingWriter::new(BesideStatus::new(io::stdout()), stdout()))
        }
        TextStream::Stderr => {
            Box::new(BlockingWriter::new(BesideStatus::new(io::stderr()), stderr()))
        }
    }
}

/// Writer to the destination of the console.
pub enum Output {
    /// A stream that the tool's own text may share.
    Text(TerminalFilter<Box<dyn Write + Send>>),
    /// A stream that the tool's own text may share, and that was named as a file, which gets the guest's
    /// bytes.
    Bytes {
        /// Writer to that stream of this process.
        stream: Box<dyn Write + Send>,
        /// True if the last byte is in an unfinished line.
        is_in_line: bool,
    },
    /// A file, which gets the guest's bytes only.
    File(Box<dyn Write + Send>),
}

impl Output {
    /// Returns a writer to a stream of text, without control characters that a terminal obeys.
    pub fn text(stream: impl Write + Send + 'static) -> Self {
        Self::Text(TerminalFilter::new(Box::new(stream)))
    }

    /// Returns true if the tool's own text may be in the same stream.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// Writes bytes, and ends the line if other text may follow.
    ///
    /// # Errors
    /// The sink takes no more bytes.
    pub fn write(&mut self, bytes: &[u8], text_follows: bool) -> io::Result<()> {
        match self {
            Self::File(file) => {
                file.write_all(bytes)?;
                file.flush()
            }
            Self::Bytes { stream, is_in_line } => {
                stream.write_all(bytes)?;
                *is_in_line = bytes.last().map_or(*is_in_line, |&byte| byte != b'\n');
                if text_follows && std::mem::take(is_in_line) {
                    stream.write_all(b"\n")?;
                }
                stream.flush()
            }
            Self::Text(stream) => {
                stream.write_all(bytes)?;
                if text_follows {
                    stream.end_line()?;
                }
                stream.flush()
            }
        }
    }
}
