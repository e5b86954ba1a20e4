//! Tests of images, numbers and paths that cannot be used: the tool explains each in one paragraph on
//! standard error, exits with the documented code, starts no guest, and leaves no file behind.

use std::process::Command;

use crate::common::image::{
    P_FILESZ, P_MEMSZ, P_OFFSET, P_PADDR, Patched, bundled, program_headers,
};
use crate::common::*;
use nmiscope_report::BufferReservation;
use object::LittleEndian as LE;
use object::read::elf::ProgramHeader as _;

/// File name of the tests' images in the program's directory.
const IMAGE: &str = "guest.elf";

/// Asserts that clap refuses the arguments, with `wanted` in its message.
#[track_caller]
fn refused_argument(arguments: &[&str], wanted: &str) {
    let finished = nmiscope(arguments).run().expect_code(exit::USAGE);
    let all = finished.all();
    assert!(finished.stderr.starts_with("error: "), "{all}");
    assert!(finished.stderr.contains(wanted), "{wanted:?} is to be in {all}");
    assert_eq!((finished.stdout.as_str(), finished.files().len()), ("", 0), "{all}");
}

#[track_caller]
fn image_refused(bytes: &[u8], wanted: &str) {
    require_kvm();
    refused(nmiscope(["run", IMAGE]).with_file(IMAGE, bytes), wanted);
}

#[track_caller]
fn run_refused(arguments: &[&str], wanted: &str) {
    require_kvm();
    refused(nmiscope(["run"]).args(arguments), wanted);
}

#[test]
fn a_missing_image_is_named() {
    refused(nmiscope(["run", "no-such-file"]), "no-such-file");
    refused(nmiscope(["symbolize", "--image", "no-such-file", "0"]), "no-such-file");
}

#[test]
fn a_directory_is_no_image() {
    refused(nmiscope(["run", "."]), "directory");
    refused(nmiscope(["symbolize", "--image", ".", "0"]), "directory");
}

#[test]
fn an_empty_image_is_called_empty() {
    image_refused(b"", "empty");
}

#[test]
fn a_file_of_another_format_is_called_not_an_elf_file() {
    image_refused(b"#!/bin/sh\necho hello\n", "not an ELF file");
    image_refused(&[0; 4096], "not an ELF file");
}

#[test]
fn a_truncated_image_is_called_truncated_wherever_it_ends() {
    let image = nmiscope::bundled::image();
    let headers = program_headers(image);
    let last_byte = headers.iter().map(|header| header.p_offset(LE) + header.p_filesz(LE)).max();
    let last_byte = last_byte.expect("program headers") as usize;
    for length in [5, 16, 63, 64, 100, 4096, 0x1000 + 7, last_byte / 2, last_byte - 1] {
        image_refused(&image[..length], "truncated");
    }
}

/// The image has all segments that a guest needs, but no symbols and no debug information.
#[test]
fn an_image_cut_before_its_symbols_runs_and_is_reported_truncated() {
    require_kvm();
    let image = nmiscope::bundled::image();
    let headers = program_headers(image);
    let end = headers.iter().map(|header| header.p_offset(LE) + header.p_filesz(LE)).max();
    let cut = &image[..end.expect("program headers") as usize];
    let finished = nmiscope(["run", IMAGE, "--nmi-after", "500ms", "--stop-after", "1s"])
        .with_report()
        .with_file(IMAGE, cut)
        .run()
        .expect_code(exit::CLEAN);
    let report = finished.report();
    let [backtrace] = &report.backtraces[..] else { panic!("{}", finished.all()) };
    let BufferReservation::Unavailable { reason } = &backtrace.reservation else {
        panic!("{}", finished.all())
    };
    assert!(reason.contains("truncated"), "{reason}");
    // No symbols are needed to read registers. Where no buffer can be read, an NMI is not sent.
    assert!(backtrace.cpus.iter().all(|cpu| !cpu.nmi.sent && cpu.registers.is_some()));
}

#[test]
fn a_32_bit_image_is_called_32_bit() {
    image_refused(&bundled().at_offset(4, &[1]).0, "32-bit");
}

#[test]
fn a_big_endian_image_is_called_big_endian() {
    image_refused(&bundled().at_offset(5, &[2]).0, "big-endian");
}

