//! `nmiscope farm` end to end: every VM gets a verdict, and nothing is lost, whatever happens to the farm,
//! to a VM's process, or to the disk.

mod at_scale;
mod debug_files;
mod faults;
mod output;
mod pages;
pub mod site;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::*;
use nmiscope_farm::event::{EventKind, Status};
use rustix::process::{Signal, kill_process};
use site::*;

/// Suite with a VM of each kind of end.
const SUITE: &str = r#"
[defaults]
cpus = 2
time-limit = "20s"
hang-after = "500ms"

[[vm]]
name = "boot"
workload = "exit"
tags = ["smoke"]
matrix = { cpus = [1, 2] }

[[vm]]
name = "code"
workload = "exit"
append = "exit_code=3"

[[vm]]
name = "storage/abba"
workload = "abba-deadlock"

[[vm]]
name = "panic"
workload = "panic-others-spin"

[[vm]]
name = "expected/hang"
workload = "ipi-wait"
expect = { hang = "hard-lockup", blamed = ["cpu1"] }

[[vm]]
name = "expected/code"
workload = "exit"
append = "exit_code=3"
expect = { exit = 3 }

[[vm]]
name = "other/blame"
workload = "ipi-wait"
expect = { hang = "hard-lockup", blamed = ["cpu0"] }

[[vm]]
name = "silent"
workload = "exit"
console = { must = ["all is well"] }

[[vm]]
name = "endless"
workload = "idle"
time-limit = "1500ms"

[[vm]]
name = "paused"
workload = "idle"
stop-after = "300ms"
"#;

#[test]
fn every_vm_of_a_suite_gets_its_verdict() {
    let site = Site::new(SUITE);
    let farm = site.farm(["--junit", "junit.xml", "--summary", "summary.md"]).run();
    let farm = farm.expect_code(exit::CRASH);
    let run = Run::from_output(&farm);
    let statuses: Vec<(String, Status)> = run.last_tries().into_iter().collect();
    let statuses: Vec<(&str, Status)> =
        statuses.iter().map(|(name, status)| (name.as_str(), *status)).collect();
    assert_eq!(
        statuses,
        [
            ("boot/cpus=1", Status::Pass),
            ("boot/cpus=2", Status::Pass),
            ("code", Status::Fail),
            ("endless", Status::Timeout),
            ("expected/code", Status::Pass),
            ("expected/hang", Status::Pass),
            ("other/blame", Status::Hang),
            ("panic", Status::Crash),
            ("paused", Status::Pass),
            ("silent", Status::Fail),
            ("storage/abba", Status::Hang),
        ]
    );
    assert_eq!(site.journal(), run.events, "the journal has what was printed");

    let abba = run.finished("storage/abba");
    let hang = abba.hang.as_ref().expect("a hang");
    assert_eq!(
        (hang.class.name(), &hang.blamed[..]),
        ("deadlock", &["cpu0".into(), "cpu1".into()][..])
    );
    assert_eq!(hang.locks, ["INODE_LOCK", "JOURNAL_LOCK"]);
    assert!(hang.function.as_deref().is_some_and(|name| name.ends_with("take_second")), "{hang:?}");
    // The link by which the hang is found, and the files behind it.
    let exemplar = site.results().join(&hang.signature[..8]);
    let names =
        ["console.log", "hang.core", "report.html", "report.json", "report.txt", "stderr.log"];
    assert_eq!(files(&exemplar), names);
    let report = std::fs::read_to_string(exemplar.join("report.json")).expect("a report");
    assert_eq!(parse_report(&report).hangs[0].signature, hang.signature);

    // A VM that exceeds its time limit is captured before it ends.
    let endless = site.report(&run.finished("endless").directory);
    assert_eq!(endless.backtraces.len(), 1, "{endless:?}");
    assert!(endless.backtraces[0].cpus.iter().all(answered));
    let reason = |name| run.finished(name).reason.clone().unwrap_or_default();
    assert_eq!(reason("silent"), "no line of its console matches all is well");
    assert_eq!(reason("code"), "it left with code 3");
    assert!(reason("other/blame").contains("should have hung by a hard-lockup of cpu0"));
    for file in ["junit.xml", "summary.md"] {
        assert!(farm.text_of(file).contains("storage/abba"), "{file}");
    }
}

