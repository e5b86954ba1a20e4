//! Tests of the command line: help, completions, manual page, symbols for addresses and logs, and the
//! destinations of text, reports and colors.

use std::process::{Command, Stdio};

use crate::common::llvm::llvm_symbolizer;
use crate::common::*;
use nmiscope_symbolizer::{Image, demangle, short_name};
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use rustix::process::Signal;

#[test]
fn the_help_has_examples_and_the_exit_codes() {
    let finished = nmiscope(["--help"]).run().expect_code(exit::CLEAN);
    assert_eq!(finished.stderr, "");
    for wanted in ["Examples:", "nmiscope run", "nmiscope symbolize", "Exit codes:"] {
        assert!(finished.stdout.contains(wanted), "{wanted}: {}", finished.stdout);
    }
    let (_, codes) = finished.stdout.split_once("Exit codes:").expect("checked above");
    let numbers: Vec<&str> =
        codes.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn every_command_has_help() {
    let all = nmiscope(["--help"]).run().expect_code(exit::CLEAN).stdout;
    for command in
        ["run", "report", "symbolize", "farm", "triage", "list", "guest", "completions", "man"]
    {
        let finished = nmiscope([command, "--help"]).run().expect_code(exit::CLEAN);
        assert!(finished.stdout.contains("Usage: nmiscope"), "{}", finished.stdout);
        // The help begins with the command's line in the list of all commands.
        let about = finished.stdout.lines().next().expect("a line");
        assert!(all.contains(&format!("{command:<11}  {about}")), "{about} in {all}");
    }
}

#[test]
fn a_missing_command_is_a_usage_error() {
    let finished = nmiscope([""; 0]).run().expect_code(exit::USAGE);
    assert!(finished.stderr.contains("Usage: nmiscope"), "{}", finished.all());
    assert_eq!(finished.stdout, "");
}

#[test]
fn the_printed_version_is_the_packages() {
    let finished = nmiscope(["--version"]).run().expect_code(exit::CLEAN);
    assert_eq!(finished.stdout, concat!("nmiscope ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn completions_name_the_options() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = nmiscope(["completions", shell]).run().expect_code(exit::CLEAN);
        for wanted in ["symbolize", "hang-after", "nmiscope"] {
            assert!(finished.stdout.contains(wanted), "{wanted}, {shell}: {}", finished.stdout);
        }
    }
    nmiscope(["completions", "abacus"]).run().expect_code(exit::USAGE);
}

#[test]
fn completions_for_bash_register_themselves() {
    let script = nmiscope(["completions", "bash"]).run().expect_code(exit::CLEAN).stdout;
    assert!(script.contains("complete -F _nmiscope"), "{script}");
}

#[test]
fn the_manual_page_has_a_title_a_name_and_the_commands() {
    let finished = nmiscope(["man"]).run().expect_code(exit::CLEAN);
    assert!(finished.stdout.contains(".TH nmiscope 1"), "{}", finished.stdout);
    assert!(finished.stdout.contains(".SH NAME"), "{}", finished.stdout);
    assert!(finished.stdout.contains("symbolize"), "{}", finished.stdout);
}

/// The address of the guest's `kernel_main`, and its first source line.
fn kernel_main() -> (u64, usize) {
    let source = include_str!("../guest/src/main.rs");
    let line = source.lines().position(|line| line.contains("fn kernel_main(")).expect("a line");
    let image = Image::parse(nmiscope::bundled::image()).expect("an image");
    (image.symbol("kernel_main").expect("a symbol").address.0, line + 1)
}

#[test]
fn symbolize_prints_the_function_and_line_of_an_address() {
    let (address, line) = kernel_main();
    let expected = format!("{address:016x}  kernel_main at guest/src/main.rs:{line}\n");
    for argument in [format!("{address:x}"), format!("{address:#x}")] {
        let finished = nmiscope(["symbolize", &argument]).run().expect_code(exit::CLEAN);
        assert_eq!(finished.stdout, expected);
    }
    let finished = nmiscope(["symbolize", "--image", "guest.elf", &format!("{address:x}")])
        .with_file("guest.elf", nmiscope::bundled::image())
        .run()
        .expect_code(exit::CLEAN);
    assert_eq!(finished.stdout, expected);
}

#[test]
fn a_return_address_is_resolved_to_the_call_before_it() {
    let (address, _) = kernel_main();
    // No call precedes the first instruction of the function.
    let finished = nmiscope(["symbolize", "--return-addresses", &format!("{address:x}")])
        .run()
        .expect_code(exit::GUEST_FAILED);
    assert!(!finished.stdout.contains("kernel_main"), "{}", finished.stdout);
    let inside = format!("{:x}", address + 1);
    let finished =
        nmiscope(["symbolize", "--return-addresses", &inside]).run().expect_code(exit::CLEAN);
    assert!(finished.stdout.contains("kernel_main"), "{}", finished.stdout);
}

#[test]
fn an_address_outside_of_the_image_is_reported_as_such() {
    let finished = nmiscope(["symbolize", "1000", "0"]).run().expect_code(exit::GUEST_FAILED);
    assert_eq!(finished.stdout.matches("outside the image").count(), 2, "{}", finished.stdout);
}

#[test]
fn a_pasted_log_gets_the_functions_and_lines_of_the_report() {
    let report = run_workload("abba-deadlock", 2)
        .args(["--hang-after", "300ms", "--serial", "none"])
        .run()
        .expect_code(exit::HANG)
        .report();
    for cpu in &report.backtraces[0].cpus {
        let word = cpu.guest_trace.as_ref().expect("a word");
        let finished =
            nmiscope(["symbolize"]).run_with_input(word.text.as_bytes()).expect_code(exit::CLEAN);
        let trace = finished.stdout.split_once("Call Trace:").expect("the trace").1;
        for frame in &word.frames {
            let line = trace.lines().find(|line| line.contains(&frame.address)).expect("its line");
            for function in &frame.functions {
                let name = short_name(function.name.as_deref().expect("a name"));
                assert!(line.contains(name), "{name}: {line}");
                if let (Some(file), Some(number)) = (&function.file, function.line) {
                    assert!(line.contains(&format!("{file}:{number}")), "{file}:{number}: {line}");
                }
            }
        }
        // Every line of the log is still there.
        for (input, output) in word.text.lines().zip(finished.stdout.lines()) {
            assert!(output.starts_with(input), "{input:?} became {output:?}");
        }
        assert_eq!(finished.stdout.lines().count(), word.text.lines().count());
    }
}

#[test]
fn a_report_on_standard_output_has_no_text_around_it() {
    require_kvm();
    let arguments = ["run", "--workload", "spin-irqs-off", "--hang-after", "300ms", "--json", "-"];
    let finished = nmiscope(arguments).run().expect_code(exit::HANG);
    let report = parse_report(&finished.stdout);
    assert_eq!(report.backtraces.len(), 1);
    assert!(finished.stderr.contains("spin_with_interrupts_off"), "{}", finished.stderr);
    assert_eq!(finished.files(), [""; 0]);
}

#[test]
fn quiet_prints_nothing_and_writes_the_report() {
    let finished = run_workload("spin-irqs-off", 2)
        .args(["--hang-after", "300ms", "--serial", "none", "--quiet"])
        .run()
        .expect_code(exit::HANG);
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""));
    assert_eq!(finished.report().backtraces.len(), 1);
}

