//! Tests of modules: how their files are found, and the choice among several.

use std::io::Write;
use std::path::Path;

use super::{fixtures, run, small_kernel};
use crate::common::{Invocation, exit, nmiscope};

/// Prepares `symbolize` with a kernel's fixtures and the modules in `folder`. Returns its log of an oops too.
fn with_modules(folder: &Path) -> (Invocation, Vec<u8>) {
    let image = fixtures("61").join("vmlinux.elf");
    let log = std::fs::read(fixtures("61").join("oops.log")).expect("a log");
    let invocation = nmiscope(["symbolize"]).arg("--image").arg(image);
    (invocation.arg("--modules").arg(folder), log)
}

/// Asserts that the modules in `folder`, compressed or not, give the output of the uncompressed fixtures.
fn expect_modules(folder: &Path) {
    let (plain, log) = with_modules(&fixtures("61").join("modules"));
    let expected = plain.run_with_input(&log).expect_code(exit::CLEAN);
    assert!(expected.stdout.contains("logmod_near at "), "{}", expected.all());
    let (packed, log) = with_modules(folder);
    let found = packed.run_with_input(&log).expect_code(exit::CLEAN);
    assert_eq!((found.stdout, found.stderr), (expected.stdout, expected.stderr));
}

#[test]
fn a_compressed_module_is_found_at_any_depth() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("lib/modules/6.1.0/extra");
    std::fs::create_dir_all(&folder).expect("a directory");
    let module = std::fs::read(fixtures("61").join("modules/logmod.ko")).expect("a module");
    let file = std::fs::File::create(folder.join("logmod.ko.gz")).expect("a file");
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    encoder.write_all(&module).expect("a file");
    encoder.finish().expect("a file");
    // A file that is no module, and one of another module.
    std::fs::write(folder.join("logmod.ko.txt"), "text").expect("a file");
    std::fs::write(folder.join("other.ko"), "text").expect("a file");
    expect_modules(directory.path());
    expect_modules(&folder.join("logmod.ko.gz"));
}

#[test]
#[ignore = "needs xz and zstd"]
fn modules_compressed_by_xz_and_zstd_are_read() {
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
fn an_unreadable_module_is_reported_with_the_reason() {
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

/// Builds a module of one function, `outer`, into which another is inlined, with these options of gcc too. Returns
/// its build-id.
fn small_module(directory: &Path, options: &[&str]) -> String {
    let source = "int counter;\n\
                  static inline void inner(void) { counter++; }\n\
                  void outer(void) { inner(); inner(); }\n";
    std::fs::write(directory.join("small.c"), source).expect("a file");
    run("gcc", &[&["-O2", "-g", "-c", "small.c"], options].concat(), directory);
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
    let id = small_module(path, &[]);
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
    // A debug file beside the module is found too.
    std::fs::rename(path.join(debug), path.join("small.ko.debug")).expect("a file");
    assert_eq!(symbolize(), expected);
}

#[test]
#[ignore = "needs gcc"]
fn a_stripped_module_gets_the_debug_file_that_it_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let id = small_module(path, &[]);
    let log = format!(" outer+0x4/0x999 [small {id}]\n");
    let symbolize =
        || nmiscope(["symbolize", "--modules"]).arg(path).run_with_input(log.as_bytes());
    let expected = symbolize().expect_code(exit::CLEAN).stdout;
    assert!(expected.contains("small.c:3"), "{expected}");
    // A name that is not found as a module's own.
    run("objcopy", &["--only-keep-debug", "small.ko", "symbols"], path);
    run("objcopy", &["--strip-debug", "--add-gnu-debuglink=symbols", "small.ko"], path);
    std::fs::create_dir(path.join(".debug")).expect("a directory");
    std::fs::rename(path.join("symbols"), path.join(".debug/symbols")).expect("a file");
    assert_eq!(symbolize().expect_code(exit::CLEAN).stdout, expected);
    std::fs::write(path.join(".debug/symbols"), "another file").expect("a file");
    let finished = symbolize();
    assert!(!finished.stdout.contains("small.c:3"), "{}", finished.stdout);
    assert!(
        finished.stderr.contains("symbols was found and does not match"),
        "{}",
        finished.stderr
    );
}

#[test]
#[ignore = "needs gcc"]
fn a_modules_split_units_are_read_from_their_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let id = small_module(path, &["-gsplit-dwarf"]);
    let log = format!(" outer+0x4/0x999 [small {id}]\n");
    let symbolize =
        || nmiscope(["symbolize", "--modules"]).arg(path).run_with_input(log.as_bytes());
    let found = symbolize().expect_code(exit::CLEAN).stdout;
    assert!(found.contains("inner") && found.contains("small.c:3"), "{found}");
    std::fs::remove_file(path.join("small.dwo")).expect("a file");
    let finished = symbolize();
    assert!(!finished.stdout.contains("inner"), "{}", finished.stdout);
    assert!(finished.stderr.contains("small.dwo was not found"), "{}", finished.stderr);
}

#[test]
#[ignore = "needs gcc"]
fn a_module_with_another_build_id_is_not_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let id = small_module(directory.path(), &[]);
    let other = format!("{}00", &id[2..]);
    let log = format!(" outer+0x4/0x999 [small {other}]\n");
    let finished = nmiscope(["symbolize", "--modules"])
        .arg(directory.path())
        .run_with_input(log.as_bytes())
        .expect_code(exit::GUEST_FAILED);
    assert_eq!(finished.stdout, log);
    assert!(finished.stderr.contains("for another kernel only"), "{}", finished.stderr);
}

/// Builds a module for the kernel `release`, with one function at `line`.
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
fn the_module_built_for_the_images_kernel_is_chosen() {
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
    // An image without a release: both modules match, which is reported as ambiguous.
    let both = symbolize(path, None).expect_code(exit::CLEAN).stdout;
    for wanted in ["ambiguous", "small.c:10", "small.c:20"] {
        assert!(both.contains(wanted), "{wanted}: {both}");
    }
}
