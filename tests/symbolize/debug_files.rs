//! Tests of debug information that lies in other files: where it is looked for, and what is said of a file
//! that is missing or another. An image with all of it inside has the right answers;
//! `symbolizer/tests/companions.rs` holds those against llvm-symbolizer.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::run;
use crate::common::{Finished, Invocation, exit, nmiscope};

/// A folder with images of the code in `symbolizer/tests/fixtures/shared`.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        run(program, arguments, self.0.path());
    }

    /// Compiles a part of the code in a subfolder, with these options too, and links it at a kernel's
    /// address.
    fn build(&self, part: &str, output: &str, options: &[&str]) {
        let sources =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("symbolizer/tests/fixtures/shared");
        let source = sources.join(part).with_extension("c");
        let folder = self.path(output);
        let folder = folder.parent().expect("a folder");
        fs::create_dir_all(folder).expect("a folder");
        let name = Path::new(output).file_name().and_then(|name| name.to_str()).expect("a name");
        let object = format!("{name}.o");
        let mut compile = vec!["-g", "-O2", "-fno-pic", "-fno-pie", "-mcmodel=kernel", "-c"];
        compile.extend([source.to_str().expect("UTF-8"), "-o", &object]);
        compile.extend(options);
        run("gcc", &compile, folder);
        let link = ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0xffffffff80200000,-e,0"];
        let link = [&link[..], &["-Wl,--build-id", "-o", name, &object]].concat();
        run("gcc", &link, folder);
    }

    fn rename(&self, from: &str, to: &str) {
        let to = self.path(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::rename(self.path(from), to).expect("a file");
    }

    /// Looks up an address inside the first function, where two calls are inlined.
    fn symbolize(&self, image: &str, options: &[&str]) -> Finished {
        self.prepare(image, options).run()
    }

    fn prepare(&self, image: &str, options: &[&str]) -> Invocation {
        let mut invocation = nmiscope(["symbolize", "--image"]).arg(self.path(image));
        invocation.command.current_dir(&self.0);
        invocation.args(options).arg("ffffffff80200002")
    }

    /// Asserts that an image has the answer of the one with all debug information inside, and no warning.
    #[track_caller]
    fn expect_whole(&self, image: &str, options: &[&str]) {
        let expected = self.symbolize("whole", &[]).expect_code(exit::CLEAN);
        assert!(expected.stdout.contains("wait_for at "), "{}", expected.all());
        assert!(expected.stdout.contains(" < take at "), "{}", expected.all());
        let found = self.symbolize(image, options).expect_code(exit::CLEAN);
        assert_eq!((found.stdout, &*found.stderr), (expected.stdout, ""));
    }

    /// Asserts that an image has a worse answer, and that one warning has this text.
    #[track_caller]
    fn expect_warning(&self, image: &str, options: &[&str], wanted: &str) -> Finished {
        let found = self.symbolize(image, options).expect_code(exit::CLEAN);
        assert!(!found.stdout.contains("take at "), "{}", found.all());
        let warnings = found.stderr.matches(wanted).count();
        assert_eq!(warnings, 1, "{wanted:?} in {}", found.all());
        found
    }
}

#[test]
#[ignore = "needs gcc"]
fn split_unit_is_found_beside_the_image_and_in_the_debug_directories() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let folder = Folder::new();
        folder.build("part1", "whole", &[version]);
        folder.build("part1", "build/image", &[version, "-gsplit-dwarf"]);
        folder.expect_whole("build/image", &[]);
        // The image alone, elsewhere: the file is named, once.
        folder.rename("build/image", "alone/image");
        let again = ["ffffffff80200003", "ffffffff80200004"];
        folder.expect_warning("alone/image", &again, "image.dwo was not found");
        folder.expect_whole("alone/image", &["--debug-dir", "build"]);
        folder.expect_whole("alone/image", &["--debug-dir", "none", "--debug-dir", "build"]);
        // Below a directory at the path that it had.
        let moved = format!("debug{}/image.dwo", folder.path("build").display());
        folder.rename("build/image.dwo", &moved);
        folder.expect_whole("alone/image", &["--debug-dir", "debug"]);
        folder.rename(&moved, "alone/image.dwo");
        folder.expect_whole("alone/image", &[]);
    }
}

#[test]
#[ignore = "needs gcc and llvm-dwp"]
fn package_of_split_units_is_found_beside_the_image() {
    let folder = Folder::new();
    folder.build("part1", "whole", &[]);
    folder.build("part1", "build/image", &["-gsplit-dwarf"]);
    fs::create_dir(folder.path("alone")).expect("a folder");
    folder.run("llvm-dwp", &["-e", "build/image", "-o", "alone/image.dwp"]);
    folder.rename("build/image", "alone/image");
    folder.expect_whole("alone/image", &[]);
    folder.rename("alone/image.dwp", "debug/image.dwp");
    folder.expect_warning("alone/image", &[], "image.dwo was not found");
    folder.expect_whole("alone/image", &["--debug-dir", "debug"]);
}

