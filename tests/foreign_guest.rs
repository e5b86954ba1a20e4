//! Guests that are not ours.

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use nmiscope::core_file::Core;
use nmiscope::report::{Finding, FoundBy};

/// Assembles a kernel of `tests/fixtures`.
fn assemble(name: &str, output: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let status = Command::new("cc")
        .args(["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x200000", "-Wl,-Tdata=0x210000"])
        .arg("-Wl,--build-id")
        .arg("-o")
        .args([output, &source])
        .status()
        .expect("start cc");
    assert!(status.success());
}

#[test]
#[ignore = "needs gcc"]
fn a_kernel_that_describes_itself_has_that_in_its_core() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("kernel.elf");
    assemble("vmcoreinfo.S", &image);
    let core = folder.path().join("kernel.core");
    let finished = nmiscope(["run"])
        .args([&image])
        .args(["--cpus", "1", "--nmi-after", "300ms", "--stop-after", "400ms", "--core"])
        .args([&core])
        .with_report()
        .run();
    let report = finished.report();
    let bytes = std::fs::read(&core).unwrap_or_else(|_| panic!("{}", finished.all()));
    let stored = Core::parse(&bytes).expect("a core");
    let wanted = &b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n"[..];
    assert_eq!(stored.vmcoreinfo(), Some(wanted));

    // No call frame information, no frame pointer: one frame, and a reason.
    let cpu = &report.backtraces[0].cpus[0];
    let look = cpu.look.as_ref().expect("a look");
    assert_eq!(look.frames[0].found_by, Some(FoundBy::Registers));
    assert_eq!(frame_functions(&look.frames[0]), ["long_mode"]);
    assert!(look.complete || matches!(cpu.findings[..], [Finding::StackBroken { .. }]), "{cpu:#?}");
}
