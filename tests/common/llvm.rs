//! llvm-symbolizer, as a second opinion on functions and lines.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs llvm-symbolizer on an image's addresses, and returns what it prints: for each address its functions, innermost
/// first, and an empty line. `names` is the option that decides the form of names.
pub fn llvm_symbolizer(names: &str, image: &Path, addresses: &[u64]) -> String {
    let mut child = Command::new("llvm-symbolizer")
        .args([names, "--inlines", "--obj"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("llvm-symbolizer can be started");
    let mut input = child.stdin.take().expect("a pipe");
    let lines: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("llvm-symbolizer ends");
    writer.join().expect("a thread").expect("all addresses are read");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
