//! The program's output: results on standard output; errors, warnings and traces on standard error, and
//! with them the text for people when standard output holds a report.
//!
//! Owns the streams, their errors, colors and escaping; refuses to own the texts (`report`, farms). Called
//! by all commands.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use nmiscope_report::blocking::BlockingWriter;
use nmiscope_report::destination::Destination;
use nmiscope_report::{Report, json, sanitize};

#[cfg(feature = "kvm")]
use crate::session::TextStream;
use crate::status_line::{self, BesideStatus};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Use of colors in the output, as `--color` sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// Colors on a terminal, unless NO_COLOR or CLICOLOR says otherwise.
    Auto,
    /// Colors wherever the output goes.
    Always,
    /// Plain text wherever the output goes.
    Never,
}

/// Format of a command's messages on standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// Text for people to read.
    #[default]
    Text,
    /// JSON records, one a line, for programs.
    Json,
}

/// Sets the use of colors for all later output. `auto` leaves it to the terminal, NO_COLOR and CLICOLOR.
pub fn set_color(color: Color) {
    let choice = match color {
        Color::Auto => return,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// Starts tracing to standard error: nothing (0), steps (1), their details (2), everything (3 and more).
pub fn start_tracing(verbosity: u8) {
    let level = match verbosity {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let ansi = anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let stderr = || BesideStatus::new(io::stderr());
    tracing_subscriber::fmt().with_max_level(level).with_writer(stderr).with_ansi(ansi).init();
}

/// First error of standard output, other than a closed pipe, and whether it has been printed.
static STDOUT_FAILURE: Mutex<Option<(StdoutError, bool)>> = Mutex::new(None);

/// Error of a write to standard output.
#[derive(Debug, Clone, thiserror::Error)]
#[error("failed to write to standard output: {0}")]
struct StdoutError(String);

/// Standard output, or a writer on top of it. Records the first error, which the exit code depends on.
pub struct Stdout<W = io::Stdout>(W);

/// Returns standard output as a writer that records its errors.
pub fn stdout() -> Stdout {
    Stdout(io::stdout())
}

impl<W: Write> Stdout<W> {
    /// Wraps a writer that writes to standard output.
    pub fn through(writer: W) -> Self {
        Self(writer)
    }

    fn blocking(&mut self) -> BlockingWriter<&mut W> {
        BlockingWriter::new(&mut self.0, rustix::stdio::stdout())
    }
}

impl<W: Write> Write for Stdout<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.blocking().write(bytes).map_err(stdout_failed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blocking().flush().map_err(stdout_failed)
    }
}

/// Records an error of standard output, and returns it with its context. A closed pipe is none: its reader
/// has seen enough. The others say that the write is to be repeated.
pub fn stdout_failed(error: io::Error) -> io::Error {
    use io::ErrorKind::{BrokenPipe, Interrupted, WouldBlock};
    if matches!(error.kind(), BrokenPipe | Interrupted | WouldBlock) {
        return error;
    }
    let failure = StdoutError(error.to_string());
    let mut first = STDOUT_FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    first.get_or_insert((failure.clone(), false));
    io::Error::new(error.kind(), failure)
}

/// Prints the error of standard output unless it has been printed. Returns true if there was one.
pub fn report_stdout_failure() -> bool {
    let mut failure = STDOUT_FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((failure, printed)) = failure.as_mut() else { return false };
    if !std::mem::replace(printed, true) {
        let _ = writeln!(anstream::stderr(), "{ERROR}error{ERROR:#}: {failure}");
    }
    true
}

/// Prints an error and its causes on standard error. A message may have several lines, as those about a
/// suite's mistakes have.
pub fn error(error: &anyhow::Error) {
    if is_of_stdout(error) {
        report_stdout_failure();
        return;
    }
    let _output = status_line::erase();
    let text: Vec<String> =
        error.chain().map(|cause| sanitize::lines(&cause.to_string())).collect();
    let _ = writeln!(anstream::stderr(), "{ERROR}error{ERROR:#}: {}", text.join(": "));
}

/// Prints a warning on standard error.
pub fn warning(text: &str) {
    let _output = status_line::erase();
    let text = sanitize::line(text);
    let _ = writeln!(anstream::stderr(), "{WARNING}warning{WARNING:#}: {text}");
}

/// Prints a remark about the output on standard error.
pub fn note(text: &str) {
    let _output = status_line::erase();
    let _ = writeln!(anstream::stderr(), "{}", sanitize::line(text));
}

/// Destination of the text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Standard output, the usual place.
    Stdout,
    /// Standard error: standard output holds a report as JSON.
    Stderr,
    /// No destination: the text is dropped.
    Quiet,
}

impl Text {
    /// Returns the destination of text that accompanies reports in `destinations`.
    pub fn beside<'a>(
        destinations: impl IntoIterator<Item = &'a Destination>,
        quiet: bool,
    ) -> Self {
        let stdout_is_data = destinations.into_iter().any(Destination::is_stdout);
        match (quiet, stdout_is_data) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Stderr,
            (false, false) => Self::Stdout,
        }
    }

    /// Returns the stream of the text; `None` if it is dropped.
    #[cfg(feature = "kvm")]
    pub fn stream(self) -> Option<TextStream> {
        match self {
            Self::Stdout => Some(TextStream::Stdout),
            Self::Stderr => Some(TextStream::Stderr),
            Self::Quiet => None,
        }
    }

    /// Writes a report as JSON, and prints the name of its file.
    pub fn write(self, report: &Report, destination: &Destination) -> anyhow::Result<()> {
        self.write_bytes(json::text(report)?.as_bytes(), destination)
    }

    /// Writes a report in any form, and prints the name of its file.
    pub fn write_bytes(self, bytes: &[u8], destination: &Destination) -> anyhow::Result<()> {
        destination.write(bytes)?;
        if let Some(path) = destination.path() {
            self.wrote(path);
        }
        Ok(())
    }

    /// Prints the name of a file that was written.
    pub fn wrote(self, path: &Path) {
        self.print(&format!("wrote {}\n", sanitize::line(&path.display().to_string())));
    }

    /// Prints the name that an earlier file has now, which another was to replace.
    #[cfg(feature = "kvm")]
    pub fn kept(self, name: &str, kept: &Path) {
        let kept = sanitize::line(&kept.display().to_string());
        self.print(&format!("kept the earlier {name} as {kept}\n"));
    }

    /// Prints text. An error does not end the run; that of standard output decides on the exit code.
    pub fn print(self, text: &str) {
        let _output = status_line::erase();
        let _ = match self {
            Self::Stdout => {
                let mut stdout = Stdout::through(anstream::stdout());
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            }
            Self::Stderr => anstream::stderr().write_all(text.as_bytes()),
            Self::Quiet => Ok(()),
        };
    }
}

