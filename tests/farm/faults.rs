//! Faults around a farm: killed processes, changed suites, full disks, closed pipes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nmiscope_farm::event::Status;
use rustix::process::{Signal, geteuid};

use super::site::*;
use crate::common::*;

/// Suite of two VMs that run until they are stopped, and two that end by themselves.
const SUITE: &str = r#"
[defaults]
cpus = 1
time-limit = "50s"
append = "loglevel=8"

[[vm]]
name = "first"
workload = "exit"

[[vm]]
name = "long/a"
workload = "idle"
stop-after = "40s"

[[vm]]
name = "long/b"
workload = "idle"
stop-after = "40s"

[[vm]]
name = "last"
workload = "exit"
"#;

/// Shortens the long VMs of a suite.
fn short(suite: &str) -> String {
    suite.replace("40s", "100ms")
}

#[test]
fn killed_vm_process_does_not_affect_other_vms() {
    let site = Site::new(SUITE);
    let farm = site.farm(["-j", "2"]).start();
    site.wait_until_ready(3);
    site.kill_one("long--a");
    site.kill_one("long--b");
    let run = Run::from_output(&farm.wait().expect_code(exit::TOOL_FAILED));
    let long = run.finished("long/a");
    assert_eq!(long.status, Status::Broken);
    assert_eq!(long.reason.as_deref(), Some("its process was killed by SIGKILL"));
    assert_eq!(run.finished("last").status, Status::Pass);
    assert_eq!(run.end().counts[&Status::Broken], 2);
}

#[test]
fn vms_lost_with_a_killed_farm_run_again() {
    let site = Site::new(SUITE);
    let farm = site.farm(["-j", "2"]).start();
    farm.wait_for("\"vm-started\"", 3);
    farm.wait_for("\"vm-finished\"", 1);
    site.wait_until_ready(3);
    farm.kill();
    let killed = farm.wait();
    assert_eq!(killed.status.code(), None);
    // The killed farm's VMs die with it.
    wait_for("processes left", || site.processes().is_empty());
    let index = site.results().join("index.html");
    assert!(!index.exists(), "a page is written at the end, or not at all");
    // The journal ends in half a line, as if the farm had died while writing it.
    let path = site.results().join("events.jsonl");
    let mut journal = fs::read(&path).expect("a journal");
    journal.extend(b"{\"time\":\"2026-");
    fs::write(&path, journal).expect("a journal");

    refused(site.farm(["-j", "2"]), "resume it with --resume");
    site.write("suite.toml", &SUITE.replace("name = \"last\"", "name = \"another\""));
    let resumed = site.farm(["-j", "2", "--resume", "--filter", "not long"]).run();
    let resumed = resumed.expect_code(exit::CLEAN);
    assert!(resumed.stderr.contains("no longer planned"), "{}", resumed.all());
    assert!(resumed.stderr.contains("journal: 1"), "{}", resumed.all());
    let run = Run::from_output(&resumed);
    assert_eq!(run.start().lost, ["long/a", "long/b"]);
    assert_eq!((run.start().planned, run.start().done), (2, 1));
    assert_eq!(run.last_tries().keys().collect::<Vec<_>>(), ["another"]);
    let page = fs::read_to_string(index).expect("a page");
    assert!(page.contains("<h2>VMs: 2</h2>") && page.contains("damaged lines: 1"), "{page}");
}

#[test]
fn failed_tries_survive_a_killed_farm() {
    let suite = "[[vm]]\nname = 'hangs'\nworkload = 'halt-irqs-off'\ncpus = 1\nretries = 1\n";
    let site = Site::new(suite);
    let farm = site.farm(["-j", "1"]).start();
    farm.wait_for("\"again\":true", 1);
    farm.wait_for("\"vm-started\"", 2);
    farm.kill();
    let _ = farm.wait();
    let resumed = site.farm(["--resume"]).run().expect_code(exit::HANG);
    let run = Run::from_output(&resumed);
    assert_eq!(run.start().lost, ["hangs"]);
    let tries: Vec<u32> = run.all_finished().map(|vm| vm.id.attempt).collect();
    assert_eq!(tries, [2]);
    let hang = run.finished("hangs").hang.as_ref().expect("a hang");
    let first = site.results().join(&hang.signature[..8]);
    assert_eq!(fs::read_link(&first).expect("a link"), Path::new("vms/hangs/1.1"));
    assert!(first.join("report.json").exists());

    // Results of the VM as it was are discarded once its definition changes.
    site.write("suite.toml", &suite.replace("halt-irqs-off", "exit"));
    let changed = site.farm(["--resume"]).run().expect_code(exit::CLEAN);
    assert_eq!(Run::from_output(&changed).last_tries()["hangs"], Status::Pass);
    assert!(fs::symlink_metadata(&first).is_err(), "what it links to is gone");
    assert_eq!(files(&site.results().join("vms/hangs")), ["1.1"]);
    let triage = nmiscope(["triage", &site.path("results")]).run().expect_code(exit::CLEAN);
    assert!(!triage.all().contains("dead-halt"), "{}", triage.all());
}

