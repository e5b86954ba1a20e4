//! `nmiscope list`: prints the names that options and suites take, one a line.
//!
//! Owns the layout; refuses to own the items (the crate `farm`). Called by the parent module.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use nmiscope_farm::lists::{self, ListedItem};

use super::exit_code::{self, Code};
use super::output::{self, MessageFormat};

const EXAMPLES: &str = "\
Examples:
  nmiscope list workloads
        show what each workload of the bundled guest does
  for name in $(nmiscope list workloads); do nmiscope run --workload $name; done
        run them all: in a pipe there are only names, one a line
  nmiscope list workloads --message-format json | jq -r 'select(.expect == \"healthy\").name'
        select the workloads that do not hang";

/// Command-line arguments of `nmiscope list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// Kind of names to list
    #[arg(value_enum)]
    pub what: ListKind,
    /// Print names for people, with descriptions on a terminal, or JSON for programs: one line for each
    /// name (docs/list.schema.json)
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub message_format: MessageFormat,
}

/// Kind of names that `nmiscope list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListKind {
    /// Workloads of the bundled guest, for `run --workload` and suites.
    Workloads,
    /// Classes of hangs, for `--hang-after` and the expectations of suites.
    Classes,
}

/// Prints the names of one kind.
pub fn list(arguments: &ListArgs) -> anyhow::Result<Code> {
    let items = match arguments.what {
        ListKind::Workloads => lists::workloads(),
        ListKind::Classes => lists::classes(),
    };
    let mut out = output::stdout();
    let width = items.iter().map(|item| item.name.len()).max().unwrap_or(0);
    for ListedItem { name, summary, .. } in &items {
        match arguments.message_format {
            MessageFormat::Text if io::stdout().is_terminal() => {
                writeln!(out, "{name:<width$}  {summary}")?;
            }
            MessageFormat::Text => writeln!(out, "{name}")?,
            MessageFormat::Json => break,
        }
    }
    if arguments.message_format == MessageFormat::Json {
        for item in &items {
            writeln!(out, "{}", serde_json::to_string(item)?)?;
        }
    }
    // A pipe that its reader has closed shows here at the latest.
    out.flush()?;
    Ok(exit_code::CLEAN)
}
