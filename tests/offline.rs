//! Tests of reports from stored cores, which need no KVM: each is compared with the committed report, and
//! the cores are reported again after they were cut, and with changed bytes.
//!
//! `tests/offline` is made by `tests/offline/make.sh`, except for `version3/`, which has cores of the version
//! before. Only the expected reports are updated by
//! `NMISCOPE_UPDATE=1 cargo test --test end_to_end offline::`.

pub mod linux;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::*;
use nmiscope::images::DebugSearch;
use nmiscope::session::StackChoice;
use nmiscope::session::offline::{Stored, report};
use nmiscope_report::text::Detail;
use nmiscope_report::{NmiAnswer, Outcome, Report, Source};
use nmiscope_symbolizer::Image;
use proptest::prelude::*;
use serde_json::json;

pub const CORES: [&str; 8] = [
    "abba-deadlock",
    "nmi-stuck",
    "corrupt-stack",
    "null-deref",
    "deep-stack",
    "halt-irqs-off",
    "mutex-deadlock",
    "ipi-wait",
];

pub const CORES_OF_VERSION_3: [&str; 2] = ["mutex-deadlock", "nmi-stuck"];

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline")
}

fn image() -> PathBuf {
    directory().join("guest.elf")
}

fn core(name: &str) -> Vec<u8> {
    fs::read(directory().join(format!("cores/{name}.core"))).expect("a core of tests/offline")
}

/// Runs `nmiscope report` on a core, in the directory of the stored cores.
fn nmiscope_report(core: &str, arguments: &[&str]) -> Finished {
    nmiscope_report_in(&directory(), core, arguments)
}

fn nmiscope_report_in(directory: &Path, core: &str, arguments: &[&str]) -> Finished {
    let core = format!("cores/{core}.core");
    let mut invocation = nmiscope(["report", &core, "--image", "guest.elf"]).args(arguments);
    invocation.command.current_dir(directory);
    invocation.run()
}

fn exit_code(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Hang => exit::HANG,
        _ => exit::CRASH,
    }
}

/// Compares text with an expected file of the cores in `directory`, or updates the file.
#[track_caller]
fn expect(directory: &Path, file: &str, found: &str) {
    expect_in(&directory.join("cores"), file, found);
}

/// Compares text with a file of `directory`, or writes the file if `NMISCOPE_UPDATE` is set.
#[track_caller]
pub fn expect_in(directory: &Path, file: &str, found: &str) {
    let path = directory.join(file);
    if std::env::var_os("NMISCOPE_UPDATE").is_some() {
        fs::write(path, found).expect("an expected report can be written");
        return;
    }
    let expected = fs::read_to_string(&path).expect("an expected report of tests/offline");
    let differs = || {
        let mut lines = (1..).zip(expected.lines().zip(found.lines()));
        lines.find(|(_, (expected, found))| expected != found)
    };
    assert!(
        expected == found,
        "{file} is expected otherwise, first at {:?}; if it is right so: \
         NMISCOPE_UPDATE=1 cargo test --test end_to_end -- offline:: dump::",
        differs()
    );
}

/// Compares a report's verdict with the one that the capture had when it was stored. The values are in
/// `verdicts.json`, which no test writes: a change of wording, of names or of the format changes none of
/// them.
#[track_caller]
pub fn expect_verdict(capture: &Path, report: &Report) {
    let stored: serde_json::Value =
        serde_json::from_str(include_str!("offline/verdicts.json")).expect("JSON");
    let name = capture.strip_prefix(directory()).expect("a path in tests/offline");
    let name = name.to_str().expect("UTF-8");
    assert_eq!(verdict(report), stored[name], "{name}");
}

/// Returns the verdict in a report: the outcome, and of each hang all that identifies it.
pub fn verdict(report: &Report) -> serde_json::Value {
    let report = serde_json::to_value(report).expect("JSON");
    let hangs = report["hangs"].as_array().expect("hangs").iter().map(|hang| {
        let [class, signature, blamed, victims, locks] =
            ["class", "signature", "blamed", "victims", "locks"].map(|field| &hang[field]);
        json!({
            "class": class, "signature": signature, "blamed": blamed, "victims": victims,
            "locks": locks, "certainty": hang["certainty"]["kind"],
        })
    });
    let hangs: Vec<serde_json::Value> = hangs.collect();
    json!({"outcome": report["outcome"]["kind"], "hangs": hangs})
}

