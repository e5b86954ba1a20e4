//! Tests of `--format` and `--html`: where each form of a report goes, who may read it, and which source files are
//! shown in it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::*;
use crate::offline;

const PLACE: &str = "guest/src/workload/abba_deadlock.rs";

fn core() -> String {
    offline::directory().join("cores/abba-deadlock.core").display().to_string()
}

fn image() -> String {
    offline::directory().join("guest.elf").display().to_string()
}

#[test]
fn a_page_is_one_file_that_only_its_owner_may_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("hang.html");
    let path = page.display().to_string();
    let finished =
        nmiscope(["report", &core(), "--image", &image(), "--format", "html", "-o", &path]).run();
    let finished = finished.expect_code(exit::HANG);
    assert_eq!(finished.stdout, format!("wrote {path}\n"));
    let html = fs::read_to_string(&page).expect("the page");
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"), "{html}");
    let mode = page.metadata().expect("the page's mode").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

#[test]
fn other_forms_replace_the_text_on_standard_output() {
    for (format, begins) in [
        ("html", "<!DOCTYPE html>"),
        ("markdown", "**Verdict:**"),
        ("dot", "digraph"),
        ("json", "{\n"),
        ("text", "guest ready"),
    ] {
        let finished = nmiscope(["report", &core(), "--image", &image(), "--format", format]).run();
        let finished = finished.expect_code(exit::HANG);
        assert!(finished.stdout.starts_with(begins), "{format}: {}", finished.stdout);
        assert_eq!(finished.stderr, "", "{format}");
    }
    let both = ["report", &core(), "--image", &image(), "--format", "html", "--json", "-"];
    let finished = nmiscope(both).run().expect_code(exit::USAGE);
    assert!(finished.stderr.contains("cannot both be written to standard output"));
}

#[test]
fn source_lines_are_shown_from_below_a_named_folder_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    fs::create_dir_all(source.join(PLACE).parent().expect("its folder")).expect("a folder");
    let text: String = (1..=60).map(|line| format!("// the {line}th line\n")).collect();
    let page = |arguments: &[&str]| {
        let given = ["report", &core(), "--image", &image(), "--format", "html"];
        let finished = nmiscope(given.into_iter().chain(arguments.iter().copied())).run();
        finished.expect_code(exit::HANG).stdout
    };
    let directory = source.display().to_string();
    let with_source = ["--source-dir", directory.as_str()];
    // A link out of the folder is no source file.
    fs::write(folder.path().join("outside"), &text).expect("a file");
    std::os::unix::fs::symlink(folder.path().join("outside"), source.join(PLACE)).expect("a link");
    assert!(!page(&with_source).contains("the 48th line"));
    fs::remove_file(source.join(PLACE)).expect("the link");
    fs::write(source.join(PLACE), &text).expect("a file");
    assert!(page(&with_source).contains("// the 48th line"));
    assert!(!page(&[]).contains("the 48th line"), "no folder is searched unasked");
    let redacted = [with_source.as_slice(), &["--redact"]].concat();
    assert!(!page(&redacted).contains("the 48th line"));
}

#[test]
fn a_run_writes_a_page_beside_its_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("hang.html");
    let path = page.display().to_string();
    let run = run_workload("spin-irqs-off", 2).args(["--hang-after", "500ms", "--html", &path]);
    let finished = run.start().wait().expect_code(exit::HANG);
    let html = fs::read_to_string(&page).expect("the page");
    let class = &finished.report().hangs[0].class;
    assert!(html.contains(&format!("Hang: {class}")), "{html}");
}
