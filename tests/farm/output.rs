//! Texts that a farm leaves for people: lines by their level, the rate of a hunt, text beside each report, failures
//! in JUnit that need no other file, and directories that a shell takes as they are.

use std::process::Command;

use super::site::*;
use crate::common::*;
use crate::sign_of_life::on_terminal;
use quick_junit::{Report as JunitReport, TestCaseStatus};

/// Suite with a pass, a failure and a hang, the names of which a shell would take apart.
const SUITE: &str = r#"
[defaults]
cpus = 2
hang-after = "300ms"

[[vm]]
name = "fine/append=a b"
workload = "exit"

[[vm]]
name = "wrong; code"
workload = "exit"
append = "exit_code=3"

[[vm]]
name = "spin/$(it)"
append = "loglevel=8"
workload = "spin-irqs-off"
"#;

#[test]
fn status_level_and_quiet_select_what_a_farm_prints() {
    let site = Site::new(SUITE);
    let lines = |out: &str, arguments: &[&str]| {
        let farm = nmiscope(["farm", &site.path("suite.toml"), "-j2", "--out", &site.path(out)]);
        let farm = farm.args(arguments).run().expect_code(exit::HANG);
        assert_eq!(farm.stderr, "", "{}", farm.all());
        let word = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let mut words: Vec<String> = farm.stdout.lines().map(word).collect();
        words.retain(|word| word.chars().all(|c| c.is_ascii_uppercase()));
        words.sort();
        (words.join(" "), farm.stdout)
    };
    for (level, wanted) in [("none", ""), ("fail", "FAIL HANG"), ("pass", "FAIL HANG PASS")] {
        let (words, text) = lines(level, &["--status-level", level]);
        assert_eq!(words, wanted, "{text}");
        assert!(text.contains("3 VMs in ") && text.contains("report.json"), "{text}");
    }
    let (words, _) = lines("all", &["--status-level=all"]);
    assert_eq!(words, "FAIL HANG PASS START START START");
    assert_eq!(lines("quiet", &["-q"]).1, "");
    let refused = site.farm(["-q", "--status-level", "fail"]).run().expect_code(exit::USAGE);
    assert!(refused.stderr.contains("--status-level"), "{}", refused.all());
    // Events for programs are no text for people.
    let events = site.farm(["-q", "--filter", "fine"]).run().expect_code(exit::CLEAN);
    assert_eq!(Run::from_output(&events).all_finished().count(), 1);
}

#[test]
fn each_vms_directory_has_its_report_as_text_and_needs_no_quoting() {
    let site = Site::new(SUITE);
    let run = Run::from_output(&site.farm([""; 0]).run().expect_code(exit::HANG));
    for vm in run.all_finished() {
        let directory = site.results().join(&vm.directory);
        let text = std::fs::read_to_string(directory.join("report.txt")).expect("a text");
        let printed = nmiscope(["report", "report.json"]);
        let json = std::fs::read(directory.join("report.json")).expect("a report");
        let printed = printed.with_file("report.json", &json).run();
        assert_eq!(text, printed.stdout, "{}", vm.id.name);
        assert_eq!(vm.files["text"].to_str(), Some("report.txt"));
        // A shell that takes the path apart finds no such file.
        let path = directory.join("report.txt");
        let script =
            format!("for file in {}; do test -e \"$file\" || exit 9; done", path.display());
        let shell = program(Command::new("sh"), ["-c", &script]).run();
        shell.expect_code(exit::CLEAN);
    }
}

#[test]
fn a_junit_failure_has_verdict_blamed_stack_and_the_consoles_end() {
    let site = Site::new(SUITE);
    let junit = site.path("junit.xml");
    let farm = site.farm(["--junit", &junit]).run().expect_code(exit::HANG);
    let xml = std::fs::read_to_string(&junit).expect("a file");
    let report = JunitReport::deserialize_from_str(&xml).expect("JUnit");
    let cases = &report.test_suites[0].test_cases;
    assert!(cases.iter().all(|case| case.classname.as_deref() == Some("suite")), "{xml}");
    let text = |name: &str| {
        let case = cases.iter().find(|case| case.name.as_str() == name).expect("a case");
        match &case.status {
            TestCaseStatus::NonSuccess { description, .. } => {
                description.as_deref().unwrap_or_default().to_owned()
            }
            other => panic!("{other:?}"),
        }
    };
    let hang = text("spin/$(it)");
    assert!(hang.starts_with("hung: hard-lockup"), "{hang}");
    // The functions that the workload's head promises on the blamed stack, and the line before the hang.
    for wanted in ["cpu1", "spin_for_good", "cpu_main", "the end of its console:"] {
        assert!(hang.contains(wanted), "{wanted}: {hang}");
    }
    let finished = Run::from_output(&farm);
    let console = site.results().join(&finished.finished("spin/$(it)").directory);
    let console = std::fs::read_to_string(console.join("console.log")).expect("a console");
    let last = console.lines().last().expect("a line").trim_end_matches('\r');
    assert!(!last.is_empty() && hang.trim_end().ends_with(last), "{last}: {hang}");
    let code = text("wrong; code");
    assert!(code.starts_with("failed: ") && code.contains("code 3"), "{code}");
}

