//! The command line: parses arguments, runs the command, prints for people, chooses the exit code.
//!
//! Owns all output but the guest's console. Refuses to own what a command does: a file below has its
//! arguments and one call each. Called by `main`.

mod arguments;
mod attach;
mod debug_search;
pub mod exit_code;
#[cfg(feature = "kvm")]
mod farm;
#[cfg(feature = "kvm")]
mod guest_parameters;
#[cfg(feature = "kvm")]
mod list;
mod output;
mod page;
mod redaction;
mod report;
mod report_directory;
#[cfg(feature = "kvm")]
mod run;
#[cfg(feature = "kvm")]
mod suite_files;
mod symbolize;
mod triage;

use std::io::{self, Write};
#[cfg(feature = "kvm")]
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

#[cfg(feature = "kvm")]
use anyhow::Context;
use clap::{CommandFactory, Parser};
use nmiscope_report::sanitize;
use nmiscope_report::text::Detail;

#[cfg(feature = "kvm")]
use crate::bundled;
#[cfg(feature = "kvm")]
use crate::errors::BadRequest;
use crate::signals;
use arguments::{Arguments, Command};

/// Runs the program with the process's arguments. `started` is the time at the start of `main`.
#[cfg_attr(not(feature = "kvm"), expect(unused_variables, reason = "only a run has clocks"))]
pub fn main(started: Instant) -> ExitCode {
    // A failure shows where a file becomes too large, as it does without this.
    let _ = signals::outlive_file_size_limit();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return not_a_command(error).into(),
    };
    output::set_color(arguments.color);
    output::start_tracing(arguments.verbose);
    let detail = Detail::from_verbose(arguments.verbose > 0);
    let result = match arguments.command {
        #[cfg(feature = "kvm")]
        Command::Run(arguments) => run::run(&arguments, detail, started),
        Command::Attach(arguments) => attach::attach(&arguments, detail),
        Command::HoldVm => attach::hold(),
        Command::Report(arguments) => report::report(&arguments, detail),
        Command::Symbolize(arguments) => symbolize::symbolize(&arguments),
        #[cfg(feature = "kvm")]
        Command::Farm(arguments) => farm::farm(&arguments),
        #[cfg(feature = "kvm")]
        Command::List(arguments) => list::list(&arguments),
        Command::Triage(triage) => triage::triage(&triage, arguments.verbose > 0),
        #[cfg(feature = "kvm")]
        Command::Guest { file } => guest(&file),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
    };
    let code = match result {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => exit_code::CLEAN,
        Err(error) => {
            output::error(&error);
            exit_code::for_error(&error)
        }
    };
    if output::report_stdout_failure() { exit_code::TOOL_FAILED.into() } else { code.into() }
}

/// Prints what clap returns instead of arguments: an error, or the text of --help or --version.
fn not_a_command(error: clap::Error) -> exit_code::Code {
    if !error.use_stderr() {
        let printed = error.print().map_err(output::stdout_failed);
        let is_failed = printed.is_err() && output::report_stdout_failure();
        return if is_failed { exit_code::TOOL_FAILED } else { exit_code::CLEAN };
    }
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    if !arguments.iter().any(|argument| sanitize::needs_escapes(argument)) {
        let _ = error.print();
        return exit_code::USAGE;
    }
    // The message quotes the arguments, and is colored. Escaped arguments have the same mistake.
    let arguments = arguments.iter().map(|argument| sanitize::line(argument));
    let _ = match Arguments::try_parse_from(arguments) {
        Err(escaped) if escaped.kind() == error.kind() => escaped.print(),
        _ => io::stderr().write_all(sanitize::lines(&error.to_string()).as_bytes()),
    };
    exit_code::USAGE
}

const NAME: &str = env!("CARGO_PKG_NAME");

#[cfg(feature = "kvm")]
fn guest(file: &Path) -> anyhow::Result<exit_code::Code> {
    std::fs::write(file, bundled::image())
        .with_context(|| format!("failed to write {}", file.display()))
        .map_err(BadRequest::from_error)?;
    Ok(exit_code::CLEAN)
}

/// Prints a completion script, made in memory first: `generate` panics when it cannot write.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<exit_code::Code> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    print(&script)
}

/// Writes bytes to standard output.
fn print(bytes: &[u8]) -> anyhow::Result<exit_code::Code> {
    let mut stdout = output::stdout();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(exit_code::CLEAN)
}

/// Prints one manual page, with a section for each subcommand's arguments.
fn man() -> anyhow::Result<exit_code::Code> {
    let mut command = Arguments::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let title = format!("{NAME} {}", subcommand.get_name()).to_uppercase();
        writeln!(page, ".SH \"{title}\"")?;
        let subpage = clap_mangen::Man::new(subcommand.clone());
        let mut section = Vec::new();
        subpage.render_description_section(&mut section)?;
        subpage.render_options_section(&mut section)?;
        // The subcommand's sections become subsections.
        page.extend(String::from_utf8_lossy(&section).replace(".SH ", ".SS ").into_bytes());
    }
    print(&page)
}
