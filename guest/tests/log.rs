//! The log ring against a plain list of lines.
#![cfg(not(loom))]

use std::fmt;

use nmiscope_guest::printk::log::{CUT_MARK, LINE_MAX, Log, LogRecord, RECORD_CUT, RecordHeader};
use proptest::prelude::*;

const SIZE: usize = 1024;

/// Length of a record's header in bytes, by its documentation.
const HEADER: usize = 24;

fn texts<const N: usize>(log: &Log<N>) -> Vec<String> {
    log.records().map(|record| String::from_utf8_lossy(record.text()).into_owned()).collect()
}

/// Splits a message into lines, by the rule that a line feed ends a line.
fn lines_of(message: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = message.split('\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines
}

/// Returns true if the record has this line, or its beginning and the flag of a cut line.
fn is_line(record: &LogRecord, line: &str) -> bool {
    if line.len() <= LINE_MAX {
        return record.text() == line.as_bytes() && record.header.flags == 0;
    }
    let Some(kept) = record.text().strip_suffix(CUT_MARK.as_bytes()) else {
        return false;
    };
    let Ok(kept) = std::str::from_utf8(kept) else {
        return false;
    };
    let longest = LINE_MAX - CUT_MARK.len();
    record.header.flags == RECORD_CUT
        && line.starts_with(kept)
        && (longest - 3..=longest).contains(&kept.len())
}

proptest! {
    #[test]
    fn the_ring_holds_the_newest_lines_that_fit(
        messages in prop::collection::vec("([a-zä€]{0,60}\n?){0,3}|[a-zä€]{200,300}", 0..60),
    ) {
        let mut log = Log::<SIZE>::new();
        let mut expected: Vec<(u64, &str)> = Vec::new();
        for (ts_ns, message) in (0..).zip(&messages) {
            log.print(ts_ns, 3, 6, format_args!("{message}"));
            expected.extend(lines_of(message).into_iter().map(|line| (ts_ns, line)));

            let records: Vec<LogRecord> = log.records().collect();
            let first = expected.len() - records.len();
            prop_assert_eq!(log.overwritten(), first as u64);
            for (seq, (record, &(ts_ns, line))) in (first as u64..).zip(records.iter().zip(&expected[first..])) {
                prop_assert!(is_line(record, line), "{:?} is not {:?}", record, line);
                let RecordHeader { flags, text_len, .. } = record.header;
                prop_assert_eq!(
                    record.header,
                    RecordHeader { seq, ts_ns, cpu: 3, text_len, level: 6, flags }
                );
            }
            // The records fit, and would not with the one before them.
            let used: usize = records.iter().map(|record| HEADER + record.text().len()).sum();
            prop_assert!(used <= SIZE);
            if first > 0 && expected[first - 1].1.len() <= LINE_MAX {
                prop_assert!(used + HEADER + expected[first - 1].1.len() > SIZE);
            }
        }
        let cut = expected.iter().filter(|(_, line)| line.len() > LINE_MAX).count();
        prop_assert_eq!(log.cut(), cut as u64);
    }
}

#[test]
fn each_line_of_a_message_is_a_record() {
    let mut log = Log::<SIZE>::new();
    assert_eq!(log.print(0, 0, 6, format_args!("one\n\ntwo {}\nthree", 2)), 13);
    log.print(1, 0, 6, format_args!("{}{}", "fo", "ur\n"));
    log.print(2, 0, 6, format_args!(""));
    assert_eq!(texts(&log), ["one", "", "two 2", "three", "four"]);
}

#[test]
fn control_characters_are_stored_as_they_are() {
    let mut log = Log::<SIZE>::new();
    log.print(0, 0, 6, format_args!("a\tb\x1b[31m\r\0"));
    assert_eq!(texts(&log), ["a\tb\x1b[31m\r\0"]);
}

#[test]
fn a_line_whose_argument_fails_is_marked_and_counted() {
    struct Fails;
    impl fmt::Display for Fails {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half")?;
            Err(fmt::Error)
        }
    }
    let mut log = Log::<SIZE>::new();
    log.print(0, 0, 6, format_args!("value: {Fails} and more\n"));
    assert_eq!(texts(&log), ["value: half[...]"]);
    assert_eq!(log.cut(), 1);
}
