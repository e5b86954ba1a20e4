//! Names and paths that are neither C's nor Rust's, from the compilers that write them.

use std::path::{Path, PathBuf};
use std::process::Command;

use nmiscope_machine::VirtualAddress;
use nmiscope_symbolizer::{Image, ProgramCounter, Resolved};

/// Compiles `tests/fixtures/{name}` to a program without a library.
fn build(compiler: &str, name: &str) -> PathBuf {
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.elf"));
    let status = Command::new(compiler)
        .args(["-g", "-O1", "-nostdlib", "-static", "-fno-exceptions", "-o"])
        .arg(&output)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
        .status();
    assert!(status.expect("a compiler").success());
    output
}

fn look_up<'i>(image: &Image<'i>, address: VirtualAddress) -> Resolved<'i> {
    image.frames(ProgramCounter::Interrupted(address))
}

#[test]
#[ignore = "needs gcc"]
fn windows_paths_are_shown_as_on_windows() {
    let bytes = std::fs::read(build("gcc", "windows.s")).expect("a file");
    let image = Image::parse(&bytes).expect("an image");
    let start = image.symbol("_start").expect("a symbol").address;
    let files = [r"C:\work\kernel\main.c", r"C:\work\kernel\irq.c", r"\\build\share\lock.c"];
    for (file, offset) in files.iter().zip(0..) {
        let found = look_up(&image, start.wrapping_add(offset));
        let location = found.frames[0].location.as_ref().expect("a line");
        assert_eq!(
            (location.file.as_str(), location.line),
            (*file, Some(10 * (offset as u32 + 1)))
        );
    }
}

/// The functions of a file as nm lists them: address and mangled name, or demangled by c++filt's code.
fn functions(file: &Path, demangle: bool) -> Vec<(u64, String)> {
    let mode = if demangle { "--demangle" } else { "--no-demangle" };
    let output = Command::new("nm").args(["--defined-only", mode]).arg(file).output().expect("nm");
    let text = String::from_utf8(output.stdout).expect("text");
    let symbols = text.lines().filter_map(|line| {
        let (address, rest) = line.split_once(' ')?;
        let (kind, name) = rest.split_once(' ')?;
        let address = u64::from_str_radix(address, 16).expect("an address");
        "tTwW".contains(kind).then(|| (address, name.to_owned()))
    });
    let mut symbols: Vec<_> = symbols.collect();
    symbols.sort();
    symbols
}

#[test]
#[ignore = "needs g++ and nm"]
fn cpp_functions_have_the_names_of_nm() {
    let file = build("g++", "names.cpp");
    let bytes = std::fs::read(&file).expect("a file");
    let image = Image::parse(&bytes).expect("an image");
    let expected = functions(&file, true);
    assert!(expected.len() >= 6, "{expected:?}");
    for ((address, name), (_, linkage_name)) in expected.iter().zip(functions(&file, false)) {
        let found = look_up(&image, VirtualAddress(*address));
        let function = found.frames.last().expect("a frame");
        assert_eq!(function.function.as_ref(), Some(name));
        assert_eq!(function.linkage_name.as_deref(), Some(linkage_name.as_str()));
        assert!(function.location.is_some(), "{name}");
    }
    // A log names a function without its parameters, or by the last part alone.
    for name in ["kernel::Lock<kernel::Thread, 7ul, true>::acquire", "acquire"] {
        assert_eq!(image.symbols_named(name).len(), 1, "{name}");
    }
}
