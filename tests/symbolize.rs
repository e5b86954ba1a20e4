//! `nmiscope symbolize`: real logs of Linux against what nm and llvm-symbolizer say of them, and what
//! it does to a log that it does not understand.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{Invocation, exit, nmiscope};
use nmiscope::images::modules::Modules;
use nmiscope::report::reference::{Record, schema};
use nmiscope::symbolize::{Annotator, Format, Lookup, Summary};
use nmiscope_symbolizer::{Image, SourceRoots};
use serde_json::Value;

const KERNELS: [&str; 2] = ["61", "612"];

fn fixtures(kernel: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/linux_logs/fixtures").join(kernel)
}

/// The logs of a kernel, each with what is expected of it.
fn logs(kernel: &str) -> Vec<(PathBuf, Vec<u8>, String)> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(fixtures(kernel))
        .expect("the fixtures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    assert!(logs.len() >= 5, "{logs:?}");
    let read = |path: PathBuf| {
        let log = std::fs::read(&path).expect("a log");
        let expected = std::fs::read_to_string(path.with_extension("expected")).expect("a file");
        (path, log, expected)
    };
    logs.into_iter().map(read).collect()
}

/// What becomes of a log that comes in pieces of `chunk` bytes.
fn annotate_in(
    image: &[u8],
    modules: &[PathBuf],
    log: &[u8],
    chunk: usize,
    format: Format,
) -> (Vec<u8>, Summary) {
    let image = Image::parse(image).expect("an image");
    let modules = Modules::new(modules.to_vec(), "/nowhere".into());
    let lookup = Lookup::new(&image, &modules, SourceRoots::default());
    let mut output = Vec::new();
    let mut annotator = Annotator::new(lookup, None, format, &mut output);
    for bytes in log.chunks(chunk) {
        annotator.write(bytes).expect("memory can be written to");
    }
    let summary = annotator.finish().expect("memory can be written to");
    (output, summary)
}

fn annotate(image: &[u8], log: &[u8]) -> (String, Summary) {
    let (output, summary) = annotate_in(image, &[], log, log.len().max(1), Format::Text);
    (String::from_utf8(output).expect("UTF-8"), summary)
}