#[test]
fn verbose_traces_to_standard_error() {
    let finished = run_workload("exit", 1).args(["-vv"]).run().expect_code(exit::CLEAN);
    assert!(finished.stderr.contains("nmiscope"), "{}", finished.all());
}

#[test]
fn text_has_colors_only_where_they_are_asked_for() {
    let colored = |invocation: Invocation| {
        let arguments = ["--hang-after", "300ms", "--serial", "none"];
        invocation.args(arguments).run().expect_code(exit::HANG).stdout.contains('\u{1b}')
    };
    let hang = || run_workload("spin-irqs-off", 1);
    assert!(!colored(hang()), "a pipe is no terminal");
    assert!(colored(hang().args(["--color", "always"])));
    assert!(colored(hang().env("CLICOLOR_FORCE", "1")));
    assert!(!colored(hang().env("CLICOLOR_FORCE", "1").args(["--color", "never"])));
    assert!(!colored(hang().env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1")));
}

#[test]
fn errors_have_colors_only_where_they_are_asked_for() {
    let stderr = |arguments: &[&str]| {
        nmiscope(["run", "no-such-file"]).args(arguments).run().expect_code(exit::USAGE).stderr
    };
    assert!(!stderr(&[]).contains('\u{1b}'));
    assert!(stderr(&["--color", "always"]).contains('\u{1b}'));
}

/// Runs a command whose standard output is a closed pipe, as that of `head -1` after the first line.
fn with_a_closed_pipe(mut invocation: Invocation) -> Finished {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    invocation.command.stdout(writer);
    invocation.run()
}

#[test]
fn a_closed_pipe_is_no_error() {
    for command in [&["man"][..], &["completions", "bash"], &["symbolize", "0"], &["--help"]] {
        let finished = with_a_closed_pipe(nmiscope(command)).expect_code(exit::CLEAN);
        assert_eq!(finished.stderr, "", "{}", finished.all());
    }
}

#[test]
fn a_closed_pipe_does_not_hide_a_hang() {
    let hang = run_workload("spin-irqs-off", 2).args(["--hang-after", "300ms"]);
    let finished = with_a_closed_pipe(hang).expect_code(exit::HANG);
    assert_eq!(finished.stderr, "", "{}", finished.all());
    assert_eq!(finished.report().backtraces.len(), 1);

    require_kvm();
    let to_stdout =
        nmiscope(["run", "--quiet", "--hang-after", "300ms", "--serial", "none", "--json", "-"]);
    let finished = with_a_closed_pipe(to_stdout).expect_code(exit::HANG);
    assert_eq!(finished.stderr, "", "{}", finished.all());
}

/// Follows a link, which is kept, and does not replace a terminal or `/dev/null` by a file.
#[test]
fn a_report_is_written_to_the_target_of_its_path() {
    require_kvm();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("target.json");
    let link = folder.path().join("link.json");
    std::fs::write(&target, "old").expect("a file");
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    let run = |path: &std::path::Path| {
        let path = path.to_str().expect("UTF-8");
        nmiscope(["run", "--workload", "exit", "--json", path]).run().expect_code(exit::CLEAN);
    };
    run(&link);
    assert!(link.symlink_metadata().expect("the link").is_symlink());
    parse_report(&std::fs::read_to_string(&target).expect("the report"));

    run("/dev/null".as_ref());
    assert!(!std::fs::metadata("/dev/null").expect("a device").is_file());
}

#[test]
fn printing_into_a_full_device_is_an_error_and_no_panic() {
    for command in ["completions", "man"] {
        let arguments: &[&str] = if command == "man" { &["man"] } else { &["completions", "bash"] };
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = Command::new(binary())
            .args(arguments)
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .expect("the tool");
        assert_eq!(output.status.code(), Some(exit::TOOL_FAILED), "{command}: {output:?}");
    }
}

#[test]
fn a_hang_writes_postmortem_json_and_a_clean_end_writes_nothing() {
    require_kvm();
    let hang = nmiscope(["run", "--hang-after", "300ms"]).run().expect_code(exit::HANG);
    assert_eq!(hang.files(), ["postmortem.json"]);
    assert!(hang.stdout.contains("wrote postmortem.json"), "{}", hang.stdout);
    let report = hang.report_in("postmortem.json");
    assert_eq!(report.image.command_line, "workload=abba-deadlock");
    assert_eq!(report.machine.vcpus, 4);

    let clean = nmiscope(["run", "--workload", "exit"]).run().expect_code(exit::CLEAN);
    assert_eq!(clean.files(), [""; 0]);

    let arguments = ["run", "--hang-after", "300ms", "--no-json"];
    assert_eq!(nmiscope(arguments).run().expect_code(exit::HANG).files(), [""; 0]);
}

#[test]
fn json_writes_the_report_of_a_clean_run_too() {
    let finished = run_workload("exit", 1).run().expect_code(exit::CLEAN);
    assert_eq!(finished.files(), ["report.json"]);
    assert!(finished.report().backtraces.is_empty());
}

#[test]
fn a_report_replaces_an_older_one_as_a_whole() {
    let old = "x".repeat(1 << 20);
    let finished = run_workload("exit", 1)
        .with_file("report.json", old.as_bytes())
        .run()
        .expect_code(exit::CLEAN);
    assert_eq!(finished.files(), ["report.json"]);
    finished.report();
}

#[test]
fn ctrl_c_ends_the_run_cleanly_and_the_report_is_written() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let running = run_workload("idle", 2).start();
        running.wait_for("guest ready", 1);
        running.signal(signal);
        let finished = running.wait().expect_code(exit::CLEAN);
        let expected = nmiscope_report::Outcome::Stopped { by: name.into() };
        assert_eq!(finished.report().outcome, expected);
    }
}

