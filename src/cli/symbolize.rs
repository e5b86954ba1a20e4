//! `nmiscope symbolize`: annotates a log from standard input, or looks up addresses of the command line.
//!
//! Owns the options and the reading of standard input; refuses to own the lookup and its text
//! (`symbolize`). Called by the parent module.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueHint};
use nmiscope_symbolizer::{Image, SourceRoots};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;

use super::debug_search::debug_search;
use super::exit_code::{self, Code};
use super::output;
use crate::errors::BadRequest;
use crate::images::modules::Modules;
use crate::images::{Access, DEBUG_DIRECTORY, Files, refused, source_roots};
use crate::symbolize::grammar::{self, CodeLocation, Reference};
use crate::symbolize::{Annotator, Format, Lookup, Resolution, one_line, write_record};

const EXAMPLES: &str = "\
Examples:
  nmiscope symbolize --image vmlinux --modules /lib/modules/6.1.0 < log
        copy a console log, with functions and lines behind its stack traces
  nmiscope symbolize --image vmlinux 'vfs_write+0x14/0x90' ffffffff81234567
        look up single addresses of a stack trace
  nmiscope symbolize --image vmlinux --json < log > records.jsonl
        write one line of JSON for each address in the log

Exit codes:
  0  something was found, or the log names no code
  1  nothing of the log or the arguments is in the image
  2  usage: the command line, or a file it names, cannot be used
  5  the tool or its host failed";

/// Command-line arguments of `nmiscope symbolize`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SymbolizeArgs {
    /// Image of the kernel that wrote the text: for Linux, its vmlinux with debug information
    #[cfg_attr(feature = "kvm", doc = "[default: the bundled guest]")]
    #[cfg_attr(not(feature = "kvm"), arg(required = true))]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub image: Option<PathBuf>,
    /// Find kernel modules (.ko, .ko.xz, .ko.zst, .ko.gz, .ko.debug) below this directory; may be
    /// repeated
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::AnyPath)]
    pub modules: Vec<PathBuf>,
    /// Offset of the running kernel from the addresses of its image (KASLR), in hexadecimal; takes
    /// precedence over a `Kernel Offset:` line in the text
    #[arg(long, value_name = "OFFSET", value_parser = parse_address)]
    pub offset: Option<u64>,
    /// Treat each address as a return address, and look up the call before it; a symbol of a trace, such as
    /// func+0x14/0x90, always is one
    #[arg(long)]
    pub return_addresses: bool,
    /// Directory of separate debug files, by build-id, and of other files that debug information refers to;
    /// may be repeated, and is searched in order
    #[arg(long, value_name = "DIRECTORY", default_value = DEBUG_DIRECTORY,
          value_hint = ValueHint::DirPath)]
    pub debug_dir: Vec<PathBuf>,
    /// Print one line of JSON for each address, instead of the text (docs/symbolize.schema.json)
    #[arg(long)]
    pub json: bool,
    /// Print no summary on standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Addresses in hexadecimal, or symbols of a stack trace such as `func+0x14/0x90 [mod]`; without any,
    /// standard input is copied, with functions and lines behind its stack traces
    #[arg(value_name = "ADDR", value_parser = parse_reference)]
    pub references: Vec<String>,
}

/// Reason why an argument names no code.
#[derive(Debug, thiserror::Error)]
enum NoPlace {
    #[error(
        "expected an address in hexadecimal, as in ffffffff80201234, or a place in a function, as in \
         'vfs_write+0x14/0x90'"
    )]
    NoReference,
    #[error("expected an address in hexadecimal, as in ffffffff80201234")]
    NoAddress,
}

/// Checks that the text names code. It is parsed again once the image is open.
fn parse_reference(text: &str) -> Result<String, NoPlace> {
    grammar::argument(text).map(|_| text.to_owned()).ok_or(NoPlace::NoReference)
}

fn parse_address(text: &str) -> Result<u64, NoPlace> {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).map_err(|_| NoPlace::NoAddress)
}

/// Longest time that lines are held back for the kernel's address offset, since the first of them came.
const PATIENCE: Duration = Duration::from_secs(1);
/// Number of lookups after which the pages of the image that they have read are given back.
const LOOKUPS_PER_RELEASE: usize = 256;
/// Largest number of bytes that is read at a time.
const CHUNK: usize = 64 << 10;

/// Annotates standard input, or prints the frames of the arguments.
pub fn symbolize(arguments: &SymbolizeArgs) -> anyhow::Result<Code> {
    let path = arguments.image.as_deref();
    let search = debug_search(&arguments.debug_dir, arguments.quiet);
    let mut files = Files::open(path, Access::Map).map_err(BadRequest::from_error)?;
    let is_module = files.lay_out_module(path).map_err(BadRequest::from_error)?;
    files.find_debug_files(path, &search);
    let image = parse(&files, arguments).map_err(BadRequest::from_error)?;
    let warned = search.notes.texts();
    warned.iter().for_each(|remark| output::warning(remark));
    if !image.has_debug_info() {
        output::warning(
            "the image has no debug information, and no debug file of it was found: names only",
        );
    }
    for folder in &arguments.modules {
        let missing = || format!("failed to look for modules in {}", folder.display());
        folder.metadata().with_context(missing).map_err(BadRequest::from_error)?;
    }
    // A log has the module's name behind its functions.
    let own_module = path.filter(|_| is_module).map(PathBuf::from);
    let modules = arguments.modules.iter().cloned().chain(own_module).collect();
    let modules = Modules::new(modules, &search);
    let lookup = Lookup::new(&image, &modules, SourceRoots::new(source_roots()));
    let code = if arguments.references.is_empty() {
        annotate_log(lookup, arguments)
    } else {
        look_up_arguments(lookup, &files, arguments)
    };
    // Files of split units are looked for when an address needs them.
    let later = search.notes.texts().into_iter().filter(|remark| !warned.contains(remark));
    later.for_each(|remark| output::warning(&remark));
    code
}

