//! The text of an NMI handler, which a guest can fill with anything. A trace has at most as many entries as
//! the text has lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope::kernel::bundled_vocabulary;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let trace = bundled_vocabulary().call_trace(&text);
    assert!(trace.is_none() || text.contains("Call Trace:"));
    assert!(trace.unwrap_or_default().len() <= text.lines().count());
});
