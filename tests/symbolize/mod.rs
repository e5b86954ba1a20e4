//! Tests of `nmiscope symbolize`: its answers, and its copy of any log.

mod answers;
mod copy;
mod debug_files;
mod modules;
mod offsets;
mod truth;

use std::path::{Path, PathBuf};

use nmiscope::images::DebugSearch;
use nmiscope::images::modules::Modules;
use nmiscope::symbolize::{Annotator, Format, LogSummary, Lookup};
use nmiscope_report::reference::ResolvedReference;
use nmiscope_symbolizer::{Image, SourceRoots};

fn fixtures(kernel: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/linux_logs/fixtures").join(kernel)
}

/// Annotates a log that comes in pieces of `chunk` bytes.
fn annotate_in(
    image: &[u8],
    modules: &[PathBuf],
    log: &[u8],
    chunk: usize,
    format: Format,
) -> (Vec<u8>, LogSummary) {
    let image = Image::parse(image).expect("an image");
    let modules = Modules::new(modules.to_vec(), &DebugSearch::default());
    let lookup = Lookup::new(&image, &modules, SourceRoots::default());
    let mut output = Vec::new();
    let mut annotator = Annotator::new(lookup, None, format, &mut output);
    for bytes in log.chunks(chunk) {
        annotator.write(bytes).expect("memory can be written to");
    }
    let summary = annotator.finish().expect("memory can be written to");
    (output, summary)
}

fn annotate(image: &[u8], log: &[u8]) -> (String, LogSummary) {
    let (output, summary) = annotate_in(image, &[], log, log.len().max(1), Format::Text);
    (String::from_utf8(output).expect("UTF-8"), summary)
}

fn records(output: &[u8]) -> Vec<ResolvedReference> {
    let text = std::str::from_utf8(output).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Asserts that the output is the input, with annotations only at the ends of lines.
fn expect_only_additions(input: &[u8], output: &[u8], context: &str) {
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (input, output) = (lines(input), lines(output));
    assert_eq!(input.len(), output.len(), "{context}: lines");
    for (line, annotated) in input.iter().zip(&output) {
        let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
        let (text, ending) = line.split_at(end);
        assert!(annotated.starts_with(text) && annotated.ends_with(ending), "{context}: {line:?}");
        let added = &annotated[text.len()..annotated.len() - ending.len()];
        assert!(added.is_empty() || added.starts_with(b"  "), "{context}: {added:?}");
    }
}

/// Returns the link address and the size of a function of the bundled guest.
fn kernel_main() -> (u64, u64) {
    let image = Image::parse(nmiscope::bundled::image()).expect("an image");
    let symbol = image.symbol("kernel_main").expect("a symbol");
    (symbol.address.0, symbol.size)
}

/// Builds a kernel of two functions, linked at Linux's address.
fn small_kernel(directory: &Path) -> PathBuf {
    let source = "const char linux_banner[] = \"Linux version 6.1.0-1 (me) #1 SMP\\n\";\n\
                  int rcv_lock = 1;\n\
                  __attribute__((noinline)) void work(void) { rcv_lock++; }\n\
                  void start(void) { work(); work(); }\n";
    std::fs::write(directory.join("kernel.c"), source).expect("a file");
    let status = std::process::Command::new("gcc")
        .args(["-O1", "-g", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-mcmodel=kernel"])
        .args([
            "-Wl,-Ttext=0xffffffff81000000,-e,start,--build-id=none",
            "kernel.c",
            "-o",
            "vmlinux",
        ])
        .current_dir(directory)
        .status()
        .expect("gcc");
    assert!(status.success());
    directory.join("vmlinux")
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