#[test]
fn text_output_has_a_line_per_try_and_a_summary() {
    let site = Site::new(SUITE);
    let farm = site.text(["--filter", "name(^boot|abba)", "--repeat", "2"]).run();
    let farm = farm.expect_code(exit::HANG);
    let lines = |text: &str| farm.stdout.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("PASS"), 4, "{}", farm.all());
    assert_eq!(lines("HANG"), 2, "{}", farm.all());
    assert!(farm.stdout.contains("6 VMs in "), "{}", farm.all());
    assert!(farm.stdout.contains("4 passed, 2 hung (1 distinct)"), "{}", farm.all());
    assert!(farm.stdout.contains("deadlock in take_second"), "{}", farm.all());
}

#[test]
fn list_names_the_planned_vms_and_runs_none() {
    let site = Site::new(SUITE);
    let names = |arguments: &[&str]| -> Vec<String> {
        let listed = site.text(["--list"]).args(arguments).run().expect_code(exit::CLEAN);
        listed.stdout.lines().map(str::to_owned).collect()
    };
    assert_eq!(names(&["--filter", "tag(smoke)"]), ["boot/cpus=1", "boot/cpus=2"]);
    let schema = include_str!("../../docs/farm-list.schema.json");
    let schema = serde_json::from_str(schema).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    for line in names(&["--message-format", "json"]) {
        let vm = serde_json::from_str(&line).expect("JSON");
        assert!(schema.is_valid(&vm), "{line}");
    }
    assert_eq!(names(&[]).len(), 11);
    let parts: Vec<String> =
        (1..=3).flat_map(|part| names(&["--partition", &format!("hash:{part}/3")])).collect();
    assert_eq!(parts.len(), 11);
    let mut shuffled = names(&["--shuffle=7"]);
    assert_eq!(shuffled, names(&["--shuffle=7"]));
    assert_ne!(shuffled, names(&[]));
    shuffled.sort();
    let mut all = names(&[]);
    all.sort();
    assert_eq!(shuffled, all);
    assert!(!site.results().exists());
    refused(site.text(["--filter", "tag(no-such)"]), "--filter selects none of the suite's 11 VMs");
}

#[test]
fn known_hang_does_not_fail_the_run() {
    let site = Site::new(SUITE);
    let first = site.farm(["--filter", "abba"]).run().expect_code(exit::HANG);
    let signature =
        Run::from_output(&first).finished("storage/abba").hang.clone().expect("a hang").signature;
    let known = format!(
        "[[known]]\nsignature = \"{}\"\nurl = \"https://bugs.example/7\"\n",
        &signature[..8]
    );
    let second = Site::new(SUITE);
    second.write("known.toml", &known);
    let known = second.path("known.toml");
    let run = second.farm(["--filter", "abba or boot", "--known", &known]).run();
    let run = Run::from_output(&run.expect_code(exit::CLEAN));
    let abba = run.finished("storage/abba");
    assert_eq!(
        (abba.status, abba.known.as_deref()),
        (Status::Hang, Some("https://bugs.example/7"))
    );
}

/// The bound of 60 s stands for a host too busy for the hang to become due within the time limit.
#[test]
fn hang_developing_at_the_time_limit_is_known_by_its_signature() {
    let suite = r#"
        [defaults]
        hang-after = "60s"
        time-limit = "2s"

        [[vm]]
        name = "abba"
        workload = "abba-deadlock"
        cpus = 2
    "#;
    let site = Site::new(suite);
    let known = "[[known]]\nsignature = \"18709ca8\"\nurl = \"https://bugs.example/7\"\n";
    site.write("known.toml", known);
    let known = site.path("known.toml");
    let run = Run::from_output(&site.farm(["--known", &known]).run().expect_code(exit::CLEAN));
    let abba = run.finished("abba");
    assert_eq!(
        (abba.status, abba.known.as_deref()),
        (Status::Timeout, Some("https://bugs.example/7"))
    );
}

