//! Reports and cores under limits, on full disks and after kills, and files that exist already.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::geteuid;

use crate::common::*;
use crate::farm::site::{Run, Site};
use crate::foreign_guest::assemble_with;
use nmiscope_farm::event::Status;

const HANG: [&str; 9] = [
    "run",
    "--workload",
    "spin-irqs-off",
    "--cpus",
    "1",
    "--hang-after",
    "300ms",
    "--serial",
    "none",
];

/// Prepares a run of nmiscope that may write files of at most 64 KiB.
fn limited(arguments: &[&str]) -> Invocation {
    let script = "ulimit -f 128; exec \"$@\"";
    program(Command::new("sh"), ["-c", script, "sh"]).arg(binary()).args(arguments)
}

#[test]
fn failed_core_changes_neither_the_verdict_nor_the_report() {
    require_kvm();
    let finished = limited(&HANG).args(["--core", "x.core"]).with_report().run();
    let finished = finished.expect_code(exit::HANG);
    assert_eq!(finished.report().hangs.len(), 1);
    assert_eq!(finished.files(), [REPORT]);
    let error = "error: failed to write x.core: ";
    assert!(finished.stderr.contains(error), "{}", finished.all());
    assert!(finished.stderr.contains("File too large"), "{}", finished.all());
    assert!(!finished.stdout.contains("wrote x.core"), "{}", finished.all());
}

#[test]
fn failed_core_of_a_run_without_a_verdict_is_an_error() {
    require_kvm();
    let idle = ["run", "--workload", "idle", "--cpus", "1", "--serial", "none"];
    let finished = limited(&idle)
        .args(["--nmi-after", "200ms", "--stop-after", "300ms", "--core", "x.core"])
        .run()
        .expect_code(exit::TOOL_FAILED);
    assert!(finished.stderr.contains("File too large"), "{}", finished.all());
}

#[test]
fn report_beyond_the_limit_is_an_error_and_no_signal() {
    require_kvm();
    let finished = program(Command::new("sh"), ["-c", "ulimit -f 1; exec \"$@\"", "sh"])
        .arg(binary())
        .args(HANG)
        .with_report()
        .run()
        .expect_code(exit::TOOL_FAILED);
    assert!(
        finished.stderr.contains("failed to write report.json: File too large"),
        "{}",
        finished.all()
    );
    assert_eq!(finished.files(), [""; 0]);
}

#[test]
fn farm_under_a_limit_keeps_its_reports() {
    let site = Site::new(
        "[defaults]\ncpus = 1\nmemory = '32M'\n[[vm]]\nname = 'ok'\nworkload = 'exit'\n\
         [[vm]]\nname = 'hang'\nworkload = 'spin-irqs-off'\nhang-after = '500ms'\nretries = 1\n\
         [[vm]]\nname = 'panic'\nworkload = 'panic'\n",
    );
    let suite = site.path("suite.toml");
    let farm =
        limited(&["farm", &suite, "--message-format", "json", "--out", &site.path("results")]);
    let run = Run::from_output(&farm.run().expect_code(exit::CRASH));
    let expected = [("hang", Status::Hang), ("ok", Status::Pass), ("panic", Status::Crash)];
    assert_eq!(run.last_tries(), expected.map(|(name, status)| (name.to_owned(), status)).into());
    for vm in run.all_finished() {
        site.report(&vm.directory);
        if vm.status == Status::Pass {
            continue;
        }
        let stderr = std::fs::read_to_string(site.results().join(&vm.directory).join("stderr.log"));
        let stderr = stderr.expect("a file");
        assert!(stderr.contains("hang.core") && stderr.contains("File too large"), "{stderr}");
    }
}

/// Prepares a shell's script whose mounts nobody else sees.
fn in_own_mounts(script: &str) -> Invocation {
    let mut unshare = vec!["--mount"];
    if !geteuid().is_root() {
        unshare.push("--map-root-user");
    }
    unshare.extend(["sh", "-c", script, "sh"]);
    program(Command::new("unshare"), unshare)
}

