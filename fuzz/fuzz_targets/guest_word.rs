//! The text of an NMI handler, which is the guest's: anything. As many entries as lines, at most.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope::diagnosis::guest_word::{entries, has_trace};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let count = entries(&text).count();
    assert!(count <= text.lines().count());
    assert!(count == 0 || text.contains("Call Trace:"));
    let _ = has_trace(&text);
});