#[test]
fn a_core_gives_its_committed_report() {
    let version_3 = directory().join("version3");
    let of_version_3 = CORES_OF_VERSION_3.map(|name| (version_3.clone(), name));
    for (directory, name) in CORES.map(|name| (directory(), name)).into_iter().chain(of_version_3) {
        let finished = nmiscope_report_in(&directory, name, &["--quiet", "--json", "-"]);
        let report = parse_report(&finished.stdout);
        assert_eq!(report.source, Source::Core, "{name}");
        expect_verdict(&directory.join("cores").join(name), &report);
        assert_eq!(finished.stderr, "", "{name}");
        expect(&directory, &format!("{name}.json"), &finished.stdout);
        let code = exit_code(&report.outcome);
        finished.expect_code(code);
        let finished = nmiscope_report_in(&directory, name, &[]).expect_code(code);
        expect(&directory, &format!("{name}.txt"), &finished.stdout);
    }
}

/// Returns a core with the build-id of no existing image, and that build-id.
fn with_unknown_build_id(name: &str) -> (Vec<u8>, String) {
    let mut bytes = core(name);
    let image = fs::read(image()).expect("the image of tests/offline");
    let id = Image::parse(&image).expect("an image").build_id().expect("a build-id").to_vec();
    let places: Vec<_> = bytes.windows(id.len()).enumerate().collect();
    let places: Vec<_> = places.iter().filter(|(_, window)| *window == id).map(|p| p.0).collect();
    assert!(!places.is_empty(), "{name} names its image");
    for at in places {
        bytes[at..at + id.len()].fill(0xab);
    }
    (bytes, "ab".repeat(id.len()))
}

#[test]
fn a_core_without_its_image_gives_addresses_and_a_warning() {
    for name in CORES {
        let with = parse_report(&nmiscope_report(name, &["--quiet", "--json", "-"]).stdout);
        let (bytes, build_id) = with_unknown_build_id(name);
        let finished = nmiscope(["report", "some.core"])
            .with_report()
            .with_file("some.core", &bytes)
            .run()
            .expect_code(exit_code(&with.outcome));
        assert!(finished.stderr.contains(&build_id), "{}", finished.all());
        assert!(finished.stderr.contains("--image"), "{}", finished.all());
        let without = finished.report();
        assert!(without.warnings.iter().any(|warning| warning.contains(&build_id)), "{name}");
        assert_eq!(addresses(&without), addresses(&with), "{name}");
        assert!(all_functions(&without).is_empty(), "{name}");
        assert!(!all_functions(&with).is_empty(), "{name}");
    }
}

/// Returns the addresses in the guest's own traces. Without symbols the host's stack has only its first
/// frame.
fn addresses(report: &Report) -> Vec<&str> {
    let cpus = report.backtraces.iter().flat_map(|backtrace| &backtrace.cpus);
    let frames = cpus.flat_map(|cpu| &cpu.guest_trace).flat_map(|trace| &trace.frames);
    frames.map(|frame| frame.address.as_str()).collect()
}

fn all_functions(report: &Report) -> Vec<String> {
    let cpus = report.backtraces.iter().flat_map(|backtrace| &backtrace.cpus);
    cpus.flat_map(|cpu| functions(cpu).into_iter().chain(seen_functions(cpu))).collect()
}

#[test]
fn an_image_with_another_build_id_than_the_core_is_refused() {
    let (bytes, build_id) = with_unknown_build_id("null-deref");
    let image = image();
    let finished = nmiscope(["report", "some.core", "--image", &image.display().to_string()])
        .with_file("some.core", &bytes)
        .run()
        .expect_code(exit::USAGE);
    assert!(finished.stderr.contains(&build_id), "{}", finished.all());
}

