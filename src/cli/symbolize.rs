//! `nmiscope symbolize`: addresses from the command line, or a log from standard input.

use std::io::{self, BufRead, Write};

use anyhow::Context;
use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{ProgramCounter, SourceRoots};

use super::arguments::Symbolize;
use super::exit_code::{self, Code};
use super::output;
use crate::diagnosis::Resolver;
use crate::errors::BadRequest;
use crate::images::{Access, Files, source_roots};
use crate::symbolize::{Annotator, one_line};

/// Longer lines are annotated in pieces.
const MAX_LINE: u64 = 64 << 10;

/// Prints frames.
pub fn symbolize(arguments: &Symbolize) -> anyhow::Result<Code> {
    let path = arguments.image.as_deref();
    let mut files = Files::open(path, Access::Map).map_err(BadRequest::from_error)?;
    files.find_debug_file(path, &arguments.debug_dir);
    let image = files
        .parse()
        .with_context(|| match path {
            Some(path) => format!("failed to read {}", path.display()),
            None => "failed to read the bundled guest".into(),
        })
        .map_err(BadRequest::from_error)?;
    if !image.has_debug_info() {
        output::warning(
            "the image has no debug information, and no debug file was found: names only",
        );
    }
    let resolver = Resolver::new(Some(&image), SourceRoots::new(source_roots()));
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    if arguments.addresses.is_empty() {
        annotate(Annotator::new(&image, resolver), &mut stdout)?;
        return Ok(exit_code::CLEAN);
    }
    for &address in &arguments.addresses {
        let address = VirtualAddress(address);
        let counter = if arguments.return_addresses {
            ProgramCounter::Return(address)
        } else {
            ProgramCounter::Interrupted(address)
        };
        writeln!(stdout, "{address}  {}", one_line(&resolver.frame(counter, true)))?;
    }
    stdout.flush()?;
    Ok(exit_code::CLEAN)
}

/// Copies standard input, a line at a time and as soon as it is there.
fn annotate(mut annotator: Annotator<'_>, output: &mut impl Write) -> anyhow::Result<()> {
    let mut input = io::stdin().lock();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = io::Read::take(&mut input, MAX_LINE)
            .read_until(b'\n', &mut bytes)
            .context("failed to read standard input")?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches(['\n', '\r']);
        // Tabs are layout, not mischief.
        let parts: Vec<String> = line.split('\t').map(|part| annotator.annotate(part)).collect();
        writeln!(output, "{}", parts.join("\t"))?;
        output.flush()?;
    }
}
