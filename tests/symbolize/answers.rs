//! Tests of results for a whole log, for arguments, and for files that are no image.

use super::{fixtures, kernel_main, records, small_kernel};
use crate::common::{exit, nmiscope};
use nmiscope_report::reference::schema;
use serde_json::Value;

#[test]
fn a_stripped_image_is_reported_to_have_no_symbol_table() {
    // The bundled guest, without the section headers by which symbols are found.
    let mut image = nmiscope::bundled::image().to_vec();
    image[40..48].fill(0);
    image[60..64].fill(0);
    let finished = nmiscope(["symbolize", "--image", "vmlinux"])
        .with_file("vmlinux", &image)
        .run_with_input(b" kernel_main+0x1/0x2\n")
        .expect_code(exit::GUEST_FAILED);
    assert!(finished.stderr.contains("no symbol table"), "{}", finished.stderr);
}

#[test]
fn the_summary_counts_addresses_that_were_not_found_by_reason() {
    let (address, size) = kernel_main();
    let log = format!(
        " kernel_main+0x10/{size:#x}\n nft_do_chain+0x1/0x20 [nf_tables]\n nft_x+0x1/0x20 [nf_tables]\n \
         nobody+0x1/0x20\n kernel_main+0x10/{:#x}\n [<{address:016x}>] kernel_main+0x10/0x99999\n",
        size + 0x100
    );
    let finished = nmiscope(["symbolize"]).run_with_input(log.as_bytes()).expect_code(exit::CLEAN);
    for part in [
        "1 of 6 addresses",
        "2 doubtful",
        "2 in module nf_tables, which was not found: give --modules",
        "1 of functions that the image does not have",
    ] {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
    assert!(finished.stdout.contains("bytes in the log"), "{}", finished.stdout);
    let quiet = nmiscope(["symbolize", "-q"]).run_with_input(log.as_bytes());
    assert_eq!(quiet.stderr, "");
    let nothing = nmiscope(["symbolize"]).run_with_input(b"hello\n").expect_code(exit::CLEAN);
    assert!(nothing.stderr.contains("no addresses"), "{}", nothing.stderr);
}

#[test]
fn an_image_that_matches_nothing_gives_exit_code_1_and_a_reason() {
    for (log, reason) in [
        (" vfs_write+0x10/0x20\n", "another kernel"),
        (" [<ffffffff9a205c14>]\n", "KASLR"),
        (" nft_do_chain+0x1/0x20 [nf_tables]\n", "--modules"),
    ] {
        let finished =
            nmiscope(["symbolize"]).run_with_input(log.as_bytes()).expect_code(exit::GUEST_FAILED);
        assert!(finished.stderr.contains(reason), "{reason}: {}", finished.stderr);
        assert_eq!(finished.stdout, log);
    }
}

#[test]
fn an_argument_can_be_a_symbol_of_a_trace() {
    let (address, size) = kernel_main();
    let place = format!("kernel_main+0x10/{size:#x}");
    let by_name = nmiscope(["symbolize", &place]).run().expect_code(exit::CLEAN).stdout;
    let by_address = nmiscope(["symbolize", &format!("{:x}", address + 0x10)])
        .run()
        .expect_code(exit::CLEAN)
        .stdout;
    let answer = |text: &str| text.split_once("  ").expect("an answer").1.to_owned();
    assert!(by_name.starts_with(&format!("{place}  ")), "{by_name}");
    // As in a trace it is a return address, unless the text marks it as exact.
    let call =
        nmiscope(["symbolize", "--return-addresses", &format!("{:x}", address + 0x10)]).run();
    assert_eq!(answer(&by_name), answer(&call.stdout));
    let exact = nmiscope(["symbolize", &format!("RIP: 0010:{place}")]).run();
    assert_eq!(answer(&exact.stdout), answer(&by_address));
    let call = nmiscope(["symbolize", "--return-addresses", "kernel_main+0x0"]).run();
    assert!(!call.stdout.contains("kernel_main at"), "{}", call.stdout);
    let finished = nmiscope(["symbolize", "nobody+0x1/0x2"]).run().expect_code(exit::GUEST_FAILED);
    assert_eq!(finished.stdout, "nobody+0x1/0x2  no symbol nobody\n");
}

#[test]
fn json_records_match_the_schema() {
    let schema: Value = serde_json::from_str(&schema()).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let (_, size) = kernel_main();
    let log = format!(
        "\n kernel_main+0x10/{size:#x}\n f+0x1/0x2 [mod]\n [<ffffffff9a205c14>] \u{202e}x\n"
    );
    let of_log = nmiscope(["symbolize", "--json"]).run_with_input(log.as_bytes());
    let of_argument = nmiscope(["symbolize", "--json", "kernel_main+0x10", "nobody+0x1"]).run();
    let lines: Vec<&str> = of_log.stdout.lines().chain(of_argument.stdout.lines()).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    for line in &lines {
        assert!(validator.is_valid(&serde_json::from_str(line).expect("JSON")), "{line}");
    }
    let records = records(of_log.stdout.as_bytes());
    assert_eq!(
        records.iter().map(|record| record.line).collect::<Vec<_>>(),
        [Some(2), Some(3), Some(4)]
    );
    assert_eq!(records[1].module.as_deref(), Some("mod"));
    assert!(records[1].missing.as_ref().is_some_and(|reason| reason.contains("not found")));
}

#[test]
fn a_file_mistaken_for_a_vmlinux_is_refused_with_advice() {
    let mut boot_image = vec![0; 0x400];
    boot_image[0x202..0x206].copy_from_slice(b"HdrS");
    for (file, wanted) in [
        (boot_image.as_slice(), "bzImage"),
        (&std::fs::read(fixtures("61").join("modules/logmod.ko")).expect("a module"), "--modules"),
        (b"ffffffff81000000 T _text\n", "System.map"),
        (b"\x1f\x8b\x08\0", "gzip -dc"),
        (b"\x28\xb5\x2f\xfd\0", "zstd -dc"),
    ] {
        let finished = nmiscope(["symbolize", "--image", "vmlinuz"])
            .with_file("vmlinuz", file)
            .run()
            .expect_code(exit::USAGE);
        for wanted in [wanted, "vmlinux"] {
            assert!(finished.stderr.contains(wanted), "{wanted}: {}", finished.stderr);
        }
    }
}

#[test]
#[ignore = "needs gcc"]
fn a_log_of_another_kernel_than_the_image_gives_a_warning() {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = small_kernel(directory.path());
    let run = |log: &str| {
        let invocation = nmiscope(["symbolize"]).arg("--image").arg(&kernel);
        invocation.run_with_input(log.as_bytes()).expect_code(exit::CLEAN)
    };
    let same = "[    0.000000] Linux version 6.1.0-1 (me) #1 SMP\r\n";
    assert!(!run(same).stderr.contains("warning"), "{}", run(same).stderr);
    // A console may cut a line.
    assert!(!run("Linux version 6.1.0-1 (me)\n").stderr.contains("warning"));
    let build = run("Linux version 6.1.0-1 (me) #2 SMP\n").stderr;
    assert!(build.contains("another build of Linux 6.1.0-1"), "{build}");
    let other = run("Linux version 6.12.0 (me) #1 SMP\n").stderr;
    assert!(other.contains("of Linux 6.12.0") && other.contains("of Linux 6.1.0-1"), "{other}");
}

#[test]
#[ignore = "needs gcc"]
fn a_variable_is_not_resolved_as_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = small_kernel(directory.path());
    let log = " #0: (rcv_lock+0x0/0x4){+.+.}, at: work+0x4/0x999\n";
    let invocation = nmiscope(["symbolize", "--json"]).arg("--image").arg(&kernel);
    let finished = invocation.run_with_input(log.as_bytes());
    let records = records(finished.stdout.as_bytes());
    assert_eq!(records[0].missing.as_deref(), Some("a variable"));
    assert!(finished.stderr.contains("0 of 1 address"), "{}", finished.stderr);
}
