//! `nmiscope report` on files that are not a core, on truncated cores, on cores whose image is missing or
//! another one, and on reports of other versions; and `run --core` where no core can be written. Most tests
//! need `/dev/kvm` once, for a core.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::common::*;
use nmiscope::images::hex;
use nmiscope_report::units::rfc3339;
use nmiscope_report::{Report, SCHEMA_VERSION, Source};
use nmiscope_symbolizer::Image;

const CORE: &str = "hang.core";
const IMAGE: &str = "guest.elf";

/// A guest that is the bundled one but for its build-id, and that build-id.
fn another_image() -> (Vec<u8>, String) {
    let mut image = nmiscope::bundled::image().to_vec();
    let id = Image::parse(&image).expect("an image").build_id().expect("a build-id").to_vec();
    let places: Vec<usize> =
        (0..image.len() - id.len()).filter(|&at| image[at..].starts_with(&id)).collect();
    let [place] = places[..] else { panic!("the build-id is at {places:?}") };
    image[place] ^= 0xff;
    let id = hex(&image[place..place + id.len()]);
    (image, id)
}

/// A core of [`another_image`], with the image beside it.
fn hang_of_another_image() -> (Finished, String) {
    require_kvm();
    let (image, id) = another_image();
    let finished = nmiscope(["run", IMAGE, "--workload", "spin-irqs-off", "--cpus", "2"])
        .args(["--hang-after", "300ms", "--core", CORE])
        .with_report()
        .with_file(IMAGE, &image)
        .run()
        .expect_code(exit::HANG);
    (finished, id)
}

fn path(finished: &Finished, file: &str) -> PathBuf {
    finished.directory.path().join(file)
}

#[test]
fn a_missing_core_is_named() {
    refused(nmiscope(["report", "no-such-file"]), "no-such-file");
}

#[test]
fn a_directory_without_reports_is_refused() {
    refused(nmiscope(["report", "."]), "has no report");
}

#[test]
fn a_file_that_is_not_a_core_is_refused_by_its_format() {
    for (bytes, wanted) in [
        (&b""[..], "an empty file"),
        (b"hello", "not an ELF file"),
        (nmiscope::bundled::image(), "an ELF executable"),
    ] {
        refused(nmiscope(["report", CORE]).with_file(CORE, bytes), wanted);
    }
}

#[test]
fn a_core_that_cannot_be_written_is_noticed_before_the_guest_starts() {
    require_kvm();
    for place in [".", "no-such-folder/hang.core"] {
        refused(nmiscope(["run", "--core", place]), place);
    }
}

#[test]
fn core_cut_in_its_notes_is_refused_a_later_cut_warns() {
    let (live, _) = hang_of_another_image();
    let core = fs::read(path(&live, CORE)).expect("a core");
    refused(nmiscope(["report", CORE]).with_file(CORE, &core[..100]), "truncated");
    let report = nmiscope(["report", CORE, "--image"])
        .arg(path(&live, IMAGE))
        .with_report()
        .with_file(CORE, &core[..core.len() - 4096])
        .run()
        .expect_code(exit::HANG);
    let [warning] = &report.report().warnings[..] else { panic!("{}", report.all()) };
    assert!(warning.contains("truncated"), "{warning}");
    assert!(report.stderr.contains(warning), "{}", report.all());
}

#[test]
fn another_image_is_refused_and_the_right_one_named() {
    let (live, id) = hang_of_another_image();
    let wrong = nmiscope(["report"])
        .arg(path(&live, CORE))
        .args(["--image", "bundled.elf"])
        .with_file("bundled.elf", nmiscope::bundled::image());
    refused(wrong, &id);
}

/// Debug directories have two names for one build-id.
#[test]
fn the_image_is_found_in_a_debug_directory_by_its_build_id() {
    let (live, id) = hang_of_another_image();
    let (first, rest) = id.split_at(2);
    let folder = path(&live, "debug/.build-id").join(first);
    fs::create_dir_all(&folder).expect("a folder");
    let mut image = path(&live, IMAGE);
    for name in [rest.to_owned(), format!("{rest}.debug")] {
        let there = folder.join(name);
        fs::rename(&image, &there).expect("the image");
        let again = nmiscope(["report"])
            .arg(path(&live, CORE))
            .arg("--debug-dir")
            .arg(path(&live, "debug"))
            .with_report()
            .run()
            .expect_code(exit::HANG);
        assert_eq!(again.stderr, "", "{}", again.all());
        assert_eq!(Report { source: Source::Live, ..again.report() }, live.report());
        image = there;
    }
}