#[test]
fn changed_vm_runs_again_on_resume() {
    let site = Site::new(&short(SUITE));
    site.farm(["-j", "2"]).run().expect_code(exit::CLEAN);
    site.write(
        "suite.toml",
        &short(SUITE).replacen("workload = \"idle\"", "workload = \"busy\"", 1),
    );
    // The last run decides, whatever a resumed farm planned in between.
    site.farm(["--resume", "--filter", "first"]).run().expect_code(exit::CLEAN);
    let resumed = site.farm(["--resume"]).run().expect_code(exit::CLEAN);
    assert!(
        resumed.stderr.contains("these VMs have changed and run again: long/a"),
        "{}",
        resumed.all()
    );
    let run = Run::from_output(&resumed);
    assert_eq!(run.last_tries().keys().collect::<Vec<_>>(), ["long/a"]);
    assert_eq!(run.end().counts[&Status::Pass], 4);
}

#[test]
fn second_farm_in_a_directory_is_refused() {
    let site = Site::new(SUITE);
    let first = site.farm(["-j", "2"]).start();
    first.wait_for("\"vm-started\"", 3);
    let holder = format!("process {}", first.pid().as_raw_nonzero());
    refused(site.farm(["--resume"]), &holder);
    first.kill();
    let _ = first.wait();
    // A dead process holds no lock.
    site.write("suite.toml", &short(SUITE));
    site.farm(["--resume"]).run().expect_code(exit::CLEAN);
}

#[test]
fn vm_names_never_lead_outside_the_results() {
    // Control characters are missing here: a suite with such a name is refused.
    let names = [
        "../../outside",
        "/absolute",
        "a/../../b",
        "..",
        ".",
        "-rf",
        "with space",
        "%2e%2e",
        "ünï/çødé",
        "back\\\\slash",
        "CON",
    ];
    let mut suite: String = names
        .iter()
        .map(|name| format!("[[vm]]\nname = \"{name}\"\nworkload = \"exit\"\ncpus = 1\n"))
        .collect();
    let long = "x".repeat(3000);
    suite.push_str(&format!("[[vm]]\nname = \"{long}\"\nworkload = \"exit\"\ncpus = 1\n"));
    let site = Site::new(&suite);
    site.farm(["-j", "2"]).run().expect_code(exit::CLEAN);
    assert_eq!(files(site.results().parent().expect("a parent")), ["results", "suite.toml"]);
    assert_eq!(files(&site.results().join("vms")).len(), names.len() + 1);

    site.write("suite.toml", "[[vm]]\nname = \"\\u001b[31mred\"\n");
    let refused = site.farm(["--resume"]).run().expect_code(exit::USAGE).stderr;
    let (message, excerpt) = refused.split_once('\n').expect("the line of the mistake");
    assert!(message.starts_with("error: "), "{refused}");
    assert!(message.ends_with("suite.toml:2:8: a control character in a name"), "{refused}");
    assert!(excerpt.starts_with("  2 | name = ") && !refused.contains('\x1b'), "{refused}");
}

/// Builds the command line of the site's farm behind a launcher program.
fn by_way_of<I: AsRef<OsStr>>(
    launcher: &str,
    arguments: impl IntoIterator<Item = I>,
    site: &Site,
) -> Invocation {
    program(Command::new(launcher), arguments)
        .arg(binary())
        .args(["farm", &site.path("suite.toml"), "--message-format", "json"])
        .args(["--out", &site.path("results")])
}

