//! Triage as a page: the days of each group, links that lead to files, known failures, changes, and text that
//! stays text.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::page::{addresses, follow, is_self_contained};
use crate::common::*;
use crate::triage::{A, B, Farm, PANIC, document, hang, triage};
use nmiscope_farm::event::Status;
use nmiscope_report::Report;
use serde_json::json;

/// Start of the first night, 2026-01-01 at one in the morning, in UTC: `date --date=2026-01-01T01:00:00Z
/// +%s`.
const FIRST_NIGHT: u64 = 1_767_229_200_000;
const DAY: u64 = 24 * 3600 * 1000;

/// Makes the results of three nights: a hang in the first and the last, another one in the first only, and a
/// night between them in which all is well.
fn three_nights(root: &Path) {
    let night = |number: u64| {
        let root = root.join(format!("nights/2026-01-{:02}", number + 1));
        Farm::starting(root, None, 2, FIRST_NIGHT + number * DAY)
    };
    let (a, b) = (hang(A), hang(B));
    night(0).vm("a", &[(Status::Hang, Some(&a))]).vm("b", &[(Status::Hang, Some(&b))]).finish();
    night(1).vm("a", &[(Status::Pass, None)]).vm("b", &[(Status::Pass, None)]).finish();
    night(2)
        .vm("a", &[(Status::Hang, Some(&a)), (Status::Hang, Some(&a))])
        .vm("b", &[(Status::Pass, None)])
        .finish();
}

#[test]
fn groups_have_their_first_and_last_times_and_counts_by_day() {
    let finished = triage(&["--format=json", "nights"], three_nights).expect_code(exit::HANG);
    let document = document(&finished);
    let day = |day: &str, count: u64| json!({ "day": day, "count": count });
    let group = |at: usize| {
        let group = &document["groups"][at];
        let field = |name: &str| group[name].clone();
        [field("signature"), field("first_seen"), field("last_seen"), field("by_day")]
    };
    // The farm starts a minute after the hour; a start and an end of a try each take one more.
    let (first, last) = ("2026-01-01T01:03:00.000Z", "2026-01-03T01:05:00.000Z");
    let days = json!([day("2026-01-01", 1), day("2026-01-03", 2)]);
    assert_eq!(group(0), [json!(A), json!(first), json!(last), days]);
    let seen = json!("2026-01-01T01:05:00.000Z");
    assert_eq!(group(1), [json!(B), seen.clone(), seen, json!([day("2026-01-01", 1)])]);
    let runs = |day: &str, failed: u64| json!({ "day": day, "runs": 2, "failed": failed });
    let runs = [runs("2026-01-01", 2), runs("2026-01-02", 0), runs("2026-01-03", 1)];
    assert_eq!(document["days"], json!(runs));
}

#[test]
fn page_shows_the_trend_of_each_group_in_bars_and_words() {
    let arguments = ["--format", "html", "-o", "failures.html", "nights"];
    let finished = triage(&arguments, three_nights).expect_code(exit::HANG);
    assert_eq!(finished.stdout, "wrote failures.html\n");
    let page = finished.text_of("failures.html");
    is_self_contained(&page);
    for wanted in [
        "2 groups in 6 runs (4 reports read, 3 farms)",
        "<title>3 failures from 2026-01-01 to 2026-01-03, on 2 of 3 days, at most 2 a day</title>",
        "<title>1 failure from 2026-01-01 to 2026-01-03, on 1 of 3 days, at most 1 a day</title>",
        "<title>3 failed runs from 2026-01-01 to 2026-01-03, on 2 of 3 days, at most 2 a day</title>",
        "<li>2026-01-01: 1</li><li>2026-01-03: 2</li>",
        "2026-01-01 01:03:00<",
        "2026-01-03 01:05:00<",
        A,
        B,
        "deadlock in take_second",
    ] {
        assert!(page.contains(wanted), "{wanted}\n{page}");
    }
}

#[test]
fn links_lead_to_pages_of_reports_or_else_to_reports() {
    let root = "night #1 \"100%\" a:b?";
    let finished = triage(&["--format", "html", "-o", "out/pages/all.html", root], |folder| {
        let (a, b) = (hang(A), hang(B));
        Farm::starting(folder.join(root), None, 2, FIRST_NIGHT)
            .vm("a/x=\"1\" '</script>", &[(Status::Hang, Some(&a))])
            .vm("b", &[(Status::Hang, Some(&b))])
            .finish();
        fs::write(folder.join(root).join("vms/b/1.1/report.html"), "a page").expect("a file");
        fs::create_dir_all(folder.join("out/pages")).expect("a directory");
    });
    let finished = finished.expect_code(exit::HANG);
    let folder = finished.directory.path().canonicalize().expect("a directory");
    let tail = |path: &PathBuf| path.strip_prefix(folder.join(root)).expect("below").to_owned();
    let found: Vec<PathBuf> = follow(&folder.join("out/pages/all.html")).iter().map(tail).collect();
    let name = nmiscope_farm::results::encode_name("a/x=\"1\" '</script>");
    let wanted = ["vms/b/1.1/report.html".into(), format!("vms/{name}/1.1/report.json")];
    assert_eq!(found, wanted.map(PathBuf::from));
}

