//! The program's output: results on standard output; errors, warnings and traces on standard error, and
//! with them the text for people when standard output holds a report.
//!
//! Owns the streams, colors and escaping; refuses to own the texts (`report`, farms). Called by all
//! commands.

use std::io::{self, Write};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use nmiscope_report::destination::Destination;
use nmiscope_report::{Report, json, sanitize};

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
    tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(ansi).init();
}

/// Prints an error and its causes on standard error. A message may have several lines, as those about a
/// suite's mistakes have.
pub fn error(error: &anyhow::Error) {
    let text: Vec<String> =
        error.chain().map(|cause| sanitize::lines(&cause.to_string())).collect();
    let _ = writeln!(anstream::stderr(), "{ERROR}error{ERROR:#}: {}", text.join(": "));
}

/// Prints a warning on standard error.
pub fn warning(text: &str) {
    let text = sanitize::line(text);
    let _ = writeln!(anstream::stderr(), "{WARNING}warning{WARNING:#}: {text}");
}

/// Prints a remark about the output on standard error.
pub fn note(text: &str) {
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
    /// Returns the destination of text that accompanies a JSON report in `destination`.
    pub fn beside(destination: Option<&Destination>, quiet: bool) -> Self {
        match destination {
            _ if quiet => Self::Quiet,
            Some(destination) if destination.is_stdout() => Self::Stderr,
            _ => Self::Stdout,
        }
    }

    /// Writes a report as JSON, and prints the name of its file.
    pub fn write(self, report: &Report, destination: Destination) -> anyhow::Result<()> {
        destination.write(json::text(report)?.as_bytes())?;
        if let Some(path) = destination.path() {
            self.print(&format!("wrote {}\n", path.display()));
        }
        Ok(())
    }

    /// Prints text. Errors are ignored: a reader who closes the pipe does not end the run.
    pub fn print(self, text: &str) {
        let _ = match self {
            Self::Stdout => anstream::stdout().write_all(text.as_bytes()),
            Self::Stderr => anstream::stderr().write_all(text.as_bytes()),
            Self::Quiet => Ok(()),
        };
        let _ = io::stdout().flush();
    }
}

/// Returns true if the error was a write to a pipe that its reader has closed.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