#[test]
fn unwritable_directory_ends_the_run_with_its_results_kept() {
    let site = Site::new(SUITE);
    // Root may write everywhere, unless it drops that capability.
    let farm = if geteuid().is_root() {
        let given_up = ["--bounding-set=-dac_override", "--inh-caps=-dac_override"];
        by_way_of("setpriv", given_up, &site)
    } else {
        site.farm([] as [&str; 0])
    };
    let farm = farm.args(["-j", "2"]).start();
    farm.wait_for("\"vm-started\"", 3);
    site.wait_until_ready(3);
    let vms = site.results().join("vms");
    fs::set_permissions(&vms, fs::Permissions::from_mode(0o555)).expect("it is ours");
    // Frees CPUs for the next VM.
    site.kill_one("long--a");
    let ended = farm.wait();
    fs::set_permissions(&vms, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let ended = ended.expect_code(exit::TOOL_FAILED);
    assert!(ended.stderr.contains("failed to make"), "{}", ended.all());
    assert!(ended.stderr.contains("Permission denied"), "{}", ended.all());
    wait_for("processes left", || site.processes().is_empty());
    let run = Run::parse(&ended.stdout);
    assert_eq!(run.last_tries()["first"], Status::Pass);

    site.write("suite.toml", &short(SUITE));
    let resumed = site.farm(["--resume", "--filter", "not long/a"]).run().expect_code(exit::CLEAN);
    assert_eq!(Run::from_output(&resumed).end().counts[&Status::Pass], 3);
}

/// The tmpfs of a few hundred kilobytes is full after a few VMs; the run is then resumed with room.
#[test]
fn full_disk_ends_the_run_with_its_results_kept() {
    let site = Site::new(
        "[[vm]]\nname = 'hang'\nworkload = 'halt-irqs-off'\ncpus = 1\nhang-after = '200ms'\n\
         expect = { hang = 'dead-halt' }\n",
    );
    let kept = site.path("kept");
    let script = format!(
        "mkdir {out} && mount -t tmpfs -o size=600k none {out} || exit 99\n\
         \"$@\" --repeat 100 -j 1; code=$?\n\
         cp -r {out} {kept}\n\
         exit $code",
        out = site.path("results"),
    );
    let mut unshare = vec!["--mount"];
    if !geteuid().is_root() {
        unshare.push("--map-root-user");
    }
    unshare.extend(["sh", "-c", &script, "sh"]);
    let farm = by_way_of("unshare", unshare, &site).run();
    let farm = farm.expect_code(exit::TOOL_FAILED);
    // Either the journal or a VM's file could not be written, and both messages say so.
    let said = farm.all();
    assert!(said.contains("No space left on device"), "{said}");
    let run = Run::parse(&farm.stdout);
    assert!(run.all_finished().next().is_some_and(|vm| vm.status == Status::Pass), "{said}");
    // With room, the run resumes and keeps the verdicts it has.
    let resumed = nmiscope(["farm", &site.path("suite.toml"), "--message-format", "json"])
        .args(["--out", &kept, "--resume", "--repeat", "12"])
        .run()
        .expect_code(exit::CLEAN);
    let run = Run::from_output(&resumed);
    assert!((1..12).contains(&run.start().done), "{}", resumed.all());
    assert_eq!(run.end().counts, [(Status::Pass, 12)].into(), "{}", resumed.all());
}

#[test]
fn run_continues_after_its_pipe_is_closed() {
    let site = Site::new(&short(SUITE));
    let farm = site.farm(["-j", "2"]);
    let mut command = farm.command;
    let mut child = command.spawn().expect("it starts");
    drop(child.stdout.take());
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(exit::CLEAN));
    assert_eq!(site.journal().len(), 1 + 4 * 2 + 1);
    drop(farm.directory);
}

#[test]
fn signal_between_two_vms_is_handled() {
    let site = Site::new("[[vm]]\nname = 'quick'\nworkload = 'exit'\ncpus = 1\n");
    let farm = site.farm(["--repeat", "10000", "-j", "2"]).start();
    farm.wait_for("\"vm-finished\"", 5);
    farm.signal(Signal::TERM);
    let run = Run::from_output(&farm.wait().expect_code(exit::TOOL_FAILED));
    assert!(run.end().not_run > 0);
    assert_eq!(run.end().counts.values().sum::<u64>() + run.end().not_run, 10_000);
}
