//! Comparison of real logs of Linux with the output of nm and llvm-symbolizer.

use std::path::PathBuf;

use super::{annotate_in, expect_only_additions, fixtures, records};
use nmiscope::symbolize::Format;
use nmiscope_report::reference::ResolvedReference;
use serde_json::Value;

const KERNELS: [&str; 2] = ["61", "612"];

/// Returns the logs of a kernel, each with its expected records.
fn logs(kernel: &str) -> Vec<(PathBuf, Vec<u8>, String)> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(fixtures(kernel))
        .expect("the fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    assert!(logs.len() >= 5, "{logs:?}");
    let read = |path: PathBuf| {
        let log = std::fs::read(&path).expect("a log");
        let expected = std::fs::read_to_string(path.with_extension("expected")).expect("a file");
        (path, log, expected)
    };
    logs.into_iter().map(read).collect()
}

/// Parses a frame of an expected record.
fn frame(frame: &Value) -> (Option<String>, Option<String>, Option<u64>, bool) {
    let text = |key: &str| frame[key].as_str().map(str::to_owned);
    (text("name"), text("file"), frame["line"].as_u64(), frame["inlined"] == true)
}

fn expect_the_truth(record: &ResolvedReference, expected: &str, context: &str) {
    let expected: Value = serde_json::from_str(expected).expect("JSON");
    let said = (record.line, record.text.as_str(), record.module.as_deref());
    let wanted = (
        expected["line"].as_u64(),
        expected["text"].as_str().expect("text"),
        expected["module"].as_str(),
    );
    assert_eq!(said, wanted, "{context}");
    // Absent for a pointer to a function, which may be either.
    if let Some(exact) = expected["exact"].as_bool() {
        assert_eq!(record.exact, exact, "{context}");
    }
    let found: Vec<Vec<_>> = record
        .candidates
        .iter()
        .map(|place| {
            let frames = place.frames.iter().map(|frame| {
                let line = frame.line.map(u64::from);
                (frame.name.clone(), frame.file.clone(), line, frame.inlined)
            });
            frames.collect()
        })
        .collect();
    let candidates = expected["candidates"].as_array().expect("candidates");
    let wanted: Vec<Vec<_>> = candidates
        .iter()
        .map(|place| place["frames"].as_array().expect("frames").iter().map(frame).collect())
        .collect();
    // A place without a line is no candidate in the record.
    let has_line = wanted.iter().flatten().any(|(_, file, _, _)| file.is_some());
    assert_eq!(found, if has_line { wanted } else { Vec::new() }, "{context}");
}

#[test]
fn symbols_in_real_logs_match_nm_and_llvm_symbolizer() {
    for kernel in KERNELS {
        let image = std::fs::read(fixtures(kernel).join("vmlinux.elf")).expect("an image");
        let modules = [fixtures(kernel).join("modules")];
        for (path, log, expected) in logs(kernel) {
            let (output, _) = annotate_in(&image, &modules, &log, log.len(), Format::Json);
            let found = records(&output);
            assert_eq!(found.len(), expected.lines().count(), "{}", path.display());
            for (record, expected) in found.iter().zip(expected.lines()) {
                // The fixtures have no code, which the lookup of this one place needs: see `lookup`.
                if !expected.contains("\"needs_code\": true") {
                    let context = format!("{}:{:?}", path.display(), record.line);
                    expect_the_truth(record, expected, &context);
                }
            }
        }
    }
}

#[test]
fn a_log_is_copied_byte_for_byte_in_pieces_of_any_size() {
    let image = std::fs::read(fixtures("61").join("vmlinux.elf")).expect("an image");
    let modules = [fixtures("61").join("modules")];
    for (path, log, _) in logs("61") {
        let (whole, _) = annotate_in(&image, &modules, &log, log.len(), Format::Text);
        expect_only_additions(&log, &whole, &path.display().to_string());
        assert!(whole.len() > log.len(), "{}", path.display());
        for chunk in [1, 7, 100] {
            let (pieces, _) = annotate_in(&image, &modules, &log, chunk, Format::Text);
            assert_eq!(pieces, whole, "{} in pieces of {chunk}", path.display());
        }
    }
}