#[test]
fn run_ends_early_on_request_and_can_be_resumed() {
    let site = Site::new(SUITE);
    let hunted = site.farm(["--filter", "abba", "--repeat", "50", "--until-hang", "-j", "2"]).run();
    let run = Run::from_output(&hunted.expect_code(exit::HANG));
    assert_eq!(run.all_finished().count(), 1);
    assert_eq!(run.end().not_run, 49);

    // --until-hang does not retry the hang that it was looking for, nor the runs beside it.
    let site = Site::new(SUITE);
    let hunt =
        ["--filter", "abba or code", "--repeat", "9", "--until-hang", "--retries", "3", "-j", "2"];
    let run = Run::from_output(&site.farm(hunt).run().expect_code(exit::HANG));
    let abba = run.finished("storage/abba");
    assert_eq!((abba.status, abba.again, abba.id.attempt), (Status::Hang, false, 1));
    let after = run
        .events
        .iter()
        .skip_while(|event| !matches!(event.kind, EventKind::FarmInterrupted { .. }));
    let started = after.filter(|event| matches!(event.kind, EventKind::VmStarted(_)));
    assert_eq!(started.count(), 0, "{:?}", run.events);

    let site = Site::new(SUITE);
    let stopped = site.farm(["--fail-fast", "-j", "2"]).run().expect_code(exit::GUEST_FAILED);
    let run = Run::from_output(&stopped);
    assert!(run.last_tries().len() < 11, "{:?}", run.last_tries());
    let resumed = site.farm(["--resume"]).run().expect_code(exit::CRASH);
    let again = Run::from_output(&resumed);
    let start = again.start();
    assert_eq!((start.planned, start.done), (11, run.last_tries().len() as u64));
    let mut all = run.last_tries();
    for (name, status) in again.last_tries() {
        assert_eq!(all.insert(name.clone(), status), None, "{name} has run twice");
    }
    assert_eq!(all.len(), 11);
    assert_eq!(again.end().counts.values().sum::<u64>(), 11, "the end counts all of it");
    let nothing = site.farm(["--resume", "--filter", "not other"]).run().expect_code(exit::CRASH);
    let nothing = Run::from_output(&nothing);
    assert_eq!(nothing.all_finished().count(), 0);
    assert_eq!(nothing.end().distinct_hangs, 1, "one that was expected is not among them");
}

#[test]
fn vm_that_passes_after_a_retry_is_flaky() {
    let site = Site::new(
        r#"
        [[vm]]
        name = "comes-right"
        image = "guest.elf"
        append = "workload=exit"
        retries = 10000

        [[vm]]
        name = "stays-wrong"
        workload = "exit"
        append = "exit_code=1"
        retries = 2
        "#,
    );
    // An image that can be loaded, and whose first instructions are invalid opcodes.
    let broken = image::bundled().function("pvh_start", &[0x0f, 0x0b]).0;
    site.put("guest.elf", &broken);
    let farm = site.farm(["--filter", "comes-right"]).start();
    farm.wait_for("\"again\":true", 2);
    site.put("guest.elf", nmiscope::bundled::image());
    let run = Run::from_output(&farm.wait().expect_code(exit::CLEAN));
    let tries: Vec<_> = run.all_finished().collect();
    let (last, failed) = tries.split_last().expect("a try");
    assert!(failed.len() >= 2);
    assert!(failed.iter().all(|vm| vm.status == Status::Crash && vm.again && !vm.flaky));
    assert!(last.status == Status::Pass && last.flaky && !last.again);
    assert_eq!(run.end().flaky, 1);

    let site = Site::new(&site.suite());
    let farm = site.farm(["--filter", "stays-wrong"]).run().expect_code(exit::GUEST_FAILED);
    let run = Run::from_output(&farm);
    let tries: Vec<_> = run.all_finished().map(|vm| (vm.id.attempt, vm.status, vm.again)).collect();
    let fails = |attempt, again| (attempt, Status::Fail, again);
    assert_eq!(tries, [fails(1, true), fails(2, true), fails(3, false)]);
}

#[test]
fn running_vms_never_exceed_the_budget() {
    let suite = |cpus: u32, memory: &str, count: u32| {
        format!(
            "[[vm]]\nname = 'vm-{cpus}-{memory}'\nworkload = 'idle'\nstop-after = '200ms'\nmemory = '{memory}'\n\
             cpus = {cpus}\nmatrix = {{ append = [{}] }}\n",
            (0..count).map(|n| format!("'n={n}'")).collect::<Vec<_>>().join(", ")
        )
    };
    let suite = [suite(1, "64M", 6), suite(3, "64M", 3), suite(1, "512M", 3), suite(9, "64M", 1)];
    let site = Site::new(&suite.concat());
    // With --fail-fast a VM holds its share until its verdict; otherwise it holds CPUs only until its
    // guest has ended, for which there is no event.
    let run = site.farm(["-j", "4", "--memory", "700M", "--shuffle=3", "--fail-fast"]).run();
    let run = Run::from_output(&run.expect_code(exit::CLEAN));
    check_room(&run, true);
    let site = Site::new(&suite.concat());
    let run = site.farm(["-j", "4", "--memory", "700M", "--shuffle=3"]).run();
    check_room(&Run::from_output(&run.expect_code(exit::CLEAN)), false);
}

