//! Shared parts of the tests: the test binary as an image, sampled addresses, and a plain form of an
//! answer, in which two symbolizers can be compared.

#![allow(dead_code, reason = "each test uses its part")]

use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use nmiscope_symbolizer::Resolved;

/// The bytes of the running test binary, which has DWARF in cargo's dev profile.
pub fn own_image() -> Vec<u8> {
    std::fs::read(std::env::current_exe().expect("a path")).expect("a readable test binary")
}

/// The distance in bytes between the addresses at which the test binary runs and was linked.
pub fn load_bias() -> u64 {
    let exe = std::env::current_exe().expect("a path");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let first = maps
        .lines()
        .find(|line| line.ends_with(exe.to_str().expect("UTF-8")))
        .expect("the binary is mapped");
    let (begin, _) = first.split_once('-').expect("a range");
    u64::from_str_radix(begin, 16).expect("hexadecimal")
}

/// The linkage name, file and line of a frame.
pub type Plain = (String, String, u32);

pub fn plain(resolved: &Resolved<'_>) -> Vec<Plain> {
    let frame = |frame: &nmiscope_symbolizer::Frame<'_>| {
        let name = frame.linkage_name.as_deref().unwrap_or("??").to_owned();
        let file = frame.location.as_ref().map_or("??", |at| &at.file).to_owned();
        (name, file, frame.location.as_ref().and_then(|at| at.line).unwrap_or(0))
    };
    resolved.frames.iter().map(frame).collect()
}

/// Removes `.` and `..` from a path by the standard library's components.
pub fn normalized(path: &str) -> String {
    let mut normal = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal.to_str().expect("UTF-8").to_owned()
}

/// Returns `count` addresses spread over the executable sections, the same ones every time.
pub fn text_addresses(image: &[u8], count: u64) -> Vec<u64> {
    use object::{Object, ObjectSection, SectionKind};
    let file = object::File::parse(image).expect("an ELF file");
    let text: Vec<_> = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .map(|section| (section.address(), section.size()))
        .collect();
    let total: u64 = text.iter().map(|&(_, size)| size).sum();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut addresses = Vec::new();
    for _ in 0..count {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut at = state % total;
        for &(begin, size) in &text {
            if at < size {
                addresses.push(begin + at);
                break;
            }
            at -= size;
        }
    }
    addresses
}

/// Runs llvm-symbolizer in its default style: it prints, for each frame, a line with the name and a line
/// with `file:line:column`, and an empty line after each address.
pub fn with_llvm(file: &Path, addresses: &[u64]) -> Vec<Vec<Plain>> {
    let mut child = Command::new("llvm-symbolizer")
        .args(["--no-demangle", "--inlines", "--obj"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("llvm-symbolizer");
    let mut input = child.stdin.take().expect("a pipe");
    let lines: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("llvm-symbolizer");
    writer.join().expect("a thread").expect("a pipe");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let answers: Vec<_> = text
        .trim_end()
        .split("\n\n")
        .map(|answer| {
            let lines: Vec<_> = answer.lines().collect();
            let frames = lines.chunks_exact(2).map(|frame| {
                let (place, _column) = frame[1].rsplit_once(':').expect("a column");
                let (file, line) = place.rsplit_once(':').expect("a line");
                let file = if file == "??" { file.into() } else { normalized(file) };
                (frame[0].to_owned(), file, line.parse().expect("a number"))
            });
            frames.collect()
        })
        .collect();
    assert_eq!(answers.len(), addresses.len());
    answers
}