#[test]
#[ignore = "needs gcc"]
fn split_unit_of_another_build_is_named_and_not_used() {
    let folder = Folder::new();
    folder.build("part1", "image", &["-gsplit-dwarf"]);
    folder.rename("image.dwo", "right/image.dwo");
    folder.rename("image", "alone/image");
    folder.build("part2", "other", &["-gsplit-dwarf"]);
    folder.rename("other.dwo", "alone/image.dwo");
    let found = folder.expect_warning(
        "alone/image",
        &[],
        "image.dwo was found and does not match: its DWO ID is not ",
    );
    assert!(!found.stderr.contains("was not found"), "{}", found.all());
    // One that matches wins over it, wherever it is.
    folder.build("part1", "whole", &[]);
    folder.expect_whole("alone/image", &["--debug-dir", "right"]);
}

#[test]
#[ignore = "needs gcc"]
fn links_that_lead_out_of_the_image_folder_are_not_followed() {
    let folder = Folder::new();
    folder.build("part1", "whole", &[]);
    folder.build("part1", "build/image", &["-gsplit-dwarf"]);
    fs::create_dir(folder.path("in")).expect("a folder");
    folder.rename("build/image", "in/image");
    symlink("../build/image.dwo", folder.path("in/image.dwo")).expect("a link");
    folder.expect_warning(
        "in/image",
        &[],
        "image.dwo was found and cannot be used: it leads out of the folder",
    );
    // A link inside the folder is followed.
    fs::remove_file(folder.path("in/image.dwo")).expect("a link");
    folder.rename("build/image.dwo", "in/sub/image.dwo");
    symlink("sub/image.dwo", folder.path("in/image.dwo")).expect("a link");
    folder.expect_whole("in/image", &[]);
    // Neither a pipe, which nobody writes to, nor a folder is opened.
    fs::remove_file(folder.path("in/image.dwo")).expect("a link");
    folder.run("mkfifo", &["in/image.dwo"]);
    folder.expect_warning(
        "in/image",
        &[],
        "image.dwo was found and cannot be used: it is no regular file",
    );
}

#[test]
#[ignore = "needs gcc and dwz"]
fn supplementary_file_is_found_or_named() {
    for version in [&[][..], &["--dwarf-5"]] {
        let folder = Folder::new();
        for (part, image) in [("part1", "image"), ("part2", "other")] {
            folder.build(part, image, &[]);
            if part == "part1" {
                fs::copy(folder.path("image"), folder.path("whole")).expect("a copy");
            }
        }
        folder.run("dwz", &[version, &["-m", "common.debug", "image", "other"]].concat());
        folder.expect_whole("image", &[]);
        folder.rename("common.debug", "shared/common.debug");
        folder.expect_warning(
            "image",
            &[],
            "common.debug was not found, and with it names and types",
        );
        folder.expect_whole("image", &["--debug-dir", "none", "--debug-dir", "shared"]);
        fs::copy(folder.path("other"), folder.path("common.debug")).expect("a copy");
        folder.expect_warning(
            "image",
            &[],
            "common.debug was found and does not match: its build-id is not ",
        );
    }
}

#[test]
#[ignore = "needs gcc and objcopy"]
fn debug_file_whose_checksum_differs_is_named_and_not_used() {
    let folder = Folder::new();
    folder.build("part1", "whole", &[]);
    folder.run("objcopy", &["--only-keep-debug", "whole", "image.debug"]);
    folder
        .run("objcopy", &["--strip-all", "--remove-section=.note.gnu.build-id", "whole", "image"]);
    folder.run("objcopy", &["--add-gnu-debuglink=image.debug", "image"]);
    // gdb's places: beside the image, in .debug there, and in a directory at the path of the image's folder.
    let resolved = folder.0.path().canonicalize().expect("a path");
    let there = format!("debug{}/image.debug", resolved.display());
    for (from, to) in [
        ("image.debug", "image.debug"),
        ("image.debug", ".debug/image.debug"),
        (".debug/image.debug", &there),
    ] {
        folder.rename(from, to);
        folder.expect_whole("image", &["--debug-dir", "none", "--debug-dir", "debug"]);
    }
    folder.rename(&there, "image.debug");
    let mut bytes = fs::read(folder.path("image.debug")).expect("a file");
    bytes.push(b'x');
    fs::write(folder.path("image.debug"), &bytes).expect("a file");
    let found = folder.symbolize("image", &[]);
    assert!(
        found.stderr.contains("image.debug was found and does not match: the checksum"),
        "{}",
        found.all()
    );
    fs::remove_file(folder.path("image.debug")).expect("a file");
    let found = folder.symbolize("image", &[]);
    let wanted = "image.debug, which the image names as its debug file, was not found";
    assert!(found.stderr.contains(wanted), "{}", found.all());
}