/// The disk has room for the farm's own files and not for the VM's: its process cannot write down why.
#[test]
fn farm_names_the_full_disk_of_a_vm() {
    let site = Site::new(
        "[[vm]]\nname = 'hang'\nworkload = 'halt-irqs-off'\ncpus = 1\nhang-after = '200ms'\n",
    );
    let script = format!(
        "mkdir {out} && mount -t tmpfs -o size=8k none {out} || exit 99\n\
         \"$@\" --out {out}; code=$?\n\
         wc -c < {out}/vms/hang/1.1/stderr.log >&2\n\
         exit $code",
        out = site.path("results"),
    );
    let farm = in_own_mounts(&script)
        .arg(binary())
        .args(["farm", &site.path("suite.toml")])
        .run()
        .expect_code(exit::TOOL_FAILED);
    let reason = "without a report: failed to write report.json: No space left on device";
    assert!(farm.stdout.contains(reason), "{}", farm.all());
    let last = farm.stderr.lines().last();
    assert_eq!(last, Some("0"), "the VM's own file is empty: {}", farm.all());
    // The farm's own page of the run has no room either.
    assert!(farm.stderr.contains("index.html: No space left on device"), "{}", farm.all());
}

/// The disk has room for the report and not for the core.
#[test]
fn farm_names_the_full_disk_of_a_lost_core() {
    let site = Site::new(
        "[[vm]]\nname = 'hang'\nworkload = 'spin-irqs-off'\ncpus = 1\nhang-after = '300ms'\n",
    );
    let script = format!(
        "mkdir {out} && mount -t tmpfs -o size=96k none {out} || exit 99\n\
         \"$@\" --out {out}; code=$?\n\
         ls {out}/vms/hang/1.1 >&2\n\
         exit $code",
        out = site.path("results"),
    );
    let farm = in_own_mounts(&script)
        .arg(binary())
        .args(["farm", &site.path("suite.toml")])
        .run()
        .expect_code(exit::HANG);
    let files: Vec<&str> = farm.stderr.lines().collect();
    assert!(files.contains(&"report.json") && !files.contains(&"hang.core"), "{}", farm.all());
    assert!(farm.stdout.contains("failed to write hang.core: "), "{}", farm.all());
    assert!(farm.stdout.contains("No space left on device"), "{}", farm.all());
}

#[test]
fn killed_run_leaves_no_unfinished_file() {
    require_kvm();
    let directory = tempfile::tempdir().expect("a directory");
    for step in 0..12 {
        let mut invocation = nmiscope(HANG).args(["--memory", "512M", "--core", "x.core"]);
        invocation = invocation.args(["--core-size", "full", "--quiet", "--no-json"]);
        invocation.command.current_dir(&directory);
        let running = invocation.start();
        sleep(Duration::from_millis(300 + 40 * step));
        running.kill();
        running.wait();
        let left = files(directory.path());
        assert!(left.iter().all(|name| name == "x.core"), "{left:?}");
    }
}

/// A file system without O_TMPFILE has names for unfinished files, as this one of a killed process.
#[test]
fn abandoned_files_are_removed_by_the_next_run() {
    require_kvm();
    let abandoned = ".nmiscope-00c0ffee00c0ffee.tmp";
    let private = |invocation: &Invocation, name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(invocation.directory.path().join(name), mode).expect("it is ours");
    };
    let others = [".nmiscope-notes.tmp", ".tmp0a1b2c"];
    for arguments in [&["--json", "x.json"], &["--core", "x.core"]] {
        let run = ["run", "--workload", "exit", "--cpus", "1"];
        let mut invocation = nmiscope(run).args(arguments).with_file(abandoned, b"half");
        private(&invocation, abandoned);
        for name in others {
            invocation = invocation.with_file(name, b"whole");
            private(&invocation, name);
        }
        let finished = invocation.run().expect_code(exit::CLEAN);
        let left = finished.files();
        assert!(!left.iter().any(|name| name == abandoned), "{left:?}");
        assert!(others.iter().all(|name| left.iter().any(|left| left == name)), "{left:?}");
    }
}

