//! Tests of suites: texts, and the VMs or mistakes that they stand for.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nmiscope_report::Class;
use nmiscope_report::hang_after::HangAfter;
use proptest::prelude::*;

use super::*;
use crate::corpus::{self, Expected};

fn suite(text: &str) -> Suite {
    match Suite::parse(text.into(), Path::new("suite.toml"), Path::new("/suites")) {
        Ok(suite) => suite,
        Err(error) => panic!("{error}\n{text}"),
    }
}

fn mistakes(text: &str) -> Vec<String> {
    match Suite::parse(text.into(), Path::new("suite.toml"), Path::new("/suites")) {
        Ok(suite) => panic!("{} VMs of\n{text}", suite.vms.len()),
        Err(SuiteError::Unreadable { .. }) => unreachable!("nothing is read"),
        Err(SuiteError::Invalid { diagnostics, .. }) => {
            let found =
                |wrong: &Diagnostic| format!("{}:{}: {}", wrong.line, wrong.column, wrong.message);
            diagnostics.iter().map(found).collect()
        }
    }
}

fn names(suite: &Suite) -> Vec<&str> {
    suite.vms.iter().map(|vm| vm.name.as_str()).collect()
}

#[test]
fn vm_without_settings_has_the_defaults_of_run() {
    let suite = suite("[[vm]]\nname = 'boot'\nworkload = 'exit'\n");
    let wanted = SuiteVm {
        name: "boot".into(),
        image: None,
        initrd: None,
        workload: Some("exit".into()),
        append: String::new(),
        cpus: 4,
        memory: 64 << 20,
        time_limit: Duration::from_secs(60),
        stop_after: None,
        ready_within: Duration::from_secs(30),
        hang_after: vec!["2s".into(), "sleepers=120s".into()],
        retries: 0,
        tags: BTreeSet::new(),
        expect: Expectation::Pass,
        console: ConsoleRules::default(),
    };
    assert_eq!(suite.vms, [wanted]);
    assert_eq!(suite.left_out, []);
}

#[test]
fn every_key_of_a_vm_overrides_its_default() {
    let suite = suite(
        r#"
        [defaults]
        image = "bundled"
        cpus = 2
        memory = "128M"
        append = "quiet"
        tags = ["all"]
        retries = 1
        console = { must = ["ready"] }

        [[vm]]
        name = "one"
        image = "kernels/one.elf"
        initrd = "/boot/one.cpio"
        workload = "whatever"
        append = " loglevel=7 "
        cpus = 512
        memory = "1G"
        time-limit = "2m"
        stop-after = "500ms"
        ready-within = "0"
        hang-after = { general = "1s", dead-halt = "0", starved = "9s" }
        retries = 3
        tags = ["smoke", "slow"]
        expect = { hang = "lost-wakeup", blamed = ["worker", "cpu511"] }
        console.must-not = ["BUG", 'WARN(ING)?\b']

        [[vm]]
        name = "two"
        workload = "idle"
        hang-after = ["3s", "livelock=10s"]
        "#,
    );
    let [one, two] = &suite.vms[..] else { panic!("{suite:?}") };
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    assert_eq!(one.image.as_deref(), Some(Path::new("/suites/kernels/one.elf")));
    assert_eq!(one.initrd.as_deref(), Some(Path::new("/boot/one.cpio")));
    assert_eq!(one.workload.as_deref(), Some("whatever"));
    assert_eq!((one.append.as_str(), one.cpus, one.memory), ("loglevel=7", 512, 1 << 30));
    assert_eq!(one.time_limit, Duration::from_secs(120));
    assert_eq!(one.stop_after, Some(Duration::from_millis(500)));
    assert_eq!((one.ready_within, one.retries), (Duration::ZERO, 3));
    assert_eq!(one.hang_after, ["1s", "dead-halt=0", "starved=9s"]);
    assert_eq!(one.tags, BTreeSet::from(["slow".into(), "smoke".into()]));
    let blamed = Some(BTreeSet::from(["cpu511".into(), "worker".into()]));
    assert_eq!(one.expect, Expectation::Hang { class: Some(Class::LostWakeup), blamed });
    let must_not = words(&["BUG", r"WARN(ING)?\b"]);
    assert_eq!(one.console, ConsoleRules { must: vec![], must_not });
    assert_eq!((two.append.as_str(), two.cpus, two.memory), ("quiet", 2, 128 << 20));
    assert_eq!((two.retries, &two.tags), (1, &BTreeSet::from(["all".into()])));
    assert_eq!(two.hang_after, ["3s", "livelock=10s"]);
    assert_eq!(two.console, ConsoleRules { must: words(&["ready"]), must_not: vec![] });
}

