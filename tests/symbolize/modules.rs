//! Modules: where they are found, and which of several is meant.

use std::io::Write;
use std::path::Path;

use super::{fixtures, run, small_kernel};
use crate::common::{Invocation, exit, nmiscope};

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