#[test]
fn earlier_postmortem_is_kept_under_a_number() {
    require_kvm();
    let run = |directory: &Path| {
        let mut invocation = nmiscope(HANG);
        invocation.command.current_dir(directory);
        invocation.run().expect_code(exit::HANG)
    };
    let directory = tempfile::tempdir().expect("a directory");
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("a file");
    assert!(!run(directory.path()).stdout.contains("kept"), "there was no earlier one");
    let first = read("postmortem.json");
    let second = run(directory.path());
    let kept = "kept the earlier postmortem.json as postmortem.1.json\nwrote postmortem.json\n";
    assert!(second.stdout.ends_with(kept), "{}", second.all());
    assert_eq!(read("postmortem.1.json"), first);
    let second = read("postmortem.json");
    assert_ne!(second, first);
    run(directory.path());
    assert_eq!((read("postmortem.1.json"), read("postmortem.2.json")), (first, second));
    let names = ["postmortem.1.json", "postmortem.2.json", "postmortem.json"];
    assert_eq!(files(directory.path()), names);
    for name in names {
        parse_report(&read(name));
    }
}

/// The core of a policy has a default name, as the report has. A name that the user gave is the user's to
/// reuse.
#[test]
fn earlier_core_by_default_name_is_kept_under_a_number() {
    require_kvm();
    let directory = tempfile::tempdir().expect("a directory");
    let run = |arguments: &[&str]| {
        let mut invocation = nmiscope(HANG).arg("--no-json").args(arguments);
        invocation.command.current_dir(&directory);
        invocation.run().expect_code(exit::HANG)
    };
    let policy = ["--hang-policy", "core,kill"];
    let read = |name: &str| std::fs::read(directory.path().join(name)).expect("a file");
    assert!(!run(&policy).stdout.contains("kept"), "there was no earlier one");
    let first = read("nmiscope.core");
    let second = run(&policy);
    let kept = "kept the earlier nmiscope.core as nmiscope.1.core\nwrote nmiscope.core, ";
    assert!(second.stdout.contains(kept), "{}", second.all());
    assert!(read("nmiscope.1.core") == first);
    let named = run(&["--core", "nmiscope.core"]);
    assert!(!named.stdout.contains("kept"), "{}", named.all());
    assert_eq!(files(directory.path()), ["nmiscope.1.core", "nmiscope.core"]);
}

/// The NMI handlers of 128 vCPUs that share a host's cores get half a minute, which the farm waits for. A kernel
/// that is unknown gets no NMI.
#[test]
#[ignore = "needs gcc"]
fn farm_waits_for_the_capture_of_many_vcpus() {
    let site = Site::new(
        "[defaults]\ncpus = 128\ntime-limit = '3s'\nhang-after = '0'\nready-within = '0'\n\
         [[vm]]\nname = 'known'\nworkload = 'nmi-stuck'\n\
         [[vm]]\nname = 'unknown'\nimage = 'kernel.elf'\nmemory = '64M'\n",
    );
    assemble_with("stuck_in_nmi.S", &[], Path::new(&site.path("kernel.elf")));
    let run = Run::from_output(&site.farm([""; 0]).run().expect_code(exit::GUEST_FAILED));
    for (name, sent) in [("known", true), ("unknown", false)] {
        let vm = run.finished(name);
        assert_eq!(vm.status, Status::Timeout, "{vm:?}");
        let report = site.report(&vm.directory);
        assert_eq!(report.backtraces[0].cpus.len(), 128);
        assert!(report.backtraces[0].cpus.iter().all(|cpu| cpu.nmi.sent == sent), "{name}");
    }
}