#[test]
fn expectations_parse_from_words_and_tables() {
    let hang = |class, blamed: Option<&[&str]>| Expectation::Hang {
        class,
        blamed: blamed.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
    };
    let rows = [
        (r#""pass""#, Expectation::Pass),
        ("{ exit = 3 }", Expectation::Exit { code: 3 }),
        (r#""hang""#, hang(None, None)),
        (r#"{ hang = "any" }"#, hang(None, None)),
        (r#"{ hang = "silent" }"#, hang(Some(Class::Silent), None)),
        (r#"{ hang = "any", blamed = ["cpu3"] }"#, hang(None, Some(&["cpu3"]))),
        (r#""panic""#, Expectation::Panic { message: None }),
        (r#"{ panic = "oops" }"#, Expectation::Panic { message: Some("oops".into()) }),
        (r#""crash""#, Expectation::Crash),
        ("{ crash = true }", Expectation::Crash),
    ];
    for (written, expect) in rows {
        let suite = suite(&format!("[[vm]]\nname = 'x'\nimage = 'x'\nexpect = {written}\n"));
        assert_eq!(suite.vms[0].expect, expect, "{written}");
    }
}

/// Line in tests/former: written by the former version, which hashed VMs in this form, so that a farm that
/// resumes its run recognises them.
#[test]
fn vm_serializes_for_the_hash_as_in_version_1() {
    let suite = suite(ABBA);
    let former = include_str!("../../tests/former/vm.json");
    assert_eq!(serde_json::to_string(&suite.vms[0]).unwrap(), former.trim_end());
}

#[test]
fn listed_vm_has_durations_in_milliseconds_and_memory_in_bytes() {
    let suite = suite(ABBA);
    let listed = serde_json::to_value(ListedVm::from(&suite.vms[0])).unwrap();
    let expected = serde_json::json!({
        "schema_version": 1, "name": "abba", "image": null, "initrd": null,
        "workload": "abba-deadlock", "append": "", "cpus": 2, "memory_bytes": 16 << 20,
        "time_limit_ms": 20_000.0, "stop_after_ms": null, "ready_within_ms": 30_000.0,
        "hang_after": ["500ms"], "retries": 1, "tags": [], "expect": {"kind": "pass"},
        "console": {"must": [], "must_not": []},
    });
    assert_eq!(listed, expected);
}

/// Suite of the VM in tests/former.
const ABBA: &str = "[[vm]]\nname = 'abba'\nworkload = 'abba-deadlock'\nretries = 1\ncpus = 2\n\
                    memory = '16M'\ntime-limit = '20s'\nhang-after = '500ms'\n";

#[test]
fn matrix_makes_and_names_every_combination() {
    let vm = "[[vm]]\nname = 'a/b'\nimage = 'x'\n";
    let rows: [(&str, &[&str]); 4] = [
        ("cpus = [8, 1]", &["a/b/cpus=8", "a/b/cpus=1"]),
        ("append = ['', 'x y']", &["a/b/append=", "a/b/append=x y"]),
        ("memory = ['64M', ' 1g']", &["a/b/memory=64M", "a/b/memory=1g"]),
        (
            "append = ['x', 'y'], memory = ['4096'], cpus = [1, 2]",
            &[
                "a/b/cpus=1/memory=4096/append=x",
                "a/b/cpus=1/memory=4096/append=y",
                "a/b/cpus=2/memory=4096/append=x",
                "a/b/cpus=2/memory=4096/append=y",
            ],
        ),
    ];
    for (matrix, wanted) in rows {
        let suite = suite(&format!("{vm}matrix = {{ {matrix} }}\n"));
        assert_eq!(names(&suite), wanted);
    }
    let defaults = "[defaults]\ncpus = 7\nappend = 'quiet'\n";
    let suite = suite(&format!("{defaults}{vm}[vm.matrix]\ncpus = [1, 2]\nappend = ['loud']\n"));
    let made: Vec<(u32, &str)> = suite.vms.iter().map(|vm| (vm.cpus, vm.append.as_str())).collect();
    assert_eq!(made, [(1, "loud"), (2, "loud")]);
}

#[test]
fn corpus_vms_expect_what_their_labels_say() {
    let text = "[[vm]]\nname = 'corpus'\nworkload = '*'\nstop-after = '7s'\n\
                matrix = { cpus = [1, 2, 8] }\n";
    let suite = suite(text);
    assert_eq!(suite.vms.len() + suite.left_out.len(), 3 * corpus::ROWS.len());
    for vm in &suite.vms {
        let row = corpus::find(vm.workload.as_deref().unwrap()).expect("a workload");
        assert_eq!(vm.name, format!("corpus/{}/cpus={}", row.name, vm.cpus));
        assert!(vm.cpus >= row.min_cpus(), "{}", vm.name);
        let healthy = row.expected() == Expected::Healthy;
        let stop_after = healthy.then_some(Duration::from_secs(7));
        assert_eq!(vm.stop_after, stop_after, "{}", vm.name);
    }
    let blamed = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
    let hang =
        |class, names: &[&str]| Expectation::Hang { class: Some(class), blamed: blamed(names) };
    let rows = [
        ("abba-deadlock/cpus=2", hang(Class::Deadlock, &["cpu0", "cpu1"])),
        ("spin-irqs-off/cpus=1", hang(Class::HardLockup, &["cpu0"])),
        ("spin-irqs-off/cpus=8", hang(Class::HardLockup, &["cpu4"])),
        ("lost-wakeup/cpus=8", hang(Class::LostWakeup, &["worker"])),
        ("ap-never-starts/cpus=8", hang(Class::BootStall, &["cpu7"])),
        ("panic/cpus=1", Expectation::Panic { message: None }),
        ("triple-fault/cpus=1", Expectation::Crash),
        ("exit/cpus=1", Expectation::Pass),
        ("idle/cpus=1", Expectation::Pass),
    ];
    for (name, expect) in rows {
        let vm = suite.vms.iter().find(|vm| vm.name == format!("corpus/{name}"));
        assert_eq!(vm.expect(name).expect, expect, "{name}");
    }
    let left_out = suite.left_out.iter().find(|vm| vm.name == "corpus/three-lock-cycle/cpus=2");
    assert_eq!(left_out.expect("too few vCPUs").reason, "three-lock-cycle needs 3 vCPUs, not 2");
}

#[test]
fn corpus_vms_end_by_themselves_under_any_settings() {
    let rows = [
        ("", 4, 5),
        ("time-limit = '4s'\n", 2, 5),
        ("[defaults]\nready-within = '9s'\n[[vm]]\nname = 'other'\nimage = 'x'\n", 4, 9),
    ];
    for (more, healthy, ready_within) in rows {
        let corpus = "[[vm]]\nname = 'corpus'\nworkload = '*'\n";
        let suite = suite(&format!("{corpus}{more}"));
        let find = |name: &str| suite.vms.iter().find(|vm| vm.name.ends_with(name)).unwrap();
        assert_eq!(find("/idle").stop_after, Some(Duration::from_secs(healthy)), "{more}");
        assert_eq!(find("/livelock").stop_after, None, "{more}");
        assert_eq!(find("/boot-stall").ready_within, Duration::from_secs(ready_within), "{more}");
    }
}

#[test]
fn bundled_image_without_a_workload_means_the_whole_corpus() {
    let names =
        |text: &str| -> Vec<String> { suite(text).vms.into_iter().map(|vm| vm.name).collect() };
    let all = names("[[vm]]\nname = 'corpus'\nworkload = '*'\n");
    assert!(all.len() > 40);
    assert_eq!(names("[[vm]]\nname = 'corpus'\nimage = 'bundled'\n"), all);
    assert_eq!(names("[defaults]\nimage = 'bundled'\n[[vm]]\nname = 'corpus'\n"), all);
}

#[test]
fn mistakes_are_located_by_line_and_column() {
    let vm = "[[vm]]\nname = 'x'\nimage = 'x'\n";
    let bundled = "[[vm]]\nname = 'x'\n";
    let rows: &[(&str, &str, &str)] = &[
        // Syntax of TOML.
        (vm, "cpus = \n", "4:8: string values must be quoted"),
        (vm, "cpus = 1\ncpus = 2\n", "5:1: duplicate key"),
        // Unknown keys.
        (vm, "cpu = 3\n", "4:1: unknown key `cpu`; did you mean `cpus`?"),
        (vm, "nam = 'x'\n", "4:1: unknown key `nam`; did you mean `name`?"),
        (vm, "time_limit = '3s'\n", "4:1: unknown key `time_limit`; did you mean `time-limit`?"),
        (vm, "matrix = { cpu = [1] }\n", "4:12: unknown key `cpu`; did you mean `cpus`?"),
        (vm, "console.mustnot = []\n", "4:9: unknown key `mustnot`; did you mean `must-not`?"),
        (vm, "[vm.console]\nmusst = []\n", "5:1: unknown key `musst`; did you mean `must`?"),
        (vm, "[default]\n", "4:2: unknown key `default`; did you mean `defaults`?"),
        (vm, "[defaults]\nname = 'y'\n", "5:1: unknown key `name`; there are image, "),
        // Wrong types and values.
        (vm, "cpus = '3'\n", "4:8: invalid type: string \"3\", expected a number of vCPUs"),
        (vm, "cpus = 0\n", "4:8: 0 vCPUs: 1 to 512 are possible"),
        (vm, "cpus = 513\n", "4:8: 513 vCPUs: 1 to 512 are possible"),
        (vm, "cpus = -1\n", "4:8: -1 vCPUs"),
        (vm, "memory = 64\n", "4:10: invalid type: integer `64`, expected a size in quotes"),
        (vm, "memory = '64X'\n", "4:10: expected a number of bytes, as in 64M or 1G"),
        (vm, "memory = '0M'\n", "4:10: no memory at all"),
        (vm, "time-limit = 3\n", "4:14: invalid type: integer `3`, expected a duration in quotes"),
        (vm, "time-limit = '3'\n", "4:14: time unit needed"),
        (vm, "time-limit = '0'\n", "4:14: no time at all"),
        (vm, "stop-after = '1x'\n", "4:14: unknown time unit \"x\""),
        (vm, "stop-after = '60s'\n", "2:8: `stop-after` (60s) is not before `time-limit` (60s)"),
        (vm, "retries = -1\n", "4:11: invalid value: integer `-1`, expected u32"),
        (vm, "tags = 'a'\n", "4:8: invalid type: string \"a\", expected a sequence"),
        (vm, "tags = ['a', 'b c']\n", "4:14: a tag is one word"),
        (vm, "append = \"a\\nb\"\n", "4:10: a control character"),
        (vm, "workload = 'a b'\n", "4:12: the name of a workload is one word"),
        ("[[vm]]\nname = ''\n", "image = 'x'\n", "2:8: a name is not empty"),
        ("[[vm]]\nname = \"a\\u001b\"\n", "image = 'x'\n", "2:8: a control character in a name"),
        ("[[vm]]\nname = 7\n", "image = 'x'\n", "2:8: invalid type: integer `7`, expected a name"),
        ("[[vm]]\nimage = 'x'\n", "", "1:1: a VM without a `name`"),
        ("vm = 3\n", "", "1:6: VMs are written as [[vm]]"),
        ("vm = [3]\n", "", "1:7: a VM is a table"),
        ("defaults = 3\nvm = [{name = 'x', image = 'x'}]\n", "", "1:12: invalid type: integer `3`"),
        ("", "", "1:1: no [[vm]]"),
        // Hang bounds.
        (vm, "hang-after = '1ms'\n", "4:14: too short to sample the guest twice"),
        (vm, "hang-after = 'livelok=3s'\n", "4:14: no class `livelok`; did you mean `livelock`?"),
        (vm, "hang-after = ['3s', 'x=3s']\n", "4:21: no class `x`; there are deadlock, "),
        (vm, "hang-after = { livelok = '3s' }\n", "4:16: unknown key `livelok`; did you mean `liv"),
        (vm, "hang-after = { silent = 'starved=3s' }\n", "4:25: expected a duration"),
        (vm, "hang-after = 3\n", "4:14: invalid type: integer `3`, expected a duration in quotes"),
        // Expected ends.
        (vm, "expect = 'pas'\n", "4:10: unknown word `pas`; did you mean `pass`?"),
        (vm, "expect = 3\n", "4:10: invalid type: integer `3`, expected \"pass\", or a table"),
        (vm, "expect = {}\n", "4:10: expected one way to end"),
        (vm, "expect = { exit = 1, crash = true }\n", "4:10: expected one way to end"),
        (vm, "expect = { exit = -1 }\n", "4:19: invalid value: integer `-1`, expected u32"),
        (vm, "expect = { crash = false }\n", "4:10: to expect no crash"),
        (vm, "expect = { hnag = 'any' }\n", "4:12: unknown key `hnag`; did you mean `hang`?"),
        (
            vm,
            "expect = { hang = 'dedlock' }\n",
            "4:19: no class of hangs `dedlock`; did you mean `de",
        ),
        (vm, "expect = { blamed = ['cpu0'] }\n", "4:10: `blamed` is for hangs"),
        (vm, "expect = { hang = 'any', blamed = [] }\n", "4:10: `blamed` is empty"),
        (vm, "expect = { hang = 'any', blamed = ['cpu4'] }\n", "4:10: `cpu4` cannot be to blame"),
        (vm, "expect = { panic = '(' }\n", "4:20: no regular expression: unclosed group"),
        (vm, "console = { must = ['a', '[z-a]'] }\n", "4:26: no regular expression: invalid char"),
        // Matrices.
        (vm, "matrix = {}\n", "4:10: an empty matrix"),
        (vm, "matrix = { cpus = [] }\n", "4:19: no value for `cpus`"),
        (
            vm,
            "matrix = { cpus = [1, 1] }\n",
            "4:23: the same value twice; the first one is in line 4",
        ),
        (vm, "matrix = { memory = ['1M', '1024K'] }\n", "4:28: the same value twice"),
        (vm, "matrix = { cpus = [1, 0] }\n", "4:23: 0 vCPUs"),
        (vm, "matrix = 3\n", "4:10: invalid type: integer `3`"),
        (vm, "cpus = 2\nmatrix = { cpus = [1] }\n", "4:8: `cpus` is in the matrix too"),
        // Names.
        (
            vm,
            "[[vm]]\nname = 'x'\nimage = 'y'\n",
            "5:8: two VMs are called `x`; the first one is in ",
        ),
        (
            "[[vm]]\nname = 'x/cpus=2'\nimage = 'x'\n",
            "[[vm]]\nname = 'x'\nimage = 'x'\nmatrix.cpus = [1, 2]\n",
            "5:8: two VMs are called `x/cpus=2`; the first one is in line 2",
        ),
        // Workloads.
        (bundled, "", "2:8: the bundled guest does nothing without a `workload`"),
        (
            bundled,
            "workload = 'livelok'\n",
            "3:12: no workload `livelok`; did you mean `livelock`?",
        ),
        (bundled, "workload = 'livelock'\ncpus = 1\n", "3:12: `x`: livelock needs 2 vCPUs, not 1"),
        (
            bundled,
            "workload = '*'\nexpect = 'pass'\n",
            "4:10: with all workloads, each is expected",
        ),
        (vm, "workload = '*'\n", "4:12: `*` needs the bundled guest"),
    ];
    for (before, after, wanted) in rows {
        let text = format!("{before}{after}");
        let found = mistakes(&text);
        assert!(found[0].starts_with(wanted) && found.len() == 1, "{wanted}\n{found:#?}\n{text}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_order() {
    let found = mistakes(
        "defalts = 1\n\
         [defaults]\ncpus = 0\nmemory = 'x'\n\
         [[vm]]\nnaem = 'a'\ncpus = 'x'\nexpect = { hang = 'no' }\n\
         [vm.matrix]\nmemory = ['1M', 'x', 'y']\n\
         [[vm]]\nname = 'b'\ntime-limit = '0'\nretry = 3\nconsole.must = ['(', 'a', '(']\n",
    );
    let places: Vec<&str> = found.iter().map(|found| found.split(": ").next().unwrap()).collect();
    let wanted = [
        "1:1", "3:8", "4:10", "5:1", "6:1", "7:8", "8:19", "10:17", "13:14", "14:1", "15:17",
        "15:27",
    ];
    assert_eq!(places, wanted, "{found:#?}");
}

#[test]
fn mistake_is_shown_with_its_line_and_a_mark() {
    let text = "[[vm]]\nname = \"boot\"\ncpu = 3\n";
    let error = Suite::parse(text.into(), Path::new("a/suite.toml"), Path::new("/")).unwrap_err();
    let shown =
        "a/suite.toml:3:1: unknown key `cpu`; did you mean `cpus`?\n  3 | cpu = 3\n    | ^^^";
    assert_eq!(error.to_string(), shown);
}

#[test]
fn oversized_matrix_is_refused_before_it_is_expanded() {
    let values: Vec<String> = (0..400).map(|value| format!("'{value}'")).collect();
    let (values, cpus) = (values.join(", "), (1..=400).map(|cpus| cpus.to_string()));
    let cpus = cpus.collect::<Vec<_>>().join(", ");
    let text = format!(
        "[[vm]]\nname = 'x'\nimage = 'x'\nmatrix = {{ append = [{values}], cpus = [{cpus}] }}\n"
    );
    assert_eq!(mistakes(&text), ["2:8: the suite has more than 100000 VMs with these"]);
}

#[test]
fn relative_images_are_resolved_beside_the_suites_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("suite.toml");
    let missing = Suite::load(&path).unwrap_err();
    assert!(missing.to_string().contains("suite.toml"), "{missing}");
    std::fs::write(&path, "[[vm]]\nname = 'x'\nimage = 'kernel'\n").unwrap();
    let suite = Suite::load(&path).unwrap();
    assert_eq!(suite.vms[0].image.as_deref(), Some(&*directory.path().join("kernel")));
    std::fs::write(&path, b"[[vm]]\nname = '\xff'\n").unwrap();
    let error = Suite::load(&path).unwrap_err().to_string();
    assert!(error.contains("suite.toml:2:9: this is not UTF-8"), "{error}");
}

#[test]
fn table_of_bounds_has_a_key_for_every_class() {
    let keys = serde_json::from_str::<serde_json::Value>(&schema()).unwrap();
    let keys = keys["$defs"]["BoundsByClass"]["properties"].as_object().unwrap().keys();
    for key in keys.filter(|key| *key != "general") {
        assert!(format!("{key}=3s").parse::<HangAfter>().is_ok(), "{key}");
        let text = format!("[[vm]]\nname = 'x'\nimage = 'x'\nhang-after = {{ {key} = '3s' }}\n");
        assert_eq!(suite(&text).vms[0].hang_after, [format!("{key}=3s")]);
    }
    for class in <Class as clap::ValueEnum>::value_variants() {
        let key = class.name();
        let text = format!("[[vm]]\nname = 'x'\nimage = 'x'\nhang-after.{key} = '3s'\n");
        let read = Suite::parse(text, Path::new(""), Path::new(""));
        assert_eq!(read.is_ok(), *class != Class::BootStall, "{key}");
    }
}

/// Suite with many kinds of values, for mutation.
const LIVELY: &str = r#"
[defaults]
hang-after = { general = "2s", livelock = '3s' }
[[vm]]
name = "ä/x" # ö
workload = "*"
matrix = { cpus = [1, 2], append = ["", "ü"] }
console.must = ["""
a""", 'b']
[[vm]]
name = 'y'
image = "k"
expect = { hang = 'any', blamed = ["cpu0"] }
[vm.matrix]
memory = ['64M']
"#;

proptest! {
    /// Mutation: replacing one piece of the suite by another makes most kinds of mistakes.
    #[test]
    fn mutated_suite_parses_or_has_printable_mistakes(
        from in 0..LIVELY.len(),
        length in 0..12usize,
        to in 0..LIVELY.len(),
        inserted in 0..12usize,
        more in "[\\[\\]{}=,'\"\n\tä\u{0}0-9]{0,2}",
    ) {
        let piece = |from: usize, length: usize| {
            let end = LIVELY.floor_char_boundary((from + length).min(LIVELY.len()));
            LIVELY.floor_char_boundary(from)..end
        };
        let mut text = LIVELY.to_owned();
        text.replace_range(piece(from, length), &LIVELY[piece(to, inserted)]);
        text.insert_str(piece(from, 0).start, &more);
        if let Err(error) = Suite::parse(text, Path::new("suite.toml"), Path::new("/")) {
            prop_assert!(error.to_string().lines().count() >= 3, "{}", error);
        }
    }
}
