//! Tests of the copied log: every byte is written unchanged, and as early as possible.

use std::io::Write;
use std::process::Stdio;

use super::{annotate_in, expect_only_additions, kernel_main};
use crate::common::{exit, nmiscope};
use nmiscope::symbolize::Format;

#[test]
fn bytes_that_are_no_text_are_copied_unchanged() {
    let log = b"\x1b[31mred\x07 \xff\xfe\r\r\n\n\0\ttab\rover\nlast line without an end";
    let (output, summary) = annotate_in(nmiscope::bundled::image(), &[], log, 3, Format::Text);
    assert_eq!(output, log);
    assert_eq!(summary.total, 0);
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
fn a_line_is_annotated_before_the_next_one_comes() {
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
fn a_held_line_is_written_when_no_more_input_comes() {
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
fn a_line_with_an_address_of_user_space_is_not_held() {
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
