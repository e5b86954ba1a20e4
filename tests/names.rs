//! Names that a user writes: `nmiscope list` prints them, completion offers them, and a wrong one is refused
//! before a guest boots; so are kernel parameters that contradict each other.

use std::collections::BTreeSet;

use crate::common::*;
use clap::ValueEnum as _;
use nmiscope::hang::Class;
use nmiscope_farm::lists;

/// The workloads by the guest's own table: the files that it compiles, and the name in each.
fn workloads_of_the_guest() -> BTreeSet<String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/src/workload");
    let mut names = BTreeSet::new();
    for file in files(source.as_ref()) {
        let text = std::fs::read_to_string(format!("{source}/{file}")).expect("a source file");
        let table = text.lines().find(|line| line.contains("pub static WORKLOAD: Workload ="));
        let Some(start) = table.and_then(|line| text.find(line)) else { continue };
        let (_, rest) = text[start..].split_once("name: \"").expect("a name");
        names.insert(rest.split('"').next().expect("a closing quote").to_owned());
    }
    names
}

#[test]
fn list_prints_the_guests_workloads_one_name_a_line_into_a_pipe() {
    let finished = nmiscope(["list", "workloads"]).run().expect_code(exit::CLEAN);
    let names: BTreeSet<String> = finished.stdout.lines().map(str::to_owned).collect();
    assert_eq!(names, workloads_of_the_guest());
    assert_eq!(finished.stdout.lines().count(), names.len());
    assert_eq!(finished.stderr, "");
}

#[test]
fn list_prints_every_class_that_hang_after_takes() {
    let finished = nmiscope(["list", "classes"]).run().expect_code(exit::CLEAN);
    let names: Vec<&str> = finished.stdout.lines().collect();
    let classes: Vec<&str> = Class::value_variants().iter().map(|class| class.name()).collect();
    assert_eq!(names, classes);
}

#[test]
fn listed_json_is_valid_by_its_schema_and_has_the_expected_end() {
    let schema = serde_json::from_str(include_str!("../docs/list.schema.json")).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    for kind in ["workloads", "classes"] {
        let finished = nmiscope(["list", kind, "--message-format", "json"]).run();
        for line in finished.expect_code(exit::CLEAN).stdout.lines() {
            let item: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(schema.is_valid(&item), "{item}");
            assert!(item["summary"].as_str().is_some_and(|text| text.len() > 10), "{item}");
            if item["name"] == "abba-deadlock" {
                assert_eq!((&item["expect"], &item["min_cpus"]), (&"deadlock".into(), &2.into()));
            }
        }
    }
    assert_eq!(lists::workloads().len(), workloads_of_the_guest().len());
}

#[test]
fn an_unknown_kind_of_list_is_refused_with_those_there_are() {
    let finished = nmiscope(["list", "workload"]).run().expect_code(exit::USAGE);
    assert!(finished.stderr.contains("workloads"), "{}", finished.all());
}

#[test]
fn a_misspelled_workload_is_refused_with_the_nearest_name() {
    let meant = [("abba-dedlock", "abba-deadlock"), ("spin_irqs_off", "spin-irqs-off")];
    for (name, meant) in meant {
        let wanted = format!("no workload `{name}`; did you mean `{meant}`?");
        refused(nmiscope(["run", "--workload", name]), &wanted);
        let suite = format!("[[vm]]\nname = 'a'\nworkload = '{name}'\n");
        let farm = nmiscope(["farm", "s.toml"]).with_file("s.toml", suite.as_bytes());
        let stderr = farm.run().expect_code(exit::USAGE).stderr;
        assert!(stderr.starts_with(&format!("error: s.toml:3:12: {wanted}\n")), "{stderr}");
    }
    refused(nmiscope(["run", "--workload", "qqq"]), "`nmiscope list workloads` names them all");
    refused(nmiscope(["run", "--workload", ""]), "no workload ``");
}

#[test]
fn completion_offers_the_names_of_workloads_and_takes_others() {
    for shell in ["bash", "zsh", "fish"] {
        let script = nmiscope(["completions", shell]).run().expect_code(exit::CLEAN).stdout;
        for workload in workloads_of_the_guest() {
            assert!(script.contains(&workload), "{workload}, {shell}");
        }
    }
    // Another kernel has workloads of its own, which no list here has.
    refused(nmiscope(["run", "no-such-image", "--workload", "mine"]), "no-such-image");
}