#[test]
#[ignore = "needs gcc and elfutils"]
fn debug_file_in_place_of_its_image_has_the_same_answers() {
    let folder = Folder::new();
    folder.build("part1", "whole", &[]);
    folder.run("eu-strip", &["-f", "image.debug", "-o", "stripped", "whole"]);
    folder.expect_whole("image.debug", &[]);
}

#[test]
#[ignore = "needs gcc and objcopy"]
fn debug_file_is_no_image_of_a_guest_that_runs() {
    crate::common::require_kvm();
    let folder = Folder::new();
    folder.build("part1", "whole", &[]);
    folder.run("objcopy", &["--only-keep-debug", "whole", "image.debug"]);
    let finished = nmiscope(["run"]).arg(folder.path("image.debug")).run();
    let finished = finished.expect_code(exit::USAGE);
    assert!(finished.stderr.contains("image.debug is a debug file"), "{}", finished.all());
}

#[test]
#[ignore = "needs gcc, objcopy and xz"]
fn symbols_of_minimal_debug_information_are_read() {
    let folder = Folder::new();
    folder.build("part1", "whole", &[]);
    folder.run("objcopy", &["-S", "--keep-symbol=first1", "--only-keep-debug", "whole", "minimal"]);
    folder.run("objcopy", &["--strip-all", "whole", "image"]);
    let wanted = "first1\n";
    let before = folder.symbolize("image", &["-q"]);
    assert!(!before.stdout.contains("first1"), "{}", before.all());
    let packed = std::process::Command::new("xz").arg("-c").arg(folder.path("minimal")).output();
    fs::write(folder.path("minimal.xz"), packed.expect("xz").stdout).expect("a file");
    folder.run("objcopy", &["--add-section", ".gnu_debugdata=minimal.xz", "image"]);
    let found = folder.symbolize("image", &["-q"]).expect_code(exit::CLEAN);
    assert!(found.stdout.ends_with(wanted), "{}", found.all());
    // Damaged, it is named.
    fs::write(folder.path("minimal.xz"), b"\xfd7zXZ\0 no more").expect("a file");
    folder.run("objcopy", &["--update-section", ".gnu_debugdata=minimal.xz", "image"]);
    let found = folder.symbolize("image", &["-q"]);
    assert!(found.stderr.contains("the image's .gnu_debugdata cannot be read"), "{}", found.all());
}

#[test]
#[ignore = "needs gcc, addr2line and xz"]
fn module_as_image_is_looked_up_by_offsets_in_its_code() {
    let folder = Folder::new();
    let source = "int other(int);\n\
                  static inline __attribute__((always_inline)) int inner(int x) { return other(x) + 1; }\n\
                  int helper(int x) { return inner(x) * 2; }\n\
                  __attribute__((section(\".init.text\"))) int start(int x) { return inner(x) * 3; }\n";
    fs::write(folder.path("small.c"), source).expect("a file");
    folder.run(
        "gcc",
        &["-g", "-O2", "-fno-pic", "-mcmodel=kernel", "-c", "small.c", "-o", "small.ko"],
    );
    let expected = run("addr2line", &["-ife", "small.ko", "0x4"], folder.0.path());
    let lines: Vec<_> =
        expected.lines().map(|line| line.rsplit('/').next().unwrap_or(line)).collect();
    let ["inner", inner, "helper", helper] = lines[..] else { panic!("{expected}") };
    folder.run("xz", &["--check=crc32", "-k", "small.ko"]);
    for image in ["small.ko", "small.ko.xz"] {
        let symbolize = |reference: &str| {
            let mut invocation = nmiscope(["symbolize", "--image"]).arg(folder.path(image));
            invocation.command.current_dir(&folder.0);
            invocation.arg(reference).run().expect_code(exit::CLEAN).stdout
        };
        let frames = format!("inner at {inner} < helper at {helper}\n");
        assert!(symbolize("4").ends_with(&frames), "{}", symbolize("4"));
        assert!(
            symbolize("helper+0x9/0x20").ends_with(&frames),
            "{}",
            symbolize("helper+0x9/0x20")
        );
        // Another section's code by its function, and by the module's name too, as in a log.
        for reference in ["start+0x9/0x20", "start+0x9/0x20 [small]"] {
            let found = symbolize(reference);
            assert!(found.contains("inner at small.c:2 < start at small.c:4"), "{found}");
        }
    }
}

