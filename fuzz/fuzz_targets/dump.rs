//! Dumps from anybody: a mutated dump is parsed, and reported with and without the image of tests/offline.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nmiscope::elf_core::ElfCore;
use nmiscope::images::DebugSearch;
use nmiscope::session::offline::{Stored, report};
use nmiscope::session::{StackChoice, TaskChoice};
use nmiscope::targets::{Dump, Target};
use nmiscope_machine::{PhysicalAddress, PhysicalMemory};
use nmiscope_report::text;

const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/offline/guest.elf");

fuzz_target!(|data: &[u8]| {
    let Ok(core) = ElfCore::parse(data) else { return };
    // Cores of this tool have a fuzz target of their own.
    if core.is_own() {
        return;
    }
    let Ok(dump) = Dump::from_elf(core) else { return };
    let _ = dump.states(&Vec::from_iter(0..=dump.vcpus()), Duration::ZERO);
    for extent in dump.extents().iter().take(16) {
        let mut bytes = [0; 64];
        for at in [0, extent.length / 2, extent.length.saturating_sub(60)] {
            let _ = dump.read(PhysicalAddress(extent.start.0.wrapping_add(at)), &mut bytes);
        }
    }
    let stored = Stored::from_bytes(data.to_vec(), "dump");
    let all = StackChoice { variables: true, tasks: TaskChoice::All };
    let with = report(&stored, &[IMAGE.into()], &DebugSearch::default(), all);
    for report in with.into_iter().chain(report(
        &stored,
        &[],
        &DebugSearch::default(),
        StackChoice::default(),
    )) {
        assert!(!text::report(&report, text::Detail::Folded).is_empty());
    }
});
