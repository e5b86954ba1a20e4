//! Cores from anybody: a mutated core is parsed, and reported with and without the image of tests/offline.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nmiscope::elf_core::Core;
use nmiscope::images::DebugSearch;
use nmiscope::session::offline::{Stored, report};
use nmiscope::session::{StackChoice, TaskChoice};
use nmiscope_machine::{PhysicalAddress, PhysicalMemory};
use nmiscope_report::text;

const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/offline/guest.elf");

fuzz_target!(|data: &[u8]| {
    let Ok(core) = Core::parse(data) else { return };
    let _ = (core.cpus().len(), core.vmcoreinfo(), core.views().len());
    for extent in core.extents().iter().take(16) {
        let mut bytes = [0; 64];
        for at in [0, extent.length / 2, extent.length.saturating_sub(60)] {
            let _ = core.read(PhysicalAddress(extent.start.0.wrapping_add(at)), &mut bytes);
        }
    }
    for finding in core.findings() {
        let _ = finding.to_string();
    }
    let stored = Stored::from_bytes(data.to_vec(), "core");
    // Mutations hit the build-id as well; the image is then not found.
    let all = StackChoice { variables: true, tasks: TaskChoice::All };
    let with = report(&stored, &[IMAGE.into()], &DebugSearch::default(), all);
    for report in with.into_iter().chain(report(
        &stored,
        &[],
        &DebugSearch::default(),
        StackChoice::default(),
    )) {
        let _ = text::outcome(&report.outcome);
        for backtrace in &report.backtraces {
            let _ = text::backtrace(backtrace, &report.hangs, text::Detail::Folded);
        }
    }
});