#[test]
fn report_opens_the_report_in_a_directory_or_lists_those_below() {
    let site = Site::new(SUITE);
    let run = Run::from_output(&site.farm([""; 0]).run().expect_code(exit::HANG));
    let report = |path: &str| nmiscope(["report", path]);
    let results = site.path("results");
    let hang = run.finished("spin/$(it)");
    let directory = site.results().join(&hang.directory);
    let printed = report(directory.to_str().expect("UTF-8")).run().expect_code(exit::HANG);
    let text = std::fs::read_to_string(directory.join("report.txt")).expect("a text");
    assert_eq!(printed.stdout, text);
    // The link by which a hang is found is a directory too.
    let link = format!("{results}/{}", &hang.hang.as_ref().expect("a hang").signature[..8]);
    assert_eq!(report(&link).run().expect_code(exit::HANG).stdout, text);

    let listed = report(&results).run().expect_code(exit::CLEAN).stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    for vm in run.all_finished() {
        let path = site.results().join(&vm.directory).join("report.json");
        let line = lines.iter().find(|line| line.starts_with(path.to_str().expect("UTF-8")));
        let summary = site.report(&vm.directory).summary;
        assert!(line.is_some_and(|line| line.ends_with(&summary)), "{summary}: {listed}");
    }
    refused(report(&results).args(["--json", "one.json"]), "3 reports");
    refused(nmiscope(["report", "."]), "has no report");
    let json = std::fs::read(directory.join("report.json")).expect("a report");
    let alone = report(".").with_file("postmortem.json", &json).run().expect_code(exit::HANG);
    assert_eq!(alone.stdout, text);
    // Locals are in the memory that a core has, and in no report made without them.
    let core = std::fs::read(directory.join("hang.core")).expect("a core");
    let both = report(".").with_file("report.json", &json).with_file("hang.core", &core);
    let locals = both.arg("--locals").run().expect_code(exit::HANG);
    assert!(locals.stdout.contains("cpu = "), "{}", locals.all());
}

#[test]
fn every_unusable_image_is_named_before_the_first_vm_starts() {
    let site = Site::new(
        "[[vm]]\nname = 'fine'\nworkload = 'exit'\n\
         [[vm]]\nname = 'text'\nimage = 'text.elf'\n\
         [[vm]]\nname = 'none'\nimage = 'none.elf'\n\
         [[vm]]\nname = 'folder'\nimage = '.'\n\
         [[vm]]\nname = 'small'\nimage = 'guest.elf'\nmatrix = { memory = ['64M', '2M'] }\n\
         [[vm]]\nname = 'disk'\nworkload = 'exit'\ninitrd = 'none.cpio'\n",
    );
    site.write("text.elf", "this is no kernel");
    site.put("guest.elf", nmiscope::bundled::image());
    let farm = site.farm([""; 0]).run().expect_code(exit::USAGE);
    for wanted in ["text.elf", "not an ELF file", "none.elf", "directory", "guest.elf", "none.cpio"]
    {
        assert!(farm.stderr.contains(wanted), "{wanted}: {}", farm.all());
    }
    assert_eq!(farm.stdout, "", "{}", farm.all());
    assert!(!site.results().exists());
}

#[test]
fn a_hunt_shows_its_rate_and_the_time_left() {
    let site = Site::new("[[vm]]\nname = 'fine'\nworkload = 'exit'\ncpus = 1\n");
    let arguments = ["--repeat", "5", "--until-hang"];
    let farm = site.text(arguments).run().expect_code(exit::CLEAN);
    // (1 - p)^5 = 0.05 has the root p = 0.4507.
    assert!(farm.stdout.ends_with(" no hang in 5 runs (rate below 45 %)\n"), "{}", farm.all());

    let site =
        Site::new("[[vm]]\nname = 'bad'\nworkload = 'spin-irqs-off'\nhang-after = '300ms'\n");
    let farm = site.text(arguments).args(["-j1"]).run().expect_code(exit::HANG);
    assert!(farm.stdout.contains("1 hang in 1 run (rate 100 %)"), "{}", farm.all());
    let site = Site::new("[[vm]]\nname = 'fine'\nworkload = 'exit'\ncpus = 1\n");
    let hunt = site.text(["--repeat", "30", "--until-hang"]);
    let bytes = on_terminal(hunt.env("TERM", "xterm"), exit::CLEAN);
    let bar = bytes.split('\r').find(|part| part.contains("no hang (rate < "));
    assert!(bar.is_some_and(|bar| bar.contains(" s left")), "{bytes:?}");

    let site =
        Site::new("[[vm]]\nname = 'bad'\nworkload = 'spin-irqs-off'\nhang-after = '300ms'\n");
    let plain = site.path("plain");
    let suite = site.path("suite.toml");
    let farm = nmiscope(["farm", &suite, "--out", &plain]).run().expect_code(exit::HANG);
    assert!(!farm.stdout.contains("rate"), "{}", farm.all());
    assert_eq!(farm.status.code(), Some(exit::HANG));
}