fn parse<'a>(files: &'a Files, arguments: &SymbolizeArgs) -> anyhow::Result<Image<'a>> {
    let Some(path) = &arguments.image else {
        return files.parse().context("failed to read the bundled guest");
    };
    files.parse().with_context(|| match refused::explanation(&files.image) {
        Some(explanation) => format!("{}: {explanation}", path.display()),
        None => format!("failed to read {}", path.display()),
    })
}

/// Copies standard input to standard output as it comes, with annotations.
fn annotate_log(lookup: Lookup<'_>, arguments: &SymbolizeArgs) -> anyhow::Result<Code> {
    let format = if arguments.json { Format::Json } else { Format::Text };
    let output = io::BufWriter::new(output::stdout());
    let mut annotator = Annotator::new(lookup, arguments.offset, format, output);
    let mut input = io::stdin().lock();
    let is_file = rustix::fs::fstat(&input)
        .is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::RegularFile);
    let mut chunk = vec![0; CHUNK];
    let mut patience = PATIENCE;
    loop {
        if !annotator.is_holding() {
            patience = PATIENCE;
        } else if !is_file {
            patience = patience.saturating_sub(wait_for_input(&input, patience));
            if patience.is_zero() {
                annotator.flush()?;
            }
        }
        let read = match input.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.context("failed to read standard input")?,
        };
        if read == 0 {
            break;
        }
        annotator.write(&chunk[..read])?;
    }
    let summary = annotator.finish()?;
    if let Some(warning) = summary.other_kernel() {
        output::warning(&warning);
    }
    if !arguments.quiet {
        output::note(&summary.text());
    }
    let found_nothing = summary.total > 0 && summary.found == 0;
    if found_nothing && arguments.image.is_none() && !arguments.quiet {
        output::note("no --image was given: the log was looked up in the bundled guest");
    }
    Ok(if found_nothing { exit_code::NOTHING_FOUND } else { exit_code::CLEAN })
}

/// Waits for standard input, for `patience` at most. Returns the time that it took, which is no less than
/// `patience` if nothing came.
fn wait_for_input(input: &io::StdinLock<'_>, patience: Duration) -> Duration {
    let started = Instant::now();
    let mut waiting = [PollFd::new(input, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).ok();
    match rustix::event::poll(&mut waiting, timeout.as_ref()) {
        Ok(0) => patience,
        _ => started.elapsed(),
    }
}

/// Prints the functions and lines of each argument. Looks them up in the order of their addresses, so that each
/// unit of the debug information is read once and its memory is given back.
fn look_up_arguments(
    mut lookup: Lookup<'_>,
    files: &Files,
    arguments: &SymbolizeArgs,
) -> anyhow::Result<Code> {
    let mut order: Vec<(u64, usize)> = Vec::new();
    for (index, text) in arguments.references.iter().enumerate() {
        let reference = grammar::argument(text).context("the arguments have been checked")?;
        let address = match reference.target {
            CodeLocation::Address(address) => address,
            CodeLocation::Symbol(_) => u64::MAX,
        };
        order.push((address, index));
    }
    order.sort_unstable();
    let mut lines = vec![Vec::new(); order.len()];
    let mut is_found = false;
    for (count, (_, index)) in order.into_iter().enumerate() {
        if count % LOOKUPS_PER_RELEASE == LOOKUPS_PER_RELEASE - 1 {
            files.release_pages();
        }
        let text = &arguments.references[index];
        is_found |= look_up_argument(&mut lookup, arguments, text, &mut lines[index])?;
    }
    let mut stdout = io::BufWriter::new(output::stdout());
    for line in lines {
        stdout.write_all(&line)?;
    }
    stdout.flush()?;
    Ok(if is_found { exit_code::CLEAN } else { exit_code::NOTHING_FOUND })
}

/// Writes the line for an argument. Returns true if something was found.
fn look_up_argument(
    lookup: &mut Lookup<'_>,
    arguments: &SymbolizeArgs,
    text: &str,
    line: &mut Vec<u8>,
) -> anyhow::Result<bool> {
    let mut reference = grammar::argument(text).context("the arguments have been checked")?;
    reference.exact &= !arguments.return_addresses;
    let offset = arguments.offset.unwrap_or(0);
    let answer = match reference.target {
        CodeLocation::Address(address) => {
            lookup.place(address.wrapping_sub(offset), reference.exact)
        }
        CodeLocation::Symbol(_) => (*lookup.answer(&reference, offset)).clone(),
    };
    if arguments.json {
        write_record(line, None, text, &reference, &answer)?;
    } else {
        writeln!(line, "{}  {}", shown(text, &reference), result(&answer))?;
    }
    line.shrink_to_fit();
    Ok(answer.missing.is_none())
}

/// Returns an argument as it is printed: an address with all 16 digits.
fn shown(text: &str, reference: &Reference<'_>) -> String {
    match reference.target {
        CodeLocation::Address(address) => format!("{address:016x}"),
        CodeLocation::Symbol(_) => nmiscope_report::sanitize::line(text),
    }
}

fn result(answer: &Resolution) -> String {
    match &answer.missing {
        Some(missing) => nmiscope_report::sanitize::line(&missing.to_string()),
        None => one_line(answer),
    }
}