#[test]
fn an_image_for_another_machine_is_refused_with_its_e_machine() {
    // EM_AARCH64 is 183 (ELF for the Arm 64-bit Architecture).
    image_refused(&bundled().at_offset(18, &183u16.to_le_bytes()).0, "183");
}

#[test]
fn an_image_without_a_pvh_note_is_refused_with_what_to_build() {
    // The PT_NOTE becomes a PT_NULL.
    let index = note_index(nmiscope::bundled::image());
    image_refused(&bundled().program_header(index, 0, 0).0, "PVH");
    // The note stays, with another owner's name.
    let image = nmiscope::bundled::image();
    let header = &program_headers(image)[index];
    let notes = header.p_offset(LE) as usize..(header.p_offset(LE) + header.p_filesz(LE)) as usize;
    let xen = image[notes.clone()].windows(4).position(|name| name == b"Xen\0").expect("a note");
    image_refused(&bundled().at_offset(notes.start + xen, b"Zen\0").0, "PVH");
}

fn note_index(image: &[u8]) -> usize {
    const PT_NOTE: u32 = 4;
    let is_note = |header: &object::elf::ProgramHeader64<LE>| header.p_type(LE).0 == PT_NOTE;
    program_headers(image).iter().position(is_note).expect("a PT_NOTE")
}

#[test]
fn an_image_that_overlaps_itself_is_refused() {
    let first = program_headers(nmiscope::bundled::image())[0].p_paddr(LE);
    image_refused(&bundled().program_header(1, P_PADDR, first).0, "overlap");
}

#[test]
fn a_segment_in_the_device_area_is_refused() {
    image_refused(&bundled().program_header(1, P_PADDR, 0xfee0_0000).0, "device area");
}

#[test]
fn a_segment_over_the_boot_data_is_refused() {
    image_refused(&bundled().program_header(1, P_PADDR, 0xe_0000).0, "boot data");
}

#[test]
fn a_segment_outside_of_memory_is_refused_with_what_it_needs() {
    image_refused(&bundled().program_header(1, P_PADDR, 1 << 40).0, "does not fit");
    run_refused(&["--memory", "4M"], "does not fit");
}

#[test]
fn segments_with_impossible_sizes_or_addresses_are_refused() {
    let wrong: [fn(Patched) -> Patched; 4] = [
        |image| image.program_header(1, P_PADDR, u64::MAX - 4095),
        |image| image.program_header(1, P_MEMSZ, u64::MAX),
        |image| image.program_header(1, P_FILESZ, u64::MAX),
        |image| image.program_header(1, P_OFFSET, u64::MAX),
    ];
    for wrong in wrong {
        image_refused(&wrong(bundled()).0, "segment 1");
    }
}

#[test]
fn an_entry_point_outside_of_the_image_is_refused() {
    let first = program_headers(nmiscope::bundled::image())[0].p_paddr(LE);
    image_refused(&bundled().program_header(0, P_PADDR, first + (8 << 20)).0, "entry point");
}

#[test]
fn zero_vcpus_are_refused() {
    run_refused(&["--cpus", "0"], "0 vCPUs");
}

#[test]
fn too_many_vcpus_are_refused() {
    run_refused(&["--cpus", "100000"], "100000 vCPUs");
    run_refused(&["--cpus", "513"], "513 vCPUs");
}

#[test]
fn a_number_of_vcpus_has_to_be_a_number() {
    refused_argument(&["run", "--cpus", "many"], "--cpus");
    refused_argument(&["run", "--cpus", "-1"], "-1");
    refused_argument(&["run", "--cpus", "4294967296"], "--cpus");
}

#[test]
fn too_little_memory_is_refused() {
    for size in ["0", "1", "4096", "1M"] {
        run_refused(&["--memory", size], "at least");
    }
}

#[test]
fn memory_of_partial_pages_is_refused() {
    run_refused(&["--memory", "67108865"], "page size");
}

#[test]
fn more_memory_than_a_cpu_can_address_is_refused() {
    run_refused(&["--memory", "8000000G"], "physical address");
}

#[test]
fn a_malformed_size_is_refused() {
    for size in ["", "M", "-1", "64X", "99999999999G", "0x1000"] {
        refused_argument(&["run", &format!("--memory={size}")], "--memory");
    }
}

#[test]
fn a_malformed_duration_is_refused() {
    for option in ["hang-after", "ready-within", "nmi-after", "stop-after", "nmi-timeout"] {
        for duration in ["", "soon", "-1s", "1", "99999999999999999999s"] {
            refused_argument(&["run", &format!("--{option}={duration}")], option);
        }
    }
}