/// The image that gdb needs beside a core.
#[derive(Clone, Copy, Debug)]
pub enum CoreImage<'a> {
    #[cfg(feature = "kvm")]
    Bundled,
    File(&'a Path),
    /// Image of a guest that somebody else has started.
    Unknown,
}

/// Returns the line about a core that was written, with the commands that open it.
pub fn wrote_core(core: &Path, image: CoreImage<'_>) -> String {
    let path = sanitize::line(&core.display().to_string());
    let word = shell_word(core);
    let gdb = match image {
        CoreImage::File(image) => format!("; gdb {} {word}", shell_word(image)),
        #[cfg(feature = "kvm")]
        CoreImage::Bundled => format!("; nmiscope guest guest.elf && gdb guest.elf {word}"),
        CoreImage::Unknown => String::new(),
    };
    format!("wrote {path}, to be opened by: nmiscope report {word}{gdb}\n")
}

/// Returns a path as one word of a shell's command, quoted where a character needs it.
fn shell_word(path: &Path) -> String {
    let text = sanitize::line(&path.display().to_string());
    let is_plain = |c: char| c.is_alphanumeric() || "._-+=:@%,/".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Returns true if the error is one of standard output, which is printed once.
pub fn is_of_stdout(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref())
        .any(|error| error.is::<StdoutError>())
}

/// Returns true if the error was a write to a pipe that its reader has closed.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
