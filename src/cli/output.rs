//! What the program prints, and where: standard output for results, standard error for errors and
//! for what is told on the way when standard output is somebody's data.

use std::io::{self, Write};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use nmiscope_report::destination::Destination;
use nmiscope_report::{Report, json, sanitize};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The readers that a message is written for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Decides about colors, for everything printed from now on. `auto` is what the terminal, NO_COLOR
/// and CLICOLOR say.
pub fn set_color(color: Color) {
    let choice = match color {
        Color::Auto => return,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// Traces to standard error: nothing, what is done (1), details (2 and more).
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

/// Prints an error and its causes.
pub fn error(error: &anyhow::Error) {
    let text: Vec<String> = error.chain().map(|cause| sanitize::line(&cause.to_string())).collect();
    let _ = writeln!(anstream::stderr(), "{ERROR}error{ERROR:#}: {}", text.join(": "));
}

/// Prints a warning.
pub fn warning(text: &str) {
    let text = sanitize::line(text);
    let _ = writeln!(anstream::stderr(), "{WARNING}warning{WARNING:#}: {text}");
}

/// Prints what is worth knowing beside the output.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", sanitize::line(text));
}

/// Where the text for people goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Standard output.
    Stdout,
    /// Standard error: standard output holds a report.
    Stderr,
    /// Nowhere.
    Quiet,
}

impl Text {
    /// Where it goes beside a report as JSON that goes to `destination`.
    pub fn beside(destination: Option<&Destination>, quiet: bool) -> Self {
        match destination {
            _ if quiet => Self::Quiet,
            Some(destination) if destination.is_stdout() => Self::Stderr,
            _ => Self::Stdout,
        }
    }

    /// Writes a report as JSON, and says where it is.
    pub fn write(self, report: &Report, destination: Destination) -> anyhow::Result<()> {
        destination.write(json::text(report)?.as_bytes())?;
        if let Some(path) = destination.path() {
            self.print(&format!("wrote {}\n", path.display()));
        }
        Ok(())
    }

    /// Prints. Somebody who closes the pipe has seen enough, which is no reason to end the run.
    pub fn print(self, text: &str) {
        let _ = match self {
            Self::Stdout => anstream::stdout().write_all(text.as_bytes()),
            Self::Stderr => anstream::stderr().write_all(text.as_bytes()),
            Self::Quiet => Ok(()),
        };
        let _ = io::stdout().flush();
    }
}

/// Whether an error is only that nobody reads our output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