/// Returns `count` addresses, spread evenly over the functions of the bundled image.
fn text_addresses(count: usize) -> Vec<u64> {
    let file = object::File::parse(nmiscope::bundled::image()).expect("an ELF file");
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let all: Vec<u64> =
        functions.flat_map(|symbol| symbol.address()..symbol.address() + symbol.size()).collect();
    all.iter().step_by((all.len() / count).max(1)).copied().collect()
}

/// The last part of a function's name, and its file and line. Old versions of llvm-symbolizer leave
/// parts of a Rust name mangled, so that names are compared after our own demangling.
type Place = (String, String, String);

fn by_llvm(image: &std::path::Path, addresses: &[u64]) -> Vec<Vec<Place>> {
    let text = llvm_symbolizer("--no-demangle", image, addresses);
    let answers: Vec<Vec<Place>> = text.trim_end().split("\n\n").map(parse_llvm).collect();
    assert_eq!(answers.len(), addresses.len());
    answers
}

/// Pairs of lines, `NAME` and `FILE:LINE:COLUMN`.
fn parse_llvm(answer: &str) -> Vec<Place> {
    let lines: Vec<&str> = answer.lines().collect();
    let frames = lines.chunks_exact(2).map(|frame| {
        let (place, _column) = frame[1].rsplit_once(':').expect("a column");
        let (file, line) = place.rsplit_once(':').expect("a line");
        (short_name(&demangle(frame[0])).to_owned(), file.to_owned(), line.to_owned())
    });
    frames.collect()
}

