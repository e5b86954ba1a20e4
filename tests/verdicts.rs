//! Verdicts and what follows from them: the policy, a host that is too busy, and JSON that has all that was
//! printed. The verdict of each workload is tested in `live` and `accuracy`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::common::frozen::freeze_threads;
use crate::common::*;
use crate::offline;
use nmiscope::hang::Class;
use nmiscope_report::{Certainty, Fact, Hang, Outcome, Report, Source, Trigger};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};

const QUICKLY: [&str; 2] = ["--hang-after", "300ms"];

/// Compares verdicts with those in `verdicts.json`, which no test writes: the program of revision 4319b19
/// gave them, before its names and texts were rewritten. The workloads are those of classes that no stored
/// capture has; `offline` compares the others.
#[test]
fn live_verdicts_equal_those_before_the_rewrite() {
    let stored: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("verdicts.json")).expect("JSON");
    for (workload, verdict) in &stored {
        let run = run_workload(workload, 2).args(QUICKLY).args(["--serial", "none"]);
        let run = run.args(["--ready-within", "1s"]).run();
        assert_eq!(offline::verdict(&run.report()), *verdict, "{workload}: {}", run.all());
    }
}

/// Compares the text of a run with that of its report, which needs no VM, and both exit codes.
#[track_caller]
fn expect_same_text_from_json(live: &Finished) {
    let again = nmiscope(["report"]).arg(live.directory.path().join(REPORT)).run();
    assert_eq!(again.code(), live.code());
    let printed = live.stdout.lines().filter(|line| !line.starts_with("wrote "));
    assert_eq!(again.stdout.lines().collect::<Vec<_>>(), printed.collect::<Vec<_>>());
}

#[test]
fn a_report_is_printed_from_its_json_as_the_run_printed_it() {
    let rows: [(&str, &[&str]); 8] = [
        ("abba-deadlock", &[]),
        ("spin-irqs-on", &[]),
        ("lost-wakeup", &["--hang-after", "sleepers=300ms"]),
        ("panic", &[]),
        ("triple-fault", &[]),
        ("boot-stall", &["--ready-within", "1s"]),
        ("spin-irqs-off", &["--hang-policy", "kill"]),
        ("long-irqs-off", &["--hang-policy", "report,continue", "--stop-after", "3s"]),
    ];
    for (workload, arguments) in rows {
        let run = run_workload(workload, 2).args(QUICKLY).args(["--serial", "none"]);
        expect_same_text_from_json(&run.args(arguments).run());
    }
}

#[test]
fn json_that_is_no_report_is_refused() {
    let finished = nmiscope(["report", "x.json"]).with_file("x.json", b"{\"a\": 1}").run();
    let finished = finished.expect_code(exit::USAGE);
    assert!(finished.stderr.contains("no report"), "{}", finished.stderr);
}

#[test]
fn the_policy_kill_reports_a_hang_without_nmis_and_stacks() {
    let finished =
        run_workload("spin-irqs-off", 2).args(QUICKLY).args(["--hang-policy", "kill"]).run();
    let report = finished.expect_code(exit::HANG).report();
    let hang = only_hang(&report);
    assert_eq!((hang.class, &hang.blamed[..]), (Class::HardLockup, &["cpu1".to_owned()][..]));
    assert!(report.backtraces.is_empty() && hang.backtrace.is_none());
}

#[test]
fn a_core_is_written_where_the_policy_asks_for_one() {
    let finished =
        run_workload("spin-irqs-off", 2).args(QUICKLY).args(["--hang-policy", "core"]).run();
    let finished = finished.expect_code(exit::HANG);
    let core = finished.directory.path().join("nmiscope.core");
    let again = nmiscope(["report"]).arg(core).run().expect_code(exit::HANG);
    assert!(again.stdout.contains("hard-lockup, cpu1"), "{}", again.stdout);
}