fn records(output: &[u8]) -> Vec<Record> {
    let text = std::str::from_utf8(output).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// A frame as the expected files have it.
fn frame(frame: &Value) -> (Option<String>, Option<String>, Option<u64>, bool) {
    let text = |key: &str| frame[key].as_str().map(str::to_owned);
    (text("name"), text("file"), frame["line"].as_u64(), frame["inlined"] == true)
}

fn expect_the_truth(record: &Record, expected: &str, context: &str) {
    let expected: Value = serde_json::from_str(expected).expect("JSON");
    let said = (record.line, record.text.as_str(), record.module.as_deref());
    let wanted = (
        expected["line"].as_u64(),
        expected["text"].as_str().expect("text"),
        expected["module"].as_str(),
    );
    assert_eq!(said, wanted, "{context}");
    // Absent for a pointer to a function, of which neither is said.
    if let Some(exact) = expected["exact"].as_bool() {
        assert_eq!(record.exact, exact, "{context}");
    }
    let found: Vec<Vec<_>> = record
        .candidates
        .iter()
        .map(|place| {
            let frames = place.frames.iter().map(|frame| {
                let line = frame.line.map(u64::from);
                (frame.name.clone(), frame.file.clone(), line, frame.inlined)
            });
            frames.collect()
        })
        .collect();
    let candidates = expected["candidates"].as_array().expect("candidates");
    let wanted: Vec<Vec<_>> = candidates
        .iter()
        .map(|place| place["frames"].as_array().expect("frames").iter().map(frame).collect())
        .collect();
    // Nothing is said of a place that has no line.
    let has_line = wanted.iter().flatten().any(|(_, file, _, _)| file.is_some());
    assert_eq!(found, if has_line { wanted } else { Vec::new() }, "{context}");
}

#[test]
fn places_in_real_logs_are_what_nm_and_llvm_symbolizer_say() {
    for kernel in KERNELS {
        let image = std::fs::read(fixtures(kernel).join("vmlinux.elf")).expect("an image");
        let modules = [fixtures(kernel).join("modules")];
        for (path, log, expected) in logs(kernel) {
            let (output, _) = annotate_in(&image, &modules, &log, log.len(), Format::Json);
            let found = records(&output);
            assert_eq!(found.len(), expected.lines().count(), "{}", path.display());
            for (record, expected) in found.iter().zip(expected.lines()) {
                // The fixtures have no code, and this one place is told apart by it: see `lookup`.
                if !expected.contains("\"needs_code\": true") {
                    let context = format!("{}:{:?}", path.display(), record.line);
                    expect_the_truth(record, expected, &context);
                }
            }
        }
    }
}

/// The text that is left when annotations are taken away, which stand at the ends of lines.
fn expect_only_additions(input: &[u8], output: &[u8], context: &str) {
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (input, output) = (lines(input), lines(output));
    assert_eq!(input.len(), output.len(), "{context}: lines");
    for (line, annotated) in input.iter().zip(&output) {
        let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
        let (text, ending) = line.split_at(end);
        assert!(annotated.starts_with(text) && annotated.ends_with(ending), "{context}: {line:?}");
        let added = &annotated[text.len()..annotated.len() - ending.len()];
        assert!(added.is_empty() || added.starts_with(b"  "), "{context}: {added:?}");
    }
}

#[test]
fn a_log_is_copied_byte_for_byte_in_pieces_of_any_size() {
    let image = std::fs::read(fixtures("61").join("vmlinux.elf")).expect("an image");
    let modules = [fixtures("61").join("modules")];
    for (path, log, _) in logs("61") {
        let (whole, _) = annotate_in(&image, &modules, &log, log.len(), Format::Text);
        expect_only_additions(&log, &whole, &path.display().to_string());
        assert!(whole.len() > log.len(), "{}", path.display());
        for chunk in [1, 7, 100] {
            let (pieces, _) = annotate_in(&image, &modules, &log, chunk, Format::Text);
            assert_eq!(pieces, whole, "{} in pieces of {chunk}", path.display());
        }
    }
}

#[test]
fn bytes_that_are_no_text_come_out_as_they_are() {
    let log = b"\x1b[31mred\x07 \xff\xfe\r\r\n\n\0\ttab\rover\nlast line without an end";
    let (output, summary) = annotate_in(nmiscope::bundled::image(), &[], log, 3, Format::Text);
    assert_eq!(output, log);
    assert_eq!(summary.total, 0);
}

/// The address of a function of the bundled guest, as it was linked, and its symbol.
fn kernel_main() -> (u64, u64) {
    let image = Image::parse(nmiscope::bundled::image()).expect("an image");
    let symbol = image.symbol("kernel_main").expect("a symbol");
    (symbol.address.0, symbol.size)
}

#[test]
fn an_offset_holds_for_addresses_before_and_after_it() {
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
    // And one that does not say.
    log += &format!("Linux version 1 (x)\n [<{:016x}>]\n", address + 0x1a00_0010);
    let (output, summary) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 2, "{output}");
    assert_eq!((summary.found, summary.total), (2, 3));
    assert!(summary.text().contains("--offset"), "{}", summary.text());
}

#[test]
fn an_address_beside_its_symbol_says_how_far_the_kernel_was_moved() {
    let (address, size) = kernel_main();
    let moved = address + 0x1a00_0010;
    let log = format!(" [<{moved:016x}>] kernel_main+0x10/{size:#x}\n [<{moved:016x}>]\n");
    let (output, _) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 2, "{output}");
    // A hashed pointer says nothing, and the symbol beside it is taken.
    let log = format!(" [<00000000e4d3f1b2>] kernel_main+0x10/{size:#x}\n [<{moved:016x}>]\n");
    let (output, _) = annotate(nmiscope::bundled::image(), log.as_bytes());
    assert_eq!(output.matches("kernel_main at").count(), 1, "{output}");
}