/// The core has the addresses and the guest's trace; their names were in the image.
#[test]
fn a_core_without_its_image_shows_addresses_and_names_the_missing_image() {
    let (live, id) = hang_of_another_image();
    fs::remove_file(path(&live, IMAGE)).expect("the image");
    // The text of an idle vCPU has its stack only with --verbose.
    let finished = nmiscope(["report", "--verbose"]).arg(path(&live, CORE)).with_report();
    let finished = finished.run().expect_code(exit::HANG);
    assert!(finished.stderr.contains(&id), "{}", finished.all());
    let (before, after) = (live.report(), finished.report());
    assert!(after.warnings.iter().any(|warning| warning.contains(&id)), "{}", finished.all());
    for (before, after) in before.backtraces[0].cpus.iter().zip(&after.backtraces[0].cpus) {
        assert_eq!(before.registers, after.registers);
        let (before, after) = (before.host_stack.as_ref(), after.host_stack.as_ref());
        let (before, after) = (before.expect("a stack"), after.expect("a stack"));
        assert_eq!(before.frames[0].address, after.frames[0].address);
        assert!(!after.complete, "{after:?}");
        assert!(finished.stdout.contains(&after.frames[0].address), "{}", finished.all());
    }
}

#[test]
fn a_report_of_another_version_is_refused_with_both_versions_named() {
    let future = br#"{"schema_version": 9000, "shape": "of another time"}"#;
    let finished = nmiscope(["report", "future.json"]).with_file("future.json", future);
    let finished = finished.run().expect_code(exit::USAGE);
    let former = SCHEMA_VERSION - 1;
    let wanted =
        format!("version 9000, and this nmiscope reads versions {former} and {SCHEMA_VERSION}");
    assert!(finished.stderr.contains(&wanted), "{}", finished.all());
}

#[test]
fn a_report_of_the_former_version_is_read() {
    let former = include_bytes!("../report/tests/former/abba-deadlock.json");
    let finished = nmiscope(["report", "former.json"])
        .with_report()
        .with_file("former.json", former)
        .run()
        .expect_code(exit::HANG);
    let report = finished.report();
    assert_eq!(report.schema_version, SCHEMA_VERSION);
    let cpus = &report.backtraces[0].cpus;
    assert!(cpus.iter().all(|cpu| cpu.guest_trace.is_some() && cpu.host_stack.is_some()));
    assert_eq!((report.captured_at, report.host.as_str()), (None, "unknown"));
    assert!(finished.stdout.contains("hang: deadlock, cpu0 and cpu1"), "{}", finished.all());
}

#[test]
fn a_core_keeps_the_wall_clock_and_the_host_of_its_run() {
    require_kvm();
    let before = SystemTime::now();
    let live = nmiscope(["run", "--workload", "spin-irqs-off", "--cpus", "2"])
        .args(["--hang-after", "300ms", "--core", CORE])
        .with_report()
        .run()
        .expect_code(exit::HANG);
    let report = live.report();
    let captured_at = report.captured_at.clone().expect("a time");
    // The form sorts as its times do.
    assert!(rfc3339(before) <= captured_at && captured_at <= rfc3339(SystemTime::now()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(report.host, host);
    let core = path(&live, CORE).display().to_string();
    let again = nmiscope(["report", &core]).with_report().run().expect_code(exit::HANG).report();
    assert_eq!((again.captured_at, again.host), (Some(captured_at), host));
    assert_eq!(again.summary, report.summary);
    assert!(report.summary.starts_with("hang: hard-lockup:"), "{}", report.summary);
}

/// The panic is printed on the console and into memory: two accounts of the same lines.
#[test]
fn the_log_in_memory_is_what_the_guest_has_printed() {
    require_kvm();
    let finished = nmiscope(["run", "--workload", "null-deref", "--cpus", "2"])
        .args(["--serial", "console.txt", "--core", CORE])
        .with_report()
        .run()
        .expect_code(exit::CRASH);
    let console = fs::read_to_string(path(&finished, "console.txt")).expect("the console");
    // `[    0.103621] cpu1:  [<ffffffff80200534>]`
    let printed: Vec<&str> = console
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("] cpu")?.1.split_once(": "))
        .map(|(_, text)| text)
        .collect();
    assert!(printed.iter().any(|line| line.starts_with("Kernel panic")), "{console}");
    let log = finished.report().backtraces.remove(0).log.expect("a log");
    // What is of no importance is in memory alone.
    let logged: Vec<&str> =
        log.lines.iter().filter(|line| line.level < 6).map(|line| line.text.as_str()).collect();
    assert_eq!(logged, printed);
    let core = path(&finished, CORE).display().to_string();
    let again = nmiscope(["report", &core]).run().expect_code(exit::CRASH);
    assert!(again.stdout.contains(printed.last().expect("a line")), "{}", again.all());
}