/// A backtrace that somebody asks for later does not take the place of the hang's.
#[test]
fn a_core_is_of_the_hang_and_not_of_the_last_backtrace() {
    let running = run_workload("spin-irqs-off", 2)
        .args(QUICKLY)
        .args(["--hang-policy", "report,core,continue", "--serial", "none"])
        .start();
    running.wait_for("NMI: sent", 1);
    running.signal(Signal::USR1);
    running.wait_for("NMI: sent", 2);
    running.signal(Signal::INT);
    let finished = running.wait().expect_code(exit::HANG);
    let report = finished.report();
    let triggers = report.backtraces.iter().map(|backtrace| &backtrace.trigger);
    let asked = Trigger::Signal { name: "SIGUSR1".into() };
    assert_eq!(triggers.collect::<Vec<_>>(), [&Trigger::Hang, &asked]);
    let core = finished.directory.path().join("nmiscope.core");
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(exit::HANG);
    assert_eq!(Report { source: Source::Live, ..again.report() }, report);
}

#[test]
fn a_bucket_names_the_functions_that_wait_for_an_idle_holder() {
    let finished = run_workload("forgotten-unlock", 2).args(QUICKLY).run();
    let report = finished.expect_code(exit::HANG).report();
    assert_eq!(only_hang(&report).bucket.as_deref(), Some("lock-wait:look_up:DENTRY_LOCK"));
}

#[test]
fn a_cpu_that_never_starts_is_named_with_the_function_that_waits() {
    let finished = run_workload("ap-never-starts", 2).args(["--ready-within", "2s"]).run();
    let finished = finished.expect_code(exit::HANG);
    let report = finished.report();
    assert_eq!(only_hang(&report).bucket.as_deref(), Some("boot-stall:not-started"));
    assert!(finished.stdout.contains("  #0  start_others "), "{}", finished.stdout);
}

#[test]
fn a_policy_that_contradicts_itself_is_refused() {
    let finished = nmiscope(["run", "--hang-policy", "kill,continue"]).run();
    let finished = finished.expect_code(exit::USAGE);
    assert!(finished.stderr.contains("use one of them"), "{}", finished.stderr);
}

#[test]
fn a_resumed_guest_that_does_not_recover_is_reported_once() {
    let running = run_workload("spin-irqs-off", 2)
        .args(QUICKLY)
        .args(["--hang-policy", "report,continue"])
        .start();
    running.wait_for("NMI: sent", 1);
    // The detector samples it ten times more.
    thread::sleep(Duration::from_secs(1));
    running.signal(Signal::INT);
    let finished = running.wait().expect_code(exit::HANG);
    let report = finished.report();
    assert!(matches!(report.outcome, Outcome::Stopped { .. }), "{:?}", report.outcome);
    assert_eq!(only_hang(&report).resolved_after_ms, None);
    assert_eq!(report.backtraces.len(), 1);
}

/// Interrupts off for 0.85 s at a time, and a bound that makes a hang of it.
#[test]
fn a_resumed_guest_that_recovers_is_reported_as_recovered() {
    let running = run_workload("long-irqs-off", 1)
        .args(["--hang-after", "200ms", "--hang-policy", "report,continue", "--serial", "none"])
        .start();
    running.wait_for("recovered", 1);
    running.signal(Signal::INT);
    let finished = running.wait();
    let report = finished.report();
    let first = report.hangs.first().unwrap_or_else(|| panic!("{}", finished.all()));
    assert_eq!(first.class, Class::HardLockup);
    let after = first.resolved_after_ms.unwrap_or_else(|| panic!("{}", finished.all()));
    // The same CPU does it again and again: it recovers before it hangs anew.
    let next = report.hangs.get(1);
    assert!(next.is_none_or(|next| first.at_ms + after <= next.at_ms), "{:#?}", report.hangs);
    assert!(finished.stdout.contains("recovered: hard-lockup, cpu0"), "{}", finished.stdout);
    // Each hang is reported once, with a backtrace of its own.
    assert_eq!(report.backtraces.len(), report.hangs.len());
    // The last one may go on when the time is over.
    let over = report.hangs.iter().all(|hang| hang.resolved_after_ms.is_some());
    assert_eq!(finished.code(), if over { exit::CLEAN } else { exit::HANG });
}

