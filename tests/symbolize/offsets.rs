//! Tests of kernels that KASLR has moved.

use super::{annotate, annotate_in, expect_only_additions, kernel_main, records};
use crate::common::{exit, nmiscope};
use nmiscope::symbolize::Format;

#[test]
fn an_offset_applies_to_addresses_before_and_after_it() {
    let (address, _) = kernel_main();
    let moved = address + 0x1a00_0010;
    let log = format!(
        "Linux version 1 (x)\n [<{moved:016x}>]\nbetween\nKernel Offset: 0x1a000000 from 0x1\n [<{moved:016x}>]\n"
    );
    let (output, summary) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 2, "{output}");
    expect_only_additions(log.as_bytes(), output.as_bytes(), "the log");
    assert_eq!((summary.found, summary.total), (2, 2));
    let (output, _) = annotate_in(nmiscope::bundled::image(), &[], log.as_bytes(), 5, Format::Json);
    let lines: Vec<_> = records(&output).iter().map(|record| record.line).collect();
    assert_eq!(lines, [Some(2), Some(5)]);
}

#[test]
fn each_boot_has_its_own_offset() {
    let (address, _) = kernel_main();
    let mut log = String::new();
    for offset in [0x1a00_0000, 0x0c20_0000] {
        let moved = address + offset + 0x10;
        log += &format!(
            "Linux version 1 (x)\n [<{moved:016x}>]\nKernel Offset: {offset:#x} from 0x1\n"
        );
    }
    // A boot without an offset in the log.
    log += &format!("Linux version 1 (x)\n [<{:016x}>]\n", address + 0x1a00_0010);
    let (output, summary) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 2, "{output}");
    assert_eq!((summary.found, summary.total), (2, 3));
    assert!(summary.text().contains("--offset"), "{}", summary.text());
}

#[test]
fn the_offset_is_derived_from_an_address_beside_its_symbol() {
    let (address, size) = kernel_main();
    let moved = address + 0x1a00_0010;
    let log = format!(" [<{moved:016x}>] kernel_main+0x10/{size:#x}\n [<{moved:016x}>]\n");
    let (output, _) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 2, "{output}");
    // A hashed pointer gives no offset, and the symbol beside it is used.
    let log = format!(" [<00000000e4d3f1b2>] kernel_main+0x10/{size:#x}\n [<{moved:016x}>]\n");
    let (output, _) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 1, "{output}");
}

#[test]
fn a_given_offset_takes_precedence_over_the_log() {
    let (address, _) = kernel_main();
    let log = format!("RIP: 0010:{:#x}\nKernel Offset: 0x200000 from 0x1\n", address + 0x1a00_0000);
    let finished = nmiscope(["symbolize", "--offset", "0x1a000000"])
        .run_with_input(log.as_bytes())
        .expect_code(exit::CLEAN);
    assert!(finished.stdout.contains("kernel_main at"), "{}", finished.all());
    let argument = format!("{:x}", address + 0x1a00_0000);
    let finished =
        nmiscope(["symbolize", "--offset", "1a000000", &argument]).run().expect_code(exit::CLEAN);
    assert!(finished.stdout.contains("kernel_main at"), "{}", finished.all());
}

#[test]
fn offsets_of_two_boots_without_a_banner_are_reported() {
    let log = "Kernel Offset: 0x1f000000 from 0x1\n [<ffffffff9f200000>]\nKernel Offset: 0x2f000000 from 0x1\n";
    let finished = nmiscope(["symbolize"]).run_with_input(log.as_bytes());
    assert!(finished.stderr.contains("several `Kernel Offset:`"), "{}", finished.stderr);
}
