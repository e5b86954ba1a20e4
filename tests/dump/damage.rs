//! Tests of dumps that are cut, and of dumps with changed bytes.

use super::support::*;
use nmiscope_report::{Report, text};
use proptest::prelude::*;

/// Asserts that the report of a damaged dump can be printed, and that an error is one line.
fn check(name: &str, result: anyhow::Result<Report>) {
    match result {
        Ok(report) => {
            serde_json::to_string(&report).expect("JSON");
            assert!(!text::report(&report, text::Detail::All).is_empty(), "{name}");
        }
        Err(error) => {
            let message = format!("{error:#}");
            assert!(!message.is_empty() && !message.contains('\n'), "{name}: {message:?}");
        }
    }
}

#[test]
fn a_dump_cut_anywhere_is_refused_or_reported_as_truncated() {
    for name in DUMPS {
        let bytes = dump(name);
        let header = (0..0x900).step_by(0x53);
        let rest = (0x900..bytes.len()).step_by((bytes.len() / 40) | 1);
        for length in header.chain(rest) {
            match report_of(bytes[..length].to_vec(), Some(&image())) {
                Ok(report) => {
                    let cut = |warning: &String| warning.contains("truncated at byte");
                    assert!(report.warnings.iter().any(cut), "{name}, {length} bytes");
                    check(name, Ok(report));
                }
                refused => check(name, refused),
            }
        }
    }
}

#[test]
fn a_dump_cut_after_its_notes_keeps_the_registers() {
    let bytes = dump("abba-deadlock");
    // Cut after the notes and 4 KiB of memory.
    let report = report_of(bytes[..0x2000].to_vec(), Some(&image())).expect("a report");
    assert_eq!(report.backtraces[0].cpus.len(), 3);
    let registers = |cpu: &nmiscope_report::Cpu| cpu.registers.is_some();
    assert!(report.backtraces[0].cpus.iter().all(registers));
    let missing = |what: &str| report.warnings.iter().any(|warning| warning.contains(what));
    assert!(missing("truncated at byte 8192") && missing("tasks, locks and log"), "{report:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_dump_with_changed_bytes_is_reported_or_refused(
        which in 0..DUMPS.len(),
        // Offsets in headers and notes; in page tables and data, which lie at 6 MiB; anywhere.
        edits in prop::collection::vec(
            (
                prop_oneof![
                    3 => 0..0xa00_usize,
                    2 => (6_usize << 20)..(7 << 20),
                    1 => any::<usize>(),
                ],
                any::<u8>(),
            ),
            1..32,
        ),
    ) {
        let name = DUMPS[which];
        let mut bytes = dump(name);
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        check(name, report_of(bytes, Some(&image())));
    }
}