#[test]
fn the_backtraces_of_a_guest_that_hangs_again_and_again_are_limited() {
    let running = run_workload("long-irqs-off", 1)
        .args(["--append", "section_ms=300", "--hang-after", "200ms", "--serial", "none"])
        .args(["--hang-policy", "report,continue", "--nmi-timeout", "0"])
        .start();
    running.wait_for("recovered", 18);
    running.signal(Signal::INT);
    let report = running.wait().report();
    assert!(report.hangs.len() >= 18);
    assert_eq!(report.backtraces.len(), 16);
    let with_backtrace = report.hangs.iter().take_while(|hang| hang.backtrace.is_some());
    assert_eq!(with_backtrace.count(), 16);
    assert!(report.hangs[16..].iter().all(|hang| hang.backtrace.is_none()));
    let warnings = report.warnings.iter().filter(|warning| warning.contains("has hung often"));
    assert_eq!(warnings.count(), 1, "{:?}", report.warnings);
}

#[test]
fn equal_hangs_have_equal_signatures_and_others_have_others() {
    let signature = |workload: &str, cpus| {
        let finished = run_workload(workload, cpus).args(QUICKLY).args(["--serial", "none"]).run();
        only_hang(&finished.expect_code(exit::HANG).report()).signature.clone()
    };
    let halts = signature("halt-irqs-off", 1);
    for cpus in [2, 3, 8] {
        assert_eq!(signature("halt-irqs-off", cpus), halts, "{cpus} CPUs");
    }
    let others = [signature("holder-halts", 2), signature("spin-irqs-off", 2)];
    assert!(!others.contains(&halts) && others[0] != others[1], "{others:?}");
}

/// The innermost function differs from run to run, and so may its caller.
#[test]
fn a_loop_that_calls_functions_has_one_signature_wherever_it_was_stopped() {
    // (workload, numbers of CPUs, the function that is blamed)
    let rows = [
        ("livelock", [2, 4], "livelock::move_one"),
        ("spin-in-calls", [1, 2], "spin_in_calls::wait_for_device"),
    ];
    for (workload, counts, function) in rows {
        let mut signatures = BTreeSet::new();
        for cpus in counts.into_iter().cycle().take(6) {
            let finished =
                run_workload(workload, cpus).args(QUICKLY).args(["--serial", "none"]).run();
            let report = finished.expect_code(exit::HANG).report();
            let hang = only_hang(&report);
            let places = hang.evidence.iter().filter_map(|evidence| match &evidence.fact {
                Fact::StoppedAt { function, .. } if hang.blamed.contains(&evidence.party) => {
                    function.as_deref()
                }
                _ => None,
            });
            let places: Vec<&str> = places.collect();
            assert!(
                !places.is_empty() && places.iter().all(|at| at.ends_with(function)),
                "{places:?}"
            );
            signatures.insert(hang.signature.clone());
        }
        assert_eq!(signatures.len(), 1, "{workload}: {signatures:?}");
    }
}

/// Samples after the verdict are in the core, and are taken for the signature even without a backtrace.
#[test]
fn samples_of_a_loop_are_stored_and_taken_without_a_backtrace() {
    let run = |policy| {
        let run = run_workload("spin-in-calls", 2).args(QUICKLY).args(["--serial", "none"]);
        run.args(["--hang-policy", policy]).run().expect_code(exit::HANG)
    };
    let live = run("core");
    let core = live.directory.path().join("nmiscope.core");
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(exit::HANG);
    assert_eq!(again.report().hangs, live.report().hangs);
    let [alone, with_backtrace] = [run("kill"), live].map(|finished| finished.report());
    assert_eq!(only_hang(&alone).signature, only_hang(&with_backtrace).signature);
}

