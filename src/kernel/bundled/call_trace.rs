//! Call traces in the text of the bundled guest's NMI handler.
//!
//! The text is the guest's, and may be anything: a line that does not look like an entry is skipped, and
//! an address that is none is looked up in vain, later. Bounded by the text's length.

use nmiscope_machine::VirtualAddress;

use crate::kernel::vocabulary::TraceEntry;

const HEADING: &str = "Call Trace:";
const INTERRUPTED: &str = "--- interrupted ---";

/// Returns true if a call trace begins in the text.
pub(super) fn has_trace(text: &str) -> bool {
    text.lines().any(|line| line.trim() == HEADING)
}

/// Returns the entries of the last call trace in the text: an earlier one answered an NMI whose buffer
/// was not read.
pub(super) fn entries(text: &str) -> impl Iterator<Item = TraceEntry> {
    let trace = text.rfind(HEADING).map_or("", |start| &text[start + HEADING.len()..]);
    let mut interrupted = false;
    trace.lines().filter_map(move |line| {
        if line.trim() == INTERRUPTED {
            interrupted = true;
            return None;
        }
        let (address, reliable) = parse_entry(line)?;
        let entry = TraceEntry { address: VirtualAddress(address), interrupted, reliable };
        interrupted = false;
        Some(entry)
    })
}

/// Parses an entry: ` [<ffffffff80001234>]`, followed by ` ?` if it is not reliable.
fn parse_entry(line: &str) -> Option<(u64, bool)> {
    let (digits, rest) = line.trim().strip_prefix("[<")?.split_once(">]")?;
    let is_hex = digits.len() <= 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let address = is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
    match rest.trim() {
        "" => Some((address, true)),
        "?" => Some((address, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(address: u64, interrupted: bool, reliable: bool) -> TraceEntry {
        TraceEntry { address: VirtualAddress(address), interrupted, reliable }
    }

    #[test]
    fn interrupted_and_unreliable_entries_are_marked() {
        let text = "NMI backtrace for cpu 2\nRIP: 0008:[<ffffffff80201234>] RFLAGS: 00000046\n\
                    Call Trace:\n --- interrupted ---\n [<ffffffff80201234>]\n \
                    [<ffffffff80205678>] ?\n [<ffffffff80209abc>]\n --- interrupted ---\n \
                    [<ffffffff80200001>]\n";
        assert_eq!(
            entries(text).collect::<Vec<_>>(),
            [
                entry(0xffff_ffff_8020_1234, true, true),
                entry(0xffff_ffff_8020_5678, false, false),
                entry(0xffff_ffff_8020_9abc, false, true),
                entry(0xffff_ffff_8020_0001, true, true),
            ]
        );
    }

    #[test]
    fn the_last_of_two_answers_counts() {
        let text = "Call Trace:\n [<0000000000000001>]\nCall Trace:\n [<0000000000000002>]\n";
        assert_eq!(entries(text).map(|entry| entry.address.0).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn lines_that_are_no_entries_are_skipped() {
        let text = "Call Trace:\n [<xyz>]\n [<>]\n [<00000000000000001>]\n [<1>] !\nhello\n [<2>\n";
        assert_eq!(entries(text).count(), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in "\\PC*") {
            let _ = entries(&format!("Call Trace:\n{text}")).count();
        }
    }
}