/// Checks that all running VMs fitted at any time, by the memory that they hold until their verdicts, and
/// with `cpus_too` by their CPUs.
fn check_room(run: &Run, cpus_too: bool) {
    assert_eq!(run.last_tries().len(), 13);
    let mut running = BTreeMap::new();
    let (mut most, mut was_full) = (0, false);
    for event in &run.events {
        match &event.kind {
            EventKind::VmStarted(vm) => {
                let mut parts = vm.id.name.split(['-', '/']).skip(1);
                let cpus: u32 = parts.next().expect("vCPUs").parse().expect("a number");
                let large = parts.next() == Some("512M");
                running.insert(vm.id.clone(), (cpus, large));
            }
            EventKind::VmFinished(vm) => drop(running.remove(&vm.id)),
            _ => {}
        }
        let cpus: u32 = running.values().map(|&(cpus, _)| cpus).sum();
        assert!(!cpus_too || cpus <= 4 || running.len() == 1, "{running:?}");
        assert!(running.values().filter(|&&(_, large)| large).count() <= 1, "{running:?}");
        most = most.max(running.len());
        was_full |= cpus == 4;
    }
    assert!(most > 1 && was_full, "{most} at most");
}

#[test]
fn merged_parts_of_a_suite_equal_the_whole() {
    let site = Site::new(SUITE);
    let whole =
        Run::from_output(&site.farm(["--filter", "not endless"]).run().expect_code(exit::CRASH));
    for part in ["1", "2"] {
        let out = site.path(&format!("part-{part}"));
        let partition = format!("hash:{part}/2");
        site.farm_to(&out).args(["--filter", "not endless", "--partition", &partition]).run();
    }
    let (one, two, all) = (site.path("part-1"), site.path("part-2"), site.path("all"));
    let merged = nmiscope(["farm", "merge", "--out", &all, &one, &two, "--message-format", "json"]);
    let merged = merged.run().expect_code(exit::CRASH);
    let merged = Run::from_output(&merged);
    assert_eq!(merged.last_tries(), whole.last_tries());
    assert_eq!(merged.end().counts, whole.end().counts);
    let abba = merged.finished("storage/abba");
    let report = site.path("all") + "/" + &abba.directory.join("report.json").display().to_string();
    parse_report(&std::fs::read_to_string(report).expect("it has been copied"));
}

/// The end of a control group signals a VM like its farm, and the farm then signals the VM again.
#[test]
fn vms_signalled_with_their_farm_still_write_reports() {
    let suite =
        "[[vm]]\nname = 'idle'\nworkload = 'idle'\nappend = 'loglevel=8'\ntime-limit = '50s'\n";
    let site = Site::new(suite);
    let farm = site.farm(["-j", "1"]).start();
    farm.wait_for("\"vm-started\"", 1);
    site.wait_until_ready(1);
    for process in site.processes() {
        kill_process(process, Signal::TERM).expect("it runs");
    }
    farm.signal(Signal::TERM);
    let run = Run::from_output(&farm.wait().expect_code(exit::TOOL_FAILED));
    let vm = run.finished("idle");
    assert_eq!(vm.status, Status::Interrupted, "{vm:?}");
    let report = site.report(&vm.directory);
    assert!(report.backtraces[0].cpus.iter().all(answered), "{report:?}");
}

#[test]
fn vm_stopped_by_a_foreign_signal_does_not_pass() {
    let suite =
        "[[vm]]\nname = 'idle'\nworkload = 'idle'\nappend = 'loglevel=8'\ntime-limit = '50s'\n";
    let site = Site::new(suite);
    let farm = site.farm(["-j", "1"]).start();
    farm.wait_for("\"vm-started\"", 1);
    site.wait_until_ready(1);
    kill_process(site.process_of("idle"), Signal::TERM).expect("it runs");
    let run = Run::from_output(&farm.wait().expect_code(exit::TOOL_FAILED));
    let vm = run.finished("idle");
    assert_eq!(vm.status, Status::Broken, "{vm:?}");
    assert_eq!(vm.reason.as_deref(), Some("it was stopped by SIGTERM"));
}