/// The bundled guest without its section headers: no symbols, no debug information.
fn without_names() -> Vec<u8> {
    // e_shoff; e_shnum and e_shstrndx (ELF-64).
    let headers = [0x28..0x30, 0x3c..0x40];
    let mut image = nmiscope::bundled::image().to_vec();
    headers.into_iter().for_each(|place| image[place].fill(0));
    image
}

#[test]
fn signatures_without_names_distinguish_hangs_by_callers() {
    let image = without_names();
    let signature = |workload: &str| {
        let finished = nmiscope(["run", "bare.elf", "--workload", workload, "--cpus", "2"])
            .with_file("bare.elf", &image)
            .with_report()
            .args(QUICKLY)
            .args(["--serial", "none"])
            .run();
        let report = finished.expect_code(exit::HANG).report();
        assert_eq!(only_hang(&report).class, Class::HardLockup);
        only_hang(&report).signature.clone()
    };
    let (spins, holds) = (signature("spin-irqs-off"), signature("holder-spins"));
    assert_ne!(spins, holds);
    assert_eq!((signature("spin-irqs-off"), signature("holder-spins")), (spins, holds));
}

#[test]
fn a_guest_that_was_stopped_with_its_vmm_does_not_hang() {
    let running = run_workload("long-irqs-off", 2)
        .args([
            "--append",
            "section_ms=700",
            "--hang-after",
            "800ms",
            "--stop-after",
            "3s",
            "--serial",
            "none",
        ])
        .start();
    running.wait_for("guest ready", 1);
    running.signal(Signal::STOP);
    thread::sleep(Duration::from_millis(1500));
    running.signal(Signal::CONT);
    let report = running.wait().expect_code(exit::CLEAN).report();
    assert!(report.hangs.is_empty(), "{:#?}", report.hangs);
}

/// Keeps a core of this machine busy until it is dropped.
struct Busy(std::sync::Arc<AtomicBool>, Vec<thread::JoinHandle<()>>);