#[test]
fn an_offset_that_is_given_wins() {
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
fn a_line_of_any_length_stays_one_line() {
    let (address, size) = kernel_main();
    let mut log = vec![b'x'; 200 << 10];
    log.extend_from_slice(format!(" kernel_main+0x10/{size:#x} ").as_bytes());
    log.extend(std::iter::repeat_n(b"word ", 50 << 10).flatten());
    log.extend_from_slice(format!("[<{:016x}>]\r\nnext\n", address + 0x10).as_bytes());
    let (output, summary) =
        annotate_in(nmiscope::bundled::image(), &[], &log, 10_000, Format::Text);
    expect_only_additions(&log, &output, "a long line");
    assert_eq!((summary.found, summary.total), (2, 2));
    let text = String::from_utf8(output).expect("UTF-8");
    assert_eq!(text.matches("kernel_main at").count(), 2);
}

#[test]
fn a_line_is_answered_when_it_is_there() {
    let (_, size) = kernel_main();
    let mut invocation = nmiscope(["symbolize"]);
    invocation.command.stdin(Stdio::piped());
    let mut running = invocation.start();
    let mut stdin = running.child.stdin.take().expect("a pipe");
    for count in 1..=3 {
        writeln!(stdin, " kernel_main+0x10/{size:#x}").expect("a pipe");
        running.wait_for("kernel_main at", count);
    }
    drop(stdin);
    running.wait().expect_code(exit::CLEAN);
}

#[test]
fn a_line_that_waits_for_an_offset_is_written_when_nothing_more_comes() {
    let mut invocation = nmiscope(["symbolize"]);
    invocation.command.stdin(Stdio::piped());
    let mut running = invocation.start();
    let mut stdin = running.child.stdin.take().expect("a pipe");
    writeln!(stdin, " [<ffffffffdead0000>] first\nsecond").expect("a pipe");
    running.wait_for("second", 1);
    drop(stdin);
    let finished = running.wait().expect_code(exit::GUEST_FAILED);
    assert_eq!(finished.stdout, " [<ffffffffdead0000>] first\nsecond\n");
}

#[test]
fn addresses_of_user_space_are_not_waited_for() {
    let mut invocation = nmiscope(["symbolize"]);
    invocation.command.stdin(Stdio::piped());
    let mut running = invocation.start();
    let mut stdin = running.child.stdin.take().expect("a pipe");
    for count in 1..=3 {
        writeln!(stdin, "prog[1]: segfault at 0 ip 00007f1234567890 sp 0").expect("a pipe");
        running.wait_for("segfault", count);
    }
    drop(stdin);
    let finished = running.wait().expect_code(exit::CLEAN);
    assert!(finished.stderr.contains("no addresses"), "{}", finished.stderr);
}

#[test]
fn offsets_of_two_boots_without_a_banner_are_reported() {
    let log = "Kernel Offset: 0x1f000000 from 0x1\n [<ffffffff9f200000>]\nKernel Offset: 0x2f000000 from 0x1\n";
    let finished = nmiscope(["symbolize"]).run_with_input(log.as_bytes());
    assert!(finished.stderr.contains("several `Kernel Offset:`"), "{}", finished.stderr);
}

#[test]
fn a_stripped_image_is_said_to_have_no_symbols() {
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
fn a_summary_says_what_was_not_found_and_why() {
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
fn an_image_that_matches_nothing_is_exit_code_1_with_the_likely_reason() {
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
fn a_place_can_be_an_argument() {
    let (address, size) = kernel_main();
    let place = format!("kernel_main+0x10/{size:#x}");
    let by_name = nmiscope(["symbolize", &place]).run().expect_code(exit::CLEAN).stdout;
    let by_address = nmiscope(["symbolize", &format!("{:x}", address + 0x10)])
        .run()
        .expect_code(exit::CLEAN)
        .stdout;
    let answer = |text: &str| text.split_once("  ").expect("an answer").1.to_owned();
    assert!(by_name.starts_with(&format!("{place}  ")), "{by_name}");
    // As in a trace: where a call returns to, unless the text says something else.
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
fn records_are_what_the_schema_says() {
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

/// `symbolize` of a kernel's fixtures, on its log of an oops.
fn with_modules(folder: &Path) -> (Invocation, Vec<u8>) {
    let image = fixtures("61").join("vmlinux.elf");
    let log = std::fs::read(fixtures("61").join("oops.log")).expect("a log");
    let invocation = nmiscope(["symbolize"]).arg("--image").arg(image);
    (invocation.arg("--modules").arg(folder), log)
}

/// What is expected of [`with_modules`], whatever its modules are packed in.
fn expect_modules(folder: &Path) {
    let (plain, log) = with_modules(&fixtures("61").join("modules"));
    let expected = plain.run_with_input(&log).expect_code(exit::CLEAN);
    assert!(expected.stdout.contains("logmod_near at "), "{}", expected.all());
    let (packed, log) = with_modules(folder);
    let found = packed.run_with_input(&log).expect_code(exit::CLEAN);
    assert_eq!((found.stdout, found.stderr), (expected.stdout, expected.stderr));
}

#[test]
fn a_module_is_found_anywhere_below_and_unpacked() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("lib/modules/6.1.0/extra");
    std::fs::create_dir_all(&folder).expect("a directory");
    let module = std::fs::read(fixtures("61").join("modules/logmod.ko")).expect("a module");
    let file = std::fs::File::create(folder.join("logmod.ko.gz")).expect("a file");
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    encoder.write_all(&module).expect("a file");
    encoder.finish().expect("a file");
    // Not a module, and one that is another's.
    std::fs::write(folder.join("logmod.ko.txt"), "text").expect("a file");
    std::fs::write(folder.join("other.ko"), "text").expect("a file");
    expect_modules(directory.path());
    expect_modules(&folder.join("logmod.ko.gz"));
}

#[test]
#[ignore = "needs xz and zstd"]
fn modules_that_distributions_pack_are_unpacked() {
    for (program, suffix) in [("xz", "xz"), ("zstd", "zst")] {
        let directory = tempfile::tempdir().expect("a directory");
        let module = fixtures("61").join("modules/logmod.ko");
        let packed = directory.path().join(format!("logmod.ko.{suffix}"));
        let status = std::process::Command::new(program)
            .arg("-c")
            .arg(module)
            .stdout(std::fs::File::create(packed).expect("a file"))
            .status()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(status.success());
        expect_modules(directory.path());
    }
}

#[test]
fn a_module_that_cannot_be_read_is_named_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("logmod.ko"), "text").expect("a file");
    let (invocation, log) = with_modules(directory.path());
    let finished = invocation.run_with_input(&log).expect_code(exit::CLEAN);
    let wanted = "in module logmod, which cannot be read";
    assert!(finished.stderr.contains(wanted), "{}", finished.stderr);
    let (invocation, log) = with_modules(Path::new("no/such/directory"));
    let finished = invocation.run_with_input(&log).expect_code(exit::USAGE);
    assert!(finished.stderr.contains("no/such/directory"), "{}", finished.stderr);
}

#[test]
fn an_image_that_is_no_vmlinux_is_refused_with_what_to_give_instead() {
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

/// A kernel of a few functions, linked where Linux is.
fn small_kernel(directory: &Path) -> PathBuf {
    let source = "const char linux_banner[] = \"Linux version 6.1.0-1 (me) #1 SMP\\n\";\n\
                  int rcv_lock = 1;\n\
                  __attribute__((noinline)) void work(void) { rcv_lock++; }\n\
                  void start(void) { work(); work(); }\n";
    std::fs::write(directory.join("kernel.c"), source).expect("a file");
    let status = std::process::Command::new("gcc")
        .args(["-O1", "-g", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-mcmodel=kernel"])
        .args([
            "-Wl,-Ttext=0xffffffff81000000,-e,start,--build-id=none",
            "kernel.c",
            "-o",
            "vmlinux",
        ])
        .current_dir(directory)
        .status()
        .expect("gcc");
    assert!(status.success());
    directory.join("vmlinux")
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A module of one function, `outer`, into which another is inlined, and its build-id.
fn small_module(directory: &Path) -> String {
    let source = "int counter;\n\
                  static inline void inner(void) { counter++; }\n\
                  void outer(void) { inner(); inner(); }\n";
    std::fs::write(directory.join("small.c"), source).expect("a file");
    run("gcc", &["-O2", "-g", "-c", "small.c"], directory);
    run("ld", &["-r", "--build-id", "small.o", "-o", "small.ko"], directory);
    let notes = run("readelf", &["--notes", "small.ko"], directory);
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.expect("a build-id").to_owned()
}

#[test]
#[ignore = "needs gcc"]
fn a_stripped_module_gets_its_debug_file_by_build_id() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let id = small_module(path);
    let log = format!(" outer+0x4/0x999 [small {id}]\n");
    let symbolize = || {
        let modules = nmiscope(["symbolize", "-q", "--modules"]).arg(path);
        modules.arg("--debug-dir").arg(path.join("debug")).run_with_input(log.as_bytes()).stdout
    };
    let expected = symbolize();
    assert!(expected.contains("small.c:3"), "{expected}");
    let debug = format!("debug/.build-id/{}", &id[..2]);
    std::fs::create_dir_all(path.join(&debug)).expect("a directory");
    let debug = format!("{debug}/{}.debug", &id[2..]);
    run("objcopy", &["--only-keep-debug", "small.ko", &debug], path);
    run("objcopy", &["--strip-debug", "small.ko"], path);
    assert_eq!(symbolize(), expected);
    // The debug file beside the module does as well.
    std::fs::rename(path.join(debug), path.join("small.ko.debug")).expect("a file");
    assert_eq!(symbolize(), expected);
}

#[test]
#[ignore = "needs gcc"]
fn a_module_with_another_build_id_is_not_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let id = small_module(directory.path());
    let other = format!("{}00", &id[2..]);
    let log = format!(" outer+0x4/0x999 [small {other}]\n");
    let finished = nmiscope(["symbolize", "--modules"])
        .arg(directory.path())
        .run_with_input(log.as_bytes())
        .expect_code(exit::GUEST_FAILED);
    assert_eq!(finished.stdout, log);
    assert!(finished.stderr.contains("for another kernel only"), "{}", finished.stderr);
}

/// A module of one function whose line says which kernel it was built for.
fn module_of(directory: &Path, release: &str, line: usize) {
    let folder = directory.join(release);
    std::fs::create_dir_all(&folder).expect("a directory");
    let source = format!(
        "__attribute__((section(\".modinfo\"))) const char magic[] = \"vermagic={release} SMP\";\n\
         {}int counter; void outer(void) {{ counter++; }}\n",
        "\n".repeat(line - 2)
    );
    std::fs::write(folder.join("small.c"), source).expect("a file");
    run("gcc", &["-O2", "-g", "-c", "small.c", "-o", "small.ko"], &folder);
}

#[test]
#[ignore = "needs gcc"]
fn of_a_module_for_several_kernels_that_of_the_image_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let kernel = small_kernel(path);
    module_of(path, "5.10.0-1", 10);
    module_of(path, "6.1.0-1", 20);
    let symbolize = |modules: &Path, image: Option<&Path>| {
        let mut invocation = nmiscope(["symbolize", "--modules"]).arg(modules);
        if let Some(image) = image {
            invocation = invocation.arg("--image").arg(image);
        }
        invocation.run_with_input(b" outer+0x4/0x999 [small]\n")
    };
    let found = symbolize(path, Some(&kernel)).expect_code(exit::CLEAN).stdout;
    assert!(found.contains("small.c:20") && !found.contains("ambiguous"), "{found}");
    let other = symbolize(&path.join("5.10.0-1"), Some(&kernel)).expect_code(exit::GUEST_FAILED);
    assert!(other.stderr.contains("for another kernel only"), "{}", other.stderr);
    // An image that does not say of which kernel it is: both fit, and that is said.
    let both = symbolize(path, None).expect_code(exit::CLEAN).stdout;
    for wanted in ["ambiguous", "small.c:10", "small.c:20"] {
        assert!(both.contains(wanted), "{wanted}: {both}");
    }
}

#[test]
#[ignore = "needs gcc"]
fn a_log_of_another_kernel_is_a_warning() {
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
fn a_variable_is_no_address_of_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = small_kernel(directory.path());
    let log = " #0: (rcv_lock+0x0/0x4){+.+.}, at: work+0x4/0x999\n";
    let invocation = nmiscope(["symbolize", "--json"]).arg("--image").arg(&kernel);
    let finished = invocation.run_with_input(log.as_bytes());
    let records = records(finished.stdout.as_bytes());
    assert_eq!(records[0].missing.as_deref(), Some("a variable"));
    assert!(finished.stderr.contains("0 of 1 address"), "{}", finished.stderr);
}