#[test]
fn reports_are_written_to_the_named_files() {
    let site = Site::new(SUITE);
    // One file lies in the results directory, which does not exist yet; the other is a device, which
    // remains one.
    let junit = site.path("results") + "/junit.xml";
    let farm = site.farm(["--filter", "boot", "--junit", &junit, "--summary", "/dev/null"]);
    farm.run().expect_code(exit::CLEAN);
    let text = std::fs::read_to_string(&junit).expect("a file");
    assert!(text.contains("<testsuites") && text.contains("boot/cpus=2"), "{text}");
    assert!(!std::fs::metadata("/dev/null").expect("a device").is_file());
    let (results, all) = (site.path("results"), site.path("all"));
    let junit = all.clone() + "/junit.xml";
    let merged = nmiscope(["farm", "merge", "--out", &all, &results, "--junit", &junit]);
    merged.run().expect_code(exit::CLEAN);
    assert_eq!(std::fs::read_to_string(&junit).expect("a file").matches("<testcase").count(), 2);
}

/// A rebuilt kernel counts as another one, although its path is the same.
#[test]
fn vm_with_a_changed_image_runs_again() {
    let site = Site::new("[[vm]]\nname = 'mine'\nimage = 'mine.elf'\nappend = 'workload=exit'\n");
    let image = site.path("mine.elf");
    nmiscope(["guest", &image]).run().expect_code(exit::CLEAN);
    let finished = |arguments: &[&str]| {
        let run = Run::from_output(&site.farm(arguments).run().expect_code(exit::CLEAN));
        run.all_finished().count()
    };
    assert_eq!(finished(&[]), 1);
    assert_eq!(finished(&["--resume"]), 0);
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    let file = std::fs::File::options().write(true).open(&image).expect("an image");
    file.set_modified(later).expect("its time");
    assert_eq!(finished(&["--resume"]), 1);
}

#[test]
fn one_signal_ends_a_farm_gently_and_two_end_it_at_once() {
    let suite = "[[vm]]\nname = 'idle'\nworkload = 'idle'\nappend = 'loglevel=8'\nmatrix = { cpus = [1, 2] }\n\
                 time-limit = '50s'\n[[vm]]\nname = 'later'\nworkload = 'exit'\n";
    let site = Site::new(suite);
    let farm = site.farm(["-j", "3", "--filter", "idle"]).start();
    farm.wait_for("\"vm-started\"", 2);
    site.wait_until_ready(2);
    farm.signal(Signal::INT);
    let run = Run::from_output(&farm.wait().expect_code(exit::TOOL_FAILED));
    for vm in run.all_finished() {
        assert_eq!(vm.status, Status::Interrupted, "{vm:?}");
        let report = site.report(&vm.directory);
        assert!(report.backtraces[0].cpus.iter().all(answered), "{report:?}");
    }
    assert_eq!(run.all_finished().count(), 2);
    assert_eq!(run.end().not_run, 2);
    assert!(run.events.iter().any(|event| {
        matches!(&event.kind, EventKind::FarmInterrupted { by } if by == "SIGINT")
    }));

    let site = Site::new(suite);
    let farm = site.farm(["-j", "3", "--filter", "idle"]).start();
    farm.wait_for("\"vm-started\"", 2);
    site.wait_until_ready(2);
    // Stopped processes cannot write a report, for which they would get half a minute.
    for process in site.processes() {
        kill_process(process, Signal::STOP).expect("it runs");
    }
    farm.signal(Signal::INT);
    // Two signals in quick succession count as one.
    farm.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(site.processes().len(), 2);
    farm.signal(Signal::TERM);
    let run = Run::from_output(&farm.wait().expect_code(exit::TOOL_FAILED));
    let at = |is: fn(&EventKind) -> bool| {
        run.events.iter().rev().find(|event| is(&event.kind)).expect("an event").time
    };
    let interrupted = at(|kind| matches!(kind, EventKind::FarmInterrupted { .. }));
    let finished = at(|kind| matches!(kind, EventKind::VmFinished(_)));
    assert!(finished.ms_since(interrupted) < 10_000, "{interrupted} to {finished}");
    assert!(run.all_finished().all(|vm| vm.status == Status::Interrupted));
    assert!(site.processes().is_empty());
}
