//! The pages in a farm's results: one of each report, and one of the run, whose links lead to files and whose
//! names stay text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::site::*;
use crate::common::page::{follow, is_self_contained};
use crate::common::*;

/// Suite with a pass, a failure and a hang, with names that mean something in HTML and in an address.
const SUITE: &str = r#"
[defaults]
cpus = 2
hang-after = "300ms"

[[vm]]
name = "</script><script>alert(1)</script>"
workload = "exit"
append = "loglevel=8"

[[vm]]
name = "javascript:alert(1)"
workload = "exit"
append = "exit_code=3 loglevel=8"

[[vm]]
name = "spin/cpus=\"2\" '#?%"
workload = "spin-irqs-off"
append = "loglevel=8"
"#;

/// Returns the pages and consoles of all tries, by their canonical paths.
fn pages_and_consoles(results: &Path, run: &Run) -> BTreeSet<PathBuf> {
    let files = run.all_finished().flat_map(|vm| {
        ["report.html", "console.log"].map(|file| results.join(&vm.directory).join(file))
    });
    files.map(|file| file.canonicalize().unwrap_or_else(|_| panic!("no {file:?}"))).collect()
}

#[test]
fn index_links_to_the_page_and_the_console_of_each_vm() {
    let site = Site::new(SUITE);
    let (junit, summary) = (site.path("junit.xml"), site.path("summary.md"));
    let farm = site.farm(["--junit", &junit, "--summary", &summary]).run();
    let run = Run::from_output(&farm.expect_code(exit::HANG));
    let index = site.results().join("index.html");
    let text = fs::read_to_string(&index).expect("a page");
    is_self_contained(&text);
    let followed: BTreeSet<PathBuf> = follow(&index).into_iter().collect();
    assert_eq!(followed, pages_and_consoles(&site.results(), &run));
    for vm in run.all_finished() {
        let page = site.results().join(&vm.directory).join("report.html");
        is_self_contained(&fs::read_to_string(page).expect("a page"));
        assert_eq!(vm.files["html"].to_str(), Some("report.html"));
    }
    let hang = run.finished("spin/cpus=\"2\" '#?%").hang.clone().expect("a hang");
    for wanted in [
        "3 VMs: 1 passed, 1 failed, 1 hung (1 distinct)",
        "&#60;/script&#62;&#60;script&#62;alert(1)&#60;/script&#62;",
        "<h2>Groups: 1</h2>",
        "hard-lockup:spin_for_good",
        &hang.signature,
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // The other outputs name the page, and lead to the pages of failures.
    let xml = fs::read_to_string(junit).expect("a file");
    assert!(xml.contains(&format!("name=\"index\" value=\"{}\"", index.display())), "{xml}");
    assert!(xml.contains("report.html"), "{xml}");
    let failed = ["javascript:alert(1)", "spin/cpus=\"2\" '#?%"];
    let failed = failed.map(|name| run.finished(name).directory.join("report.html"));
    let mut wanted: BTreeSet<PathBuf> =
        failed.iter().map(|page| site.results().join(page)).collect();
    wanted.insert(index);
    let wanted: BTreeSet<PathBuf> =
        wanted.iter().map(|path| path.canonicalize().expect("a file")).collect();
    assert_eq!(follow(Path::new(&summary)).into_iter().collect::<BTreeSet<_>>(), wanted);
}

#[test]
fn merged_results_have_an_index_of_their_own() {
    let site = Site::new(SUITE);
    let mut counts = Vec::new();
    for part in ["1", "2"] {
        let out = site.path(&format!("part-{part}"));
        let farm = site.farm_to(&out).args(["--partition", &format!("count:{part}/2")]).run();
        counts.push(Run::from_output(&farm).all_finished().count());
        assert!(Path::new(&out).join("index.html").is_file());
    }
    assert_eq!(counts.iter().sum::<usize>(), 3);
    let all = site.path("all");
    let merged = nmiscope(["farm", "merge", "--message-format", "json", "--out", &all])
        .args([site.path("part-1"), site.path("part-2")])
        .run();
    let run = Run::from_output(&merged.expect_code(exit::HANG));
    let index = Path::new(&all).join("index.html");
    let followed: BTreeSet<PathBuf> = follow(&index).into_iter().collect();
    assert_eq!(followed, pages_and_consoles(Path::new(&all), &run));
    assert!(fs::read_to_string(index).expect("a page").contains("<h2>VMs: 3</h2>"));
}

#[test]
fn index_that_cannot_be_written_fails_the_run_and_not_its_vms() {
    let site = Site::new(SUITE);
    fs::create_dir_all(site.results().join("index.html")).expect("a directory");
    let refused = site.farm(["--filter", "name(script>)"]).run().expect_code(exit::USAGE);
    assert!(refused.stderr.contains("index.html: it is a directory"), "{}", refused.all());
    fs::remove_dir(site.results().join("index.html")).expect("it is empty");

    let farm = site.farm(["--filter", "name(script>)"]).start();
    farm.wait_for("\"vm-started\"", 1);
    fs::create_dir_all(site.results().join("index.html/in-the-way")).expect("a directory");
    let farm = farm.wait().expect_code(exit::TOOL_FAILED);
    assert!(farm.stderr.contains("failed to write"), "{}", farm.all());
    assert!(farm.stderr.contains("index.html"), "{}", farm.all());
    assert_eq!(Run::from_output(&farm).all_finished().count(), 1);
}