/// Makes the report of a core in memory, with the library.
fn report_of(bytes: &[u8]) -> anyhow::Result<Report> {
    let stored = Stored::from_bytes(bytes.to_vec(), "some.core");
    report(
        &stored,
        &[image()],
        &DebugSearch::in_directories(&["/nonexistent".into()]),
        StackChoice::default(),
    )
}

/// Asserts that the report of a damaged core can be printed, and has every vCPU or names the damage.
fn check(name: &str, whole: &Report, result: anyhow::Result<Report>) {
    match result {
        Ok(report) => {
            let text = serde_json::to_string(&report).expect("JSON");
            if report.machine == whole.machine {
                let same = |backtrace: &nmiscope_report::Backtrace| {
                    backtrace.cpus.len() == whole.machine.vcpus as usize
                };
                assert!(report.backtraces.iter().all(same), "{name}: {text}");
            }
            for backtrace in &report.backtraces {
                let _ = nmiscope_report::text::backtrace(backtrace, &report.hangs, Detail::Folded);
            }
            let _ = nmiscope_report::text::outcome(&report.outcome);
        }
        Err(error) => {
            let message = format!("{error:#}");
            assert!(!message.is_empty() && !message.contains('\n'), "{name}: {message:?}");
        }
    }
}

#[test]
fn report_as_json_is_private_under_any_umask() {
    let core = core("null-deref");
    let image = image().display().to_string();
    for (umask, expected) in [("000", 0o600), ("277", 0o400)] {
        let script = format!(
            "umask {umask}; exec \"$0\" report some.core --image '{image}' --json report.json"
        );
        let finished = program(Command::new("sh"), ["-c", &script])
            .arg(binary())
            .with_file("some.core", &core)
            .run()
            .expect_code(exit::CRASH);
        let report = finished.directory.path().join("report.json");
        let mode = report.metadata().expect("a report").permissions().mode();
        assert_eq!(mode & 0o777, expected, "umask {umask}");
    }
}

#[test]
fn a_core_cut_anywhere_is_refused_or_reported_as_truncated() {
    for name in CORES {
        let bytes = core(name);
        let whole = report_of(&bytes).expect("a report");
        let header = (0..0x400).step_by(0x31);
        let rest = (0x400..bytes.len()).step_by((bytes.len() / 50) | 1);
        for length in header.chain(rest) {
            match report_of(&bytes[..length]) {
                Ok(report) => {
                    assert!(
                        report.warnings.len() > whole.warnings.len(),
                        "{name}, {length} of {} bytes: nothing says so",
                        bytes.len()
                    );
                    check(name, &whole, Ok(report));
                }
                refused => check(name, &whole, refused),
            }
        }
    }
}

#[test]
fn a_core_cut_after_its_note_keeps_the_guests_traces() {
    let whole = report_of(&core("abba-deadlock")).expect("a report");
    // Cut directly after the note, whose last bytes are the end of its JSON.
    let bytes = core("abba-deadlock");
    let note = bytes.windows(2).rposition(|window| window == b"}}").expect("JSON");
    let loads = (note + 2).next_multiple_of(4096);
    let cut = report_of(&bytes[..loads]).expect("a report");
    assert_eq!(addresses(&cut), addresses(&whole));
    let answers = |report: &Report| -> Vec<NmiAnswer> {
        report.backtraces[0].cpus.iter().map(|cpu| cpu.nmi.answer.clone()).collect()
    };
    assert_eq!(answers(&cut), answers(&whole));
    assert!(cut.warnings.len() > whole.warnings.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_core_with_changed_bytes_is_reported_or_refused(
        which in 0..CORES.len(),
        // Most of a core is zeros; its headers and notes are at the beginning.
        edits in prop::collection::vec(
            (prop_oneof![3 => 0..0x1000_usize, 1 => any::<usize>()], any::<u8>()),
            1..16,
        ),
    ) {
        let name = CORES[which];
        let mut bytes = core(name);
        let whole = report_of(&bytes).expect("a report");
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        check(name, &whole, report_of(&bytes));
    }
}
