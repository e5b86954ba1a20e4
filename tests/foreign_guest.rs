//! Guests that are not ours.

mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use nmiscope::core_file::Core;
use nmiscope::report::{Finding, FoundBy, Report, Source};
use rustix::process::Signal;

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

/// One sentence, and the report is made all the same, live and from the core.
#[test]
#[ignore = "needs gcc"]
fn arguments_of_a_kernel_without_debug_information_are_not_to_be_had_and_that_is_said_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let [image, with, without] =
        ["kernel.elf", "with.core", "without.core"].map(|name| folder.path().join(name));
    assemble("vmcoreinfo.S", &image);
    // Two backtraces: the second one has nothing new to say.
    let run = |core: &Path, arguments: &[&str]| {
        let running = nmiscope(["run"])
            .arg(&image)
            .args(["--cpus", "1", "--hang-after", "0", "--nmi-after", "300ms", "--core"])
            .arg(core)
            .args(arguments)
            .with_report()
            .start();
        running.wait_for("backtrace asked for by --nmi-after", 1);
        running.signal(Signal::USR1);
        running.wait_for("backtrace asked for by SIGUSR1", 1);
        running.signal(Signal::INT);
        running.wait().expect_code(exit::CLEAN)
    };
    let again = |core: &Path| {
        let finished = nmiscope(["report", "--args"]).arg(core).with_report().run();
        finished.expect_code(exit::CLEAN)
    };
    let said_once = |finished: &Finished| {
        let report = finished.report();
        let warning = "arguments and locals are not to be had: failed to look up types: \
                       the image has no debug information";
        assert_eq!(report.warnings, [warning], "{}", finished.all());
        assert_eq!(finished.stderr, format!("warning: {warning}\n"), "{}", finished.all());
        report
    };
    let live = run(&with, &["--args"]);
    let report = said_once(&live);
    assert_eq!(report.backtraces.len(), 2);
    assert_eq!(Report { source: Source::Live, ..said_once(&again(&with)) }, report);

    // Nobody has asked during the run.
    let live = run(&without, &[]);
    assert_eq!((live.report().warnings.len(), live.stderr.as_str()), (0, ""), "{}", live.all());
    said_once(&again(&without));
}