#[test]
fn known_failures_have_their_note_and_a_link_only_to_the_web() {
    for (url, is_link) in [
        ("https://bugs.example/1?a=b&c=d", true),
        ("javascript:alert(1)", false),
        ("data:text/html,<script>alert(1)</script>", false),
        ("https://bugs.example/\\\" onclick=\\\"alert(1)", false),
    ] {
        let arguments = ["--format=html", "-o=page.html", "--known=known.toml", "nights"];
        let finished = triage(&arguments, |root| {
            three_nights(root);
            let known = format!(
                "[[known]]\nsignature = \"{A}\"\nurl = \"{url}\"\nnote = \"<b>mind</b>\"\n\
                 [[known]]\nsignature = \"{B}\"\nurl = \"{url}\"\nuntil = 2020-01-01\n"
            );
            fs::write(root.join("known.toml"), known).expect("a file");
        });
        let page = finished.expect_code(exit::HANG).text_of("page.html");
        is_self_contained(&page);
        let addresses = addresses(&page);
        let links = addresses.iter().filter(|address| *address == url).count();
        assert_eq!(links, if is_link { 2 } else { 0 }, "{addresses:?}");
        assert!(addresses.iter().all(|address| !address.contains("alert")), "{addresses:?}");
        for wanted in ["(&#60;b&#62;mind&#60;/b&#62;)", ">known<", "was known until 2020-01-01"] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }
}

#[test]
fn page_of_changes_lists_new_gone_and_flaky() {
    let arguments = ["--format=html", "-o", "changes.html", "--diff", "old", "new"];
    let finished = triage(&arguments, |root| {
        let farm = |name: &str, start| Farm::starting(root.join(name), None, 4, start);
        let (a, b, c) = (hang(A), hang(B), hang("cccccccc00000000"));
        farm("old", FIRST_NIGHT)
            .vm("a", &[(Status::Hang, Some(&a))])
            .vm("dropped", &[(Status::Hang, Some(&c))])
            .vm("<retried>", &[(Status::Pass, None)])
            .finish();
        farm("new", FIRST_NIGHT + DAY)
            .vm("a", &[(Status::Pass, None)])
            .vm("b", &[(Status::Hang, Some(&b))])
            .vm("<retried>", &[(Status::Fail, None), (Status::Pass, None)])
            .finish();
    });
    let finished = finished.expect_code(exit::HANG);
    let page = finished.text_of("changes.html");
    is_self_contained(&page);
    let at = |wanted: &str| page.find(wanted).unwrap_or_else(|| panic!("no {wanted} in {page}"));
    let order = [
        "1 new, 2 gone, 0 stayed; 1 VM became flaky",
        "<h2>New: 1</h2>",
        B,
        "<h2>Gone: 1</h2>",
        A,
        "<h2>Absent, but not run: 1</h2>",
        "cccccccc00000000",
        "<h2>Became flaky: 1</h2>",
        "<li>&#60;retried&#62;</li>",
    ];
    assert!(order.map(at).is_sorted(), "{page}");
    let title = "1 failure from 2026-01-01 to 2026-01-02, on 1 of 2 days, at most 1 a day";
    assert_eq!(page.matches(title).count(), 3, "{page}");
    assert_eq!(follow(&finished.directory.path().join("changes.html")).len(), 3);
}

#[test]
fn report_without_a_farm_is_dated_by_its_capture() {
    let finished = triage(&["--format=json", "runs"], |root| {
        fs::create_dir(root.join("runs")).expect("a directory");
        let mut report: Report = serde_json::from_str(PANIC).expect("a report");
        for (number, time) in [(1, "2026-01-02T23:59:59.999Z"), (2, "2026-01-04T00:00:00.000Z")] {
            report.captured_at = Some(time.into());
            let text = serde_json::to_string(&report).expect("JSON");
            fs::write(root.join(format!("runs/{number}.json")), text).expect("a file");
        }
    });
    let document = document(&finished.expect_code(exit::CRASH));
    let group = &document["groups"][0];
    assert_eq!(group["first_seen"], "2026-01-02T23:59:59.999Z");
    assert_eq!(group["last_seen"], "2026-01-04T00:00:00.000Z");
    let days = json!([{ "day": "2026-01-02", "count": 1 }, { "day": "2026-01-04", "count": 1 }]);
    assert_eq!(group["by_day"], days);
}

#[test]
fn output_file_has_what_standard_output_would_have() {
    for format in ["text", "json", "html"] {
        let on_stdout = triage(&["--format", format, "nights"], three_nights);
        let on_stdout = on_stdout.expect_code(exit::HANG).stdout;
        let dash = triage(&["--format", format, "-o", "-", "nights"], three_nights);
        assert_eq!(dash.expect_code(exit::HANG).stdout, on_stdout);
        let file =
            triage(&["--color=always", "--format", format, "-o", "out", "nights"], three_nights);
        assert_eq!(file.expect_code(exit::HANG).text_of("out"), on_stdout, "{format}");
    }
    // The name of the option before pages existed.
    triage(&["--message-format", "json", "nights"], three_nights).expect_code(exit::HANG);
    triage(&["-o", "no/such/folder/page.html", "nights"], three_nights).expect_code(exit::USAGE);
}

#[test]
fn page_of_many_groups_shows_the_first_thousand() {
    let finished = triage(&["--format=html", "-o=page.html", "results"], |root| {
        let mut farm = Farm::starting(root.join("results"), None, 1001, FIRST_NIGHT);
        for number in 0..1001 {
            // The journal alone has the hang.
            farm.hang_without_report(&format!("vm{number}"), &format!("{number:016x}"));
        }
        farm.finish();
    });
    let page = finished.expect_code(exit::HANG).text_of("page.html");
    assert!(page.contains("<h2>Groups: 1001</h2>"), "the number of all groups");
    assert!(page.contains("<p>1 more group is left out here.</p>"));
    assert_eq!(page.matches("<td data-label=\"Exemplar\">no report</td>").count(), 1000);
}
