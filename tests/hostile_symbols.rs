//! Images whose symbols take more work than a run has time: the report is written in time, without them.
//!
//! The kernel is `fixtures/hostile_symbols.S`. Without a bound, its lookups take longer than the deadline that every
//! command of these tests has.

use std::path::Path;
use std::process::Command;

use crate::common::*;
use nmiscope_report::{Outcome, Report};

const WARNING: &str = "functions and lines are incomplete: the image's debug information takes more work or memory \
                       than it is given";
const REASON: &str = "the debug information takes too much work: read a unit: the budget is spent";

/// Assembles the kernel, with this many entries of as many attributes.
fn assemble(size: u32, output: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let status = Command::new("cc")
        .args(["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x200000", "-Wl,-Tdata=0x210000"])
        .arg(format!("-DSIZE={size}"))
        .arg("-o")
        .args([output, &fixtures.join("hostile_symbols.S")])
        .status()
        .expect("start cc");
    assert!(status.success());
}

fn assert_without_lines(report: &Report) {
    assert!(report.warnings.iter().any(|warning| warning == WARNING), "{:?}", report.warnings);
    let stack = report.backtraces[0].cpus[0].host_stack.as_ref().expect("a stack");
    let frame = &stack.frames[0];
    assert_eq!(frame_functions(frame), ["spin"], "from the symbol table");
    assert_eq!(frame.missing.as_deref(), Some(REASON));
}

#[test]
#[ignore = "needs gcc"]
fn run_keeps_its_time_limit_with_a_hostile_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("kernel.elf");
    assemble(200_000, &image);
    let finished = nmiscope(["run"])
        .arg(&image)
        .args(["--cpus", "1", "--memory", "16M", "--hang-after", "0", "--time-limit", "1s"])
        .with_report()
        .run();
    let report = finished.report();
    assert!(matches!(report.outcome, Outcome::TimedOut { .. }), "{}", finished.all());
    assert_without_lines(&report);
}

#[test]
#[ignore = "needs gcc"]
fn farm_keeps_the_verdict_of_a_vm_with_such_an_image() {
    let folder = tempfile::tempdir().expect("a folder");
    assemble(200_000, &folder.path().join("kernel.elf"));
    let suite = folder.path().join("suite.toml");
    let text = r#"
[[vm]]
name = "evil"
image = "kernel.elf"
cpus = 1
memory = "16M"
time-limit = "20s"
hang-after = "silent=500ms"
ready-within = "500ms"
"#;
    std::fs::write(&suite, text).expect("a suite");
    let out = folder.path().join("out");
    let finished = nmiscope(["farm"]).arg(&suite).arg("--out").arg(&out).run();
    let finished = finished.expect_code(exit::HANG);
    let report = std::fs::read_to_string(out.join("vms/evil/1.1/report.json"));
    let report = parse_report(&report.unwrap_or_else(|_| panic!("{}", finished.all())));
    assert_eq!(only_hang(&report).class, nmiscope::hang::Class::Silent);
    assert_without_lines(&report);
}

#[test]
#[ignore = "needs gcc"]
fn symbolize_names_the_reason_in_text_and_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("kernel.elf");
    assemble(30_000, &image);
    let spin = Command::new("nm").arg(&image).output().expect("nm");
    let spin = String::from_utf8(spin.stdout).expect("text");
    let spin = spin.lines().find_map(|line| line.strip_suffix(" T spin")).expect("spin");
    let look_up = |arguments: &[&str]| {
        let finished =
            nmiscope(["symbolize"]).args(arguments).arg("--image").arg(&image).arg(spin).run();
        finished.expect_code(exit::CLEAN).stdout
    };
    assert_eq!(look_up(&[]), format!("{spin}  spin  (incomplete: {REASON})\n"));
    let record: serde_json::Value = serde_json::from_str(&look_up(&["--json"])).expect("JSON");
    assert_eq!(record["incomplete"], REASON);
    assert_eq!(record["candidates"][0]["frames"][0]["name"], "spin");
}