/// `ADDRESS  NAME at FILE:LINE < NAME at FILE:LINE`.
fn parse_ours(line: &str) -> Vec<Place> {
    let (_, frames) = line.split_once("  ").expect("an address and its frames");
    let frames = frames.split(" < ").map(|frame| match frame.split_once(" at ") {
        Some((name, place)) => {
            let (file, line) = place.rsplit_once(':').expect("a line");
            (name.to_owned(), file.to_owned(), line.to_owned())
        }
        None => {
            let (name, file) = frame.split_once(" in ").unwrap_or((frame, "??"));
            (name.to_owned(), file.to_owned(), "0".to_owned())
        }
    });
    frames.collect()
}

#[test]
#[ignore = "needs llvm-symbolizer"]
fn five_hundred_addresses_are_what_llvm_says() {
    let addresses = text_addresses(500);
    let arguments: Vec<String> = addresses.iter().map(|address| format!("{address:x}")).collect();
    let finished = nmiscope(["symbolize", "--image", "guest.elf"])
        .args(&arguments)
        .with_file("guest.elf", nmiscope::bundled::image())
        .run()
        .expect_code(exit::CLEAN);
    let expected = by_llvm(&finished.directory.path().join("guest.elf"), &addresses);
    let mut with_lines = 0;
    for ((address, line), expected) in addresses.iter().zip(finished.stdout.lines()).zip(&expected)
    {
        let found = parse_ours(line);
        // For code without lines, such as assembly, llvm-symbolizer shows the unit's name as the file.
        if expected.iter().all(|(_, _, line)| line == "0") {
            assert_eq!(found[0].0, expected[0].0, "{address:#x}: {line}");
            continue;
        }
        with_lines += 1;
        assert_eq!(found.len(), expected.len(), "{address:#x}: {line}, {expected:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((&found.0, &found.2), (&expected.0, &expected.2), "{address:#x}: {line}");
            // Ours is relative to a source root.
            assert!(
                expected.1 == "??" || expected.1.ends_with(found.1.trim_start_matches("./")),
                "{address:#x}: {} is not the end of {}",
                found.1,
                expected.1
            );
        }
    }
    assert!(addresses.len() >= 500 && with_lines > 400, "{with_lines} of {}", addresses.len());
}