/// Asks bash itself what it would offer behind `nmiscope run --workload abb`.
#[test]
fn bash_completes_the_start_of_a_workload() {
    let script = nmiscope(["completions", "bash"]).run().expect_code(exit::CLEAN).stdout;
    let ask = "\nCOMP_WORDS=(nmiscope run --workload abb); COMP_CWORD=3\n\
               _nmiscope nmiscope abb --workload; echo \"${COMPREPLY[@]}\"\n";
    let bash = program(std::process::Command::new("bash"), ["-c", &(script + ask)]).run();
    assert_eq!(bash.expect_code(exit::CLEAN).stdout, "abba-deadlock\n");
}

#[test]
fn a_kernel_parameter_given_twice_is_refused_before_boot() {
    let rows = [
        (&["--append", "loglevel=8 loglevel=3"][..], "`loglevel` is given twice"),
        (&["--workload", "exit", "--append", "nox2apic nox2apic"], "`nox2apic` is given twice"),
        (&["--workload", "exit", "--append", "workload=idle"], "only there"),
        (&["--append", "workload=exit"], "--workload exit"),
        (&["--append=-- workload=exit"], "--workload exit"),
    ];
    for (arguments, wanted) in rows {
        refused(nmiscope(["run"]).args(arguments), wanted);
    }
    let image = nmiscope::bundled::image();
    let own = |append: &str| {
        let arguments = ["run", "own.elf", "--workload", "exit", "--append", append];
        nmiscope(arguments).with_file("own.elf", image)
    };
    refused(own("workload=idle"), "`workload` is given twice, as `workload=exit`");
    refused(own("a=1 b a=2"), "`a` is given twice, as `a=1` and as `a=2`");
    // Linux prints to both of these consoles.
    require_kvm();
    own("console=ttyS0 console=tty0").run().expect_code(exit::CLEAN);
}

#[test]
fn a_suite_with_the_workload_in_append_is_refused() {
    let rows = [
        ("image = 'bundled'\nappend = 'workload=exit'", "4:10", "workload = \"exit\""),
        ("append = 'quiet workload=exit'", "3:10", "the key `workload` names"),
        ("image = 'bundled'\nappend = '-- workload=exit'", "4:10", "the key `workload` names"),
        ("append = 'x=\"a workload=exit'", "3:10", "the key `workload` names"),
        ("workload = 'exit'\nappend = 'workload=idle'", "4:10", "the key `workload` names"),
        ("workload = '*'\nappend = 'workload=idle'", "4:10", "the key `workload` names"),
        (
            "workload = 'exit'\nmatrix = { append = ['', 'workload=idle'] }",
            "4:26",
            "the key `workload` names",
        ),
        ("image = 'k.elf'\nworkload = 'a'\nappend = 'workload=b'", "5:10", "given twice"),
        ("workload = 'exit'\nappend = 'exit_code=1 exit_code=2'", "4:10", "`exit_code` is given"),
        ("image = 'k.elf'\nappend = 'a=1 a=2'", "4:10", "`a` is given twice"),
    ];
    for (vm, place, wanted) in rows {
        let suite = format!("[[vm]]\nname = 'a'\n{vm}\n");
        let farm = nmiscope(["farm", "s.toml", "--list"]).with_file("s.toml", suite.as_bytes());
        let stderr = farm.run().expect_code(exit::USAGE).stderr;
        assert!(stderr.starts_with(&format!("error: s.toml:{place}: ")), "{vm}: {stderr}");
        assert!(stderr.contains(wanted), "{vm}: {stderr}");
    }
    // A mistake in the defaults is one mistake, however many VMs have it.
    let suite = b"[defaults]\nappend = 'workload=exit'\n[[vm]]\nname = 'a'\n[[vm]]\nname = 'b'\n";
    let farm = nmiscope(["farm", "s.toml", "--list"]).with_file("s.toml", suite);
    let stderr = farm.run().expect_code(exit::USAGE).stderr;
    assert_eq!(stderr.matches("s.toml:").count(), 1, "{stderr}");
    let fine = b"[[vm]]\nname = 'a'\nimage = 'k.elf'\nappend = 'workload=x console=a console=b'\n";
    let farm = nmiscope(["farm", "s.toml", "--list"]).with_file("s.toml", fine);
    assert_eq!(farm.run().expect_code(exit::CLEAN).stdout, "a\n");
}