#[test]
fn a_malformed_address_is_refused() {
    for address in ["main", "0xfffffffffffffffff"] {
        refused_argument(&["symbolize", address], "ADDR");
    }
}

#[test]
fn a_command_line_that_is_too_long_is_refused() {
    run_refused(&["--append", &"x".repeat(4096)], "command line");
}

#[test]
fn an_unwritable_report_is_refused_before_the_guest_starts() {
    run_refused(&["--json", "no/such/directory/report.json"], "no/such/directory/report.json");
    run_refused(&["--json", "."], "directory");
    run_refused(&["--json", "/"], "directory");
    run_refused(&["--json", ".."], "directory");
    refused_argument(&["run", "--json", ""], "--json");
    // No process can create a file in /proc.
    run_refused(&["--json", "/proc/report.json"], "/proc/report.json");
}

#[test]
fn an_unwritable_default_report_is_refused() {
    let mut invocation = nmiscope(["run"]);
    invocation.command.current_dir("/proc");
    refused(invocation, "--no-json");
}

#[test]
fn an_unwritable_console_file_is_refused_before_the_guest_starts() {
    run_refused(&["--serial", "no/such/directory/console"], "no/such/directory/console");
    run_refused(&["--serial", "."], "console");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    refused_argument(&["run", "--json", "report.json", "--no-json"], "--no-json");
}

#[test]
fn an_unknown_option_or_command_is_refused() {
    refused_argument(&["run", "--make-coffee"], "--make-coffee");
    refused_argument(&["make-coffee"], "make-coffee");
}

/// Runs the program with an unusable /dev/kvm: `prepare` runs before it, in a mount namespace of its own.
fn without_kvm(prepare: &str) -> Finished {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let script = format!("{prepare} \"$0\" run --no-json");
    program(command, ["--mount", "sh", "-ec", &script]).arg_path().run()
}

trait ArgPath {
    fn arg_path(self) -> Self;
}

impl ArgPath for Invocation {
    fn arg_path(mut self) -> Self {
        self.command.arg(binary());
        self
    }
}

#[test]
#[ignore = "needs unshare, and leave to use it"]
fn a_missing_dev_kvm_is_reported_with_the_modules_to_load() {
    let finished = without_kvm("mount -t tmpfs none /dev; exec").expect_code(exit::TOOL_FAILED);
    assert!(finished.stderr.contains("/dev/kvm: it does not exist"), "{}", finished.all());
    assert!(finished.stderr.contains("kvm_intel or kvm_amd"), "{}", finished.all());
}

#[test]
#[ignore = "needs unshare and setpriv, and leave to use them"]
fn a_lack_of_permission_is_reported_with_the_group_to_join() {
    let prepare = "umask 777; : > device; mount --bind device /dev/kvm; \
                   exec setpriv --bounding-set=-all --inh-caps=-all";
    let finished = without_kvm(prepare).expect_code(exit::TOOL_FAILED);
    assert!(finished.stderr.contains("/dev/kvm: no permission"), "{}", finished.all());
    assert!(finished.stderr.contains("kvm group"), "{}", finished.all());
}

#[test]
fn a_suites_mistake_is_shown_below_its_message() {
    let suite = b"[[vm]]\nname = \"a\"\nexpct = \"pass\"\n";
    let finished = nmiscope(["farm", "bad.toml"]).with_file("bad.toml", suite).run();
    let stderr = finished.expect_code(exit::USAGE).stderr;
    let (message, excerpt) = stderr.split_once('\n').expect("lines of the suite");
    assert!(message.starts_with("error: bad.toml:3:1: unknown key `expct`; "), "{stderr}");
    assert_eq!(excerpt, "  3 | expct = \"pass\"\n    | ^^^^^\n");
}

#[test]
fn an_unknown_value_in_a_suite_gets_only_values_as_a_hint() {
    let suite = b"[[vm]]\nname = \"a\"\nexpect = \"exit\"\n";
    let finished = nmiscope(["farm", "bad.toml"]).with_file("bad.toml", suite).run();
    let stderr = finished.expect_code(exit::USAGE).stderr;
    assert!(
        stderr.contains("unknown word `exit`; there are pass, hang, panic, crash\n"),
        "{stderr}"
    );
}
