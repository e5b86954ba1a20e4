//! Logs from anybody: no log causes a panic; the output without its annotations is the log; and the output
//! does not depend on the pieces in which the log arrives.

#![no_main]

#[path = "../../symbolizer/tests/common/elf.rs"]
mod elf;

use std::sync::LazyLock;

use elf::{Compression, SYMBOLS, debug_sections};
use libfuzzer_sys::fuzz_target;
use nmiscope::images::DebugSearch;
use nmiscope::images::modules::Modules;
use nmiscope::symbolize::{Annotator, Format, Lookup};
use nmiscope_symbolizer::{Image, SourceRoots};

static IMAGE: LazyLock<Vec<u8>> =
    LazyLock::new(|| elf::elf(&debug_sections(5), &SYMBOLS, Compression::None));

fn annotate(log: &[u8], chunk: usize, format: Format) -> Vec<u8> {
    let image = Image::parse(&IMAGE).expect("an image");
    let modules = Modules::new(Vec::new(), &DebugSearch::default());
    let lookup = Lookup::new(&image, &modules, SourceRoots::default());
    let mut output = Vec::new();
    let mut annotator = Annotator::new(lookup, None, format, &mut output);
    for bytes in log.chunks(chunk) {
        annotator.write(bytes).expect("memory can be written to");
    }
    annotator.finish().expect("memory can be written to");
    output
}

/// Checks that the output is the log with annotations, each behind the text of a line and before its end.
fn assert_only_additions(log: &[u8], output: &[u8]) {
    let mut annotated = output.split(|&byte| byte == b'\n');
    for line in log.split(|&byte| byte == b'\n') {
        let annotated = annotated.next().expect("as many lines");
        let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
        assert!(annotated.starts_with(&line[..end]));
        assert!(annotated.ends_with(&line[end..]));
        let added = &annotated[end..annotated.len() - (line.len() - end)];
        assert!(added.is_empty() || added.starts_with(b"  "));
    }
    assert!(annotated.next().is_none());
}

fuzz_target!(|log: &[u8]| {
    let output = annotate(log, log.len().max(1), Format::Text);
    assert_only_additions(log, &output);
    assert_eq!(annotate(log, 3, Format::Text), output);
    annotate(log, log.len().max(1), Format::Json);
});