/// Writes a program that stands for `debuginfod-find`, and prepares a lookup with it first in PATH.
fn with_servers(folder: &Folder, script: &str, arguments: &[&str]) -> Invocation {
    let program = folder.path("bin/debuginfod-find");
    fs::create_dir_all(folder.path("bin")).expect("a folder");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let path = format!("{}:{}", folder.path("bin").display(), std::env::var("PATH").expect("PATH"));
    let mut invocation =
        nmiscope(arguments).env("PATH", &path).env("DEBUGINFOD_URLS", "https://none.invalid");
    invocation.command.current_dir(&folder.0);
    invocation
}

const LOOKUP: [&str; 4] = ["symbolize", "--image", "image", "ffffffff80200002"];

/// A stripped image, its debug file `cache/debuginfo`, and the build-id of both.
fn stripped(folder: &Folder) -> String {
    folder.build("part1", "whole", &[]);
    fs::create_dir(folder.path("cache")).expect("a folder");
    folder.run("objcopy", &["--only-keep-debug", "whole", "cache/debuginfo"]);
    folder.run("objcopy", &["--strip-all", "whole", "image"]);
    let notes = run("readelf", &["--notes", "image"], folder.0.path());
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.expect("a build-id").to_owned()
}

#[test]
#[ignore = "needs gcc and objcopy"]
fn servers_are_asked_for_the_debug_file() {
    let folder = Folder::new();
    let id = stripped(&folder);
    let script = format!("echo \"$@\" >> asked\necho {}", folder.path("cache/debuginfo").display());
    let expected = folder.symbolize("whole", &[]);
    let found = with_servers(&folder, &script, &LOOKUP).run().expect_code(exit::CLEAN);
    assert_eq!((found.stdout, &*found.stderr), (expected.stdout, ""));
    let asked = fs::read_to_string(folder.path("asked")).expect("a file");
    assert_eq!(asked, format!("debuginfo {id}\n"));
    // Not without servers, and not where a directory has the file.
    fs::remove_file(folder.path("asked")).expect("a file");
    with_servers(&folder, &script, &LOOKUP).env("DEBUGINFOD_URLS", " ").run();
    folder.rename("cache/debuginfo", &format!("debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
    let local = with_servers(&folder, &script, &LOOKUP).args(["--debug-dir", "debug"]).run();
    assert!(local.stdout.contains("take at "), "{}", local.all());
    assert!(!folder.path("asked").exists());
}

#[test]
#[ignore = "needs gcc and objcopy"]
fn failures_of_servers_are_warnings() {
    let folder = Folder::new();
    let id = stripped(&folder);
    let other = folder.path("whole2");
    folder.build("part2", "whole2", &[]);
    for (script, wanted) in [
        (
            "echo 'Server query failed: No such file or directory' >&2; exit 1",
            "No such file or directory",
        ),
        ("exit 7", "exit status: 7"),
        ("true", "it printed no path"),
        ("exec sleep 1000", "it took longer than 1 s"),
        (&format!("echo {}", other.display()), "whole2 was found and does not match"),
    ] {
        let lookup = with_servers(&folder, script, &LOOKUP).env("DEBUGINFOD_MAXTIME", "1");
        let found = lookup.run();
        assert!(found.stderr.contains(wanted), "{wanted:?} in {}", found.all());
        assert!(found.stderr.contains("names only"), "{}", found.all());
    }
    // A slow answer is announced.
    let script = format!("sleep 2\necho {}", folder.path("cache/debuginfo").display());
    let found = with_servers(&folder, &script, &LOOKUP).run().expect_code(exit::CLEAN);
    let wanted =
        format!("debuginfod-find looks for the debug file with build-id {id}, for 120 s at most\n");
    assert_eq!(found.stderr, wanted);
    assert!(found.stdout.contains("take at "), "{}", found.all());
}

/// A run never waits for a server: its guest would go on meanwhile.
#[test]
#[ignore = "needs gcc and objcopy"]
fn run_asks_no_server() {
    crate::common::require_kvm();
    let folder = Folder::new();
    fs::write(folder.path("image"), nmiscope::bundled::image()).expect("an image");
    folder.run("objcopy", &["--strip-debug", "image"]);
    let arguments =
        ["run", "image", "--stop-after", "300ms", "--json", "report.json", "--workload", "idle"];
    let finished = with_servers(&folder, "echo asked >> asked; exit 1", &arguments).run();
    assert!(folder.path("report.json").exists(), "{}", finished.all());
    assert!(!folder.path("asked").exists(), "{}", finished.all());
}
