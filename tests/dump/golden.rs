//! Tests of dumps against their committed reports, which are updated by
//! `NMISCOPE_UPDATE=1 cargo test --test end_to_end dump::`.

use std::fs;

use super::support::*;
use crate::common::*;
use crate::offline::{directory, expect_in, expect_verdict};
use nmiscope_report::{CpuState, Outcome, Report, Source, Trigger};

/// Runs `nmiscope report` on a dump, in the directory of the stored dumps.
fn nmiscope_report(name: &str, arguments: &[&str]) -> Finished {
    let file = format!("{name}.elf");
    let mut invocation = nmiscope(["report", &file, "--image", "guest.elf"]).args(arguments);
    fs::copy(image(), invocation.directory.path().join("guest.elf")).expect("a copy");
    invocation = invocation.with_file(&file, &dump(name));
    invocation.run().expect_code(code_of(name))
}

/// Returns the exit code of a dump of this workload: deadlocks are certain, and a panic is recorded.
fn code_of(name: &str) -> i32 {
    match name {
        "null-deref" => exit::CRASH,
        _ => exit::HANG,
    }
}

#[test]
fn a_dump_gives_its_committed_report() {
    for name in DUMPS {
        let finished = nmiscope_report(name, &["--quiet", "--json", "-"]);
        let report = parse_report(&finished.stdout);
        assert_eq!(finished.stderr, "", "{name}");
        let [backtrace] = &report.backtraces[..] else { panic!("{name}: {report:#?}") };
        assert_eq!(report.source, Source::Dump, "{name}");
        assert!(matches!(report.outcome, Outcome::Observed { .. }), "{name}");
        assert_eq!(backtrace.trigger, Trigger::Dump, "{name}");
        let expected = directory().join("dumps");
        expect_verdict(&expected.join(name), &report);
        expect_in(&expected, &format!("{name}.json"), &finished.stdout);
        let text = nmiscope_report(name, &[]).stdout;
        expect_in(&expected, &format!("{name}.txt"), &text);
    }
}

fn position(report: &Report) -> Vec<(&CpuState, &str)> {
    let cpus = report.backtraces.iter().flat_map(|backtrace| &backtrace.cpus);
    cpus.map(|cpu| (&cpu.state, cpu.registers.as_ref().expect("registers").rip.as_str())).collect()
}

#[test]
fn a_dump_without_its_image_gives_registers_and_a_warning() {
    for name in DUMPS {
        let with = report_of(dump(name), Some(&image())).expect("a report");
        let finished = nmiscope(["report", "some.dump"])
            .with_report()
            .with_file("some.dump", &dump(name))
            .run();
        // This binary's bundled guest may be the dump's image or a newer one.
        let without = finished.report();
        let is_known = without.image.build_id.is_some();
        let finished = finished.expect_code(if is_known { code_of(name) } else { exit::CLEAN });
        assert_eq!(position(&without), position(&with), "{name}");
        if !is_known {
            assert!(finished.stderr.contains("--image"), "{}", finished.all());
            assert!(without.backtraces[0].cpus[0].host_stack.is_some(), "{name}");
        }
    }
}

/// Returns a dump with the build-id of no existing image, and that build-id.
fn with_unknown_build_id(name: &str) -> (Vec<u8>, String) {
    let mut bytes = dump(name);
    let files = fs::read(image()).expect("the image");
    let image = nmiscope_symbolizer::Image::parse(&files).expect("an image");
    let id = image.build_id().expect("a build-id");
    let places: Vec<_> = bytes.windows(id.len()).enumerate().collect();
    let places: Vec<_> = places.iter().filter(|(_, window)| *window == id).map(|p| p.0).collect();
    assert!(!places.is_empty(), "{name} has its image's build-id");
    for at in places {
        bytes[at..at + id.len()].fill(0xab);
    }
    (bytes, "ab".repeat(id.len()))
}

#[test]
fn an_image_with_another_build_id_than_the_dump_is_refused() {
    let (bytes, build_id) = with_unknown_build_id("mutex-deadlock");
    let image = image().display().to_string();
    let finished = nmiscope(["report", "some.dump", "--image", &image])
        .with_file("some.dump", &bytes)
        .run()
        .expect_code(exit::USAGE);
    assert!(finished.stderr.contains(&build_id), "{}", finished.all());
    // Its build-id is in the warning, to find the image by.
    let report = report_of(bytes, None).expect("a report");
    assert!(report.warnings.iter().any(|warning| warning.contains("--image")), "{report:#?}");
}

#[test]
fn an_image_that_is_not_in_the_dumps_memory_is_refused() {
    let mut bytes = dump("mutex-deadlock");
    // The name of the note, which is as it is in memory once.
    let image = fs::read(image()).expect("the image");
    let id = nmiscope_symbolizer::Image::parse(&image).expect("an image").build_id().expect("one");
    let at = bytes.windows(id.len()).position(|window| window == id).expect("the build-id");
    bytes[at - 4..at].copy_from_slice(b"FOO\0");
    let error = report_of(bytes, Some(&self::image())).expect_err("another image");
    assert!(format!("{error:#}").contains("KASLR"), "{error:#}");
}