impl Busy {
    fn on_core(core: usize, threads: usize) -> Self {
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let done = done.clone();
            thread::spawn(move || {
                let mut cpus = CpuSet::new();
                cpus.set(core);
                sched_setaffinity(None, &cpus).expect("a core to be busy on");
                while !done.load(Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..threads).map(spin).collect();
        Self(done, threads)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The vCPU's thread may run only on an idle core, and other threads keep that core busy.
#[test]
fn a_guest_that_the_host_does_not_schedule_is_starved() {
    let running = run_workload("spin-irqs-off", 1)
        .args(["--hang-after", "2s", "--hang-after", "starved=3s", "--serial", "none"])
        .start();
    running.wait_for("guest ready", 1);
    let tasks = format!("/proc/{}/task", running.pid().as_raw_nonzero());
    let tasks = fs::read_dir(tasks).expect("the program's threads").flatten();
    let name = |path: &std::path::Path| fs::read_to_string(path.join("comm")).unwrap_or_default();
    let vcpu = tasks.map(|task| task.path()).find(|path| name(path).starts_with("vcpu"));
    let vcpu = vcpu.expect("a vCPU's thread");
    let thread = vcpu.file_name().and_then(|name| name.to_str()).expect("a thread's number");
    program(std::process::Command::new("taskset"), ["-cp", "0", thread]).run().expect_code(0);
    program(std::process::Command::new("chrt"), ["-i", "-p", "0", thread]).run().expect_code(0);
    let busy = Busy::on_core(0, 4);
    let finished = running.wait();
    drop(busy);
    let finished = finished.expect_code(exit::TOOL_FAILED);
    expect_same_text_from_json(&finished);
    let report = finished.report();
    let Outcome::Starved { cpus, wall_ms, ran_ms } = &report.outcome else {
        panic!("{:?}", report.outcome)
    };
    assert_eq!(cpus, &[0]);
    assert!(*wall_ms >= 3000.0 && *ran_ms < 2000.0, "{ran_ms} of {wall_ms}");
    assert!(report.hangs.is_empty());
    assert_eq!(report.backtraces[0].trigger, Trigger::Starved);
}

/// The vCPUs may be frozen before the kernel has been found, or just after.
#[test]
fn a_guest_frozen_as_soon_as_it_is_ready_is_starved() {
    let running = run_workload("idle", 2)
        .args(["--hang-after", "300ms", "--hang-after", "starved=1s", "--serial", "none"])
        .start();
    running.wait_for("guest ready", 1);
    freeze_threads(running.pid(), "vcpu");
    let finished = running.wait().expect_code(exit::TOOL_FAILED);
    let report = finished.report();
    assert!(matches!(report.outcome, Outcome::Starved { .. }), "{}", finished.all());
    assert!(report.hangs.is_empty(), "{}", finished.all());
}

/// A key, a timer and a time limit request a backtrace before the bound is over.
#[test]
fn a_moment_shows_the_hang_that_detection_would_find_with_its_signature() {
    for (workload, certainty, code) in [
        ("abba-deadlock", Some(Certainty::Certain), exit::HANG),
        ("mutex-deadlock", Some(Certainty::Certain), exit::HANG),
        ("halt-irqs-off", Some(Certainty::Likely), exit::HANG),
        ("spin-irqs-off", None, exit::GUEST_FAILED),
        ("spin-irqs-on", None, exit::GUEST_FAILED),
    ] {
        let detected = run_workload(workload, 2).args(["--hang-after", "300ms"]).run();
        let detected = detected.expect_code(exit::HANG).report();
        let asked = run_workload(workload, 2)
            // A tenth of the bound is enough, of a busy host's time too.
            .args(["--hang-after", "4s", "--time-limit", "3900ms", "--serial", "none"])
            .run()
            .expect_code(code);
        let asked = asked.report();
        assert!(matches!(asked.outcome, Outcome::TimedOut { .. }), "{workload}: {asked:?}");
        let (detected, asked) = (only_hang(&detected), only_hang(&asked));
        let key = |hang: &Hang| (hang.class, hang.signature.clone(), hang.blamed.clone());
        assert_eq!(key(asked), key(detected), "{workload}");
        match (certainty, &asked.certainty) {
            (Some(wanted), certainty) => assert_eq!(*certainty, wanted, "{workload}"),
            (None, Certainty::Suspected { lasted_ms, bound_ms }) => {
                assert!(lasted_ms < bound_ms, "{workload}: {lasted_ms} of {bound_ms}");
            }
            (None, other) => panic!("{workload}: {other:?}"),
        }
    }
}

#[test]
fn a_requested_backtrace_shows_who_waits_for_whom() {
    let finished = run_workload("abba-deadlock", 2)
        .args(["--hang-after", "60s", "--nmi-after", "1s", "--stop-after", "2s"])
        .args(["--serial", "none", "--core", "asked.core"])
        .run();
    let finished = finished.expect_code(exit::HANG);
    let report = finished.report();
    let waits = report.backtraces[0].waits.as_ref().expect("waits");
    let waits: Vec<(&str, &str)> =
        waits.edges.iter().map(|edge| (edge.from.as_str(), edge.to.as_str())).collect();
    for (waiter, lock, holder) in [("cpu0", "JOURNAL_LOCK", "cpu1"), ("cpu1", "INODE_LOCK", "cpu0")]
    {
        assert!(waits.contains(&(waiter, lock)) && waits.contains(&(lock, holder)), "{waits:?}");
        // The lines of the hang name the waits, so that no other line repeats them.
        let begins = |start: String| move |line: &&str| line.trim_start().starts_with(&start);
        let lines = || finished.stdout.lines();
        let own = lines().find(begins(format!("{waiter} holds "))).expect("a line of the waiter");
        assert!(own.ends_with(&format!(", waits for {lock}")), "{own}");
        assert!(lines().any(|line| begins(format!("{holder} holds {lock} "))(&line)), "{holder}");
        assert_eq!(lines().find(begins(format!("{waiter} waits for "))), None);
    }
    assert_eq!(only_hang(&report).certainty, Certainty::Certain);
    let core = finished.directory.path().join("asked.core");
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(exit::HANG);
    assert_eq!(Report { source: Source::Live, ..again.report() }, report);
}

#[test]
fn a_requested_backtrace_of_a_healthy_guest_has_no_hang() {
    for workload in ["idle", "busy", "lock-contention", "mutex-contention"] {
        let finished = run_workload(workload, 2)
            .args(["--nmi-after", "1s", "--stop-after", "1500ms", "--serial", "none"])
            .run();
        let report = finished.expect_code(exit::CLEAN).report();
        assert!(report.hangs.is_empty(), "{workload}: {:?}", report.hangs);
    }
}

/// A VM under a debugger looks so: no vCPU can be stopped, and the guest's former state stays known. By its
/// memory a CPU makes no progress, and by the host it was not scheduled.
#[test]
fn a_guest_whose_vcpus_are_all_frozen_is_starved() {
    // Both of its CPUs sleep, so that it is not starved before, whatever else the host runs.
    let running = run_workload("halt-irqs-off", 2)
        .args(["--hang-after", "300ms", "--hang-after", "starved=3s", "--serial", "none"])
        .args(["--hang-policy", "report,continue", "--core", "starved.core"])
        .start();
    // After a reported hang, the detector has located what it watches.
    running.wait_for("NMI: sent", 1);
    freeze_threads(running.pid(), "vcpu");
    let finished = running.wait().expect_code(exit::TOOL_FAILED);
    let report = finished.report();
    let Outcome::Starved { cpus, wall_ms, .. } = &report.outcome else {
        panic!("{}", finished.all())
    };
    assert!(!cpus.is_empty() && *wall_ms >= 3000.0, "{cpus:?} {wall_ms}");
    let hang = only_hang(&report);
    assert_eq!((hang.class, &hang.blamed[..]), (Class::DeadHalt, &["cpu1".to_owned()][..]));
    let [_, starved] = &report.backtraces[..] else { panic!("{}", finished.all()) };
    assert_eq!(starved.trigger, Trigger::Starved);
    for cpu in &starved.cpus {
        assert!(!cpu.nmi.sent, "{:?}", cpu.nmi);
        assert!(cpu.host_stack.is_none() && cpu.registers.is_none());
    }
    let core = finished.directory.path().join("starved.core");
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(exit::TOOL_FAILED);
    assert_eq!(Report { source: Source::Live, ..again.report() }, report);
}

/// A healthy guest has a backtrace and no hang.
#[test]
fn a_guest_past_its_time_limit_fails_with_a_backtrace() {
    let finished = run_workload("busy", 2).args(["--time-limit", "2s", "--serial", "none"]).run();
    let finished = finished.expect_code(exit::GUEST_FAILED);
    expect_same_text_from_json(&finished);
    assert!(
        finished.stdout.contains("timed out: not ended after 2.0 s, and had "),
        "{}",
        finished.stdout
    );
    let report = finished.report();
    let Outcome::TimedOut { limit_ms: 2000.0, ran_ms: Some(ran_ms) } = report.outcome else {
        panic!("{:?}", report.outcome)
    };
    assert!(ran_ms > 0.0, "{ran_ms}");
    assert!(report.hangs.is_empty(), "{:?}", report.hangs);
    let [backtrace] = &report.backtraces[..] else { panic!("{}", finished.all()) };
    assert_eq!((&backtrace.trigger, backtrace.nmi_answered), (&Trigger::TimeLimit, 2));
}

#[test]
fn sigterm_takes_a_last_backtrace_and_ends_the_run() {
    let running = run_workload("busy", 2).args(["--serial", "none"]).start();
    running.wait_for("guest ready", 1);
    running.signal(Signal::TERM);
    let finished = running.wait().expect_code(exit::CLEAN);
    let report = finished.report();
    assert_eq!(report.outcome, Outcome::Stopped { by: "SIGTERM".into() });
    let [backtrace] = &report.backtraces[..] else { panic!("{}", finished.all()) };
    assert_eq!(backtrace.trigger, Trigger::Signal { name: "SIGTERM".into() });
}
