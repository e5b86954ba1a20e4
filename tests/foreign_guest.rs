//! Guests other than the bundled one: kernels of tests/fixtures, assembled by the test.

use std::path::Path;
use std::process::Command;

use crate::common::*;
use nmiscope::elf_core::Core;
use nmiscope::hang::Class;
use nmiscope_report::{
    CpuFinding, CpuState, CrashCause, Fact, FoundBy, Hang, Outcome, Report, Source, Trigger,
};
use rustix::process::Signal;

/// Assembles a kernel from `tests/fixtures`.
fn assemble(name: &str, output: &Path) {
    assemble_with(name, &[], output);
}

/// Assembles a kernel with symbols for the preprocessor.
pub fn assemble_with(name: &str, defined: &[&str], output: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let status = Command::new("cc")
        .args(["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x200000", "-Wl,-Tdata=0x210000"])
        .arg("-Wl,--build-id")
        .args(defined.iter().map(|symbol| format!("-D{symbol}")))
        .arg("-o")
        .args([output, &source])
        .status()
        .expect("start cc");
    assert!(status.success());
}

#[test]
#[ignore = "needs gcc"]
fn a_core_has_the_vmcoreinfo_of_its_kernel() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("kernel.elf");
    assemble("vmcoreinfo.S", &image);
    let core = folder.path().join("kernel.core");
    let finished = nmiscope(["run"])
        .args([&image])
        .args(["--cpus", "1", "--nmi-after", "300ms", "--stop-after", "400ms", "--core"])
        .args([&core])
        .with_report()
        .run();
    let report = finished.report();
    let bytes = std::fs::read(&core).unwrap_or_else(|_| panic!("{}", finished.all()));
    let stored = Core::parse(&bytes).expect("a core");
    let wanted = &b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n"[..];
    assert_eq!(stored.vmcoreinfo(), Some(wanted));

    // No call frame information and no frame pointer: one frame, and a reason.
    let cpu = &report.backtraces[0].cpus[0];
    let look = cpu.host_stack.as_ref().expect("a look");
    assert_eq!(look.frames[0].found_by, Some(FoundBy::Registers));
    assert_eq!(frame_functions(&look.frames[0]), ["long_mode"]);
    assert!(
        look.complete || matches!(cpu.findings[..], [CpuFinding::StackBroken { .. }]),
        "{cpu:#?}"
    );
}

/// Warns once, and makes the report all the same, live and from the core.
#[test]
#[ignore = "needs gcc"]
fn missing_variables_of_a_kernel_are_warned_of_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let [image, with, without] =
        ["kernel.elf", "with.core", "without.core"].map(|name| folder.path().join(name));
    assemble("vmcoreinfo.S", &image);
    // Two backtraces: the second one adds no warning.
    let run = |core: &Path, arguments: &[&str]| {
        let running = nmiscope(["run"])
            .arg(&image)
            .args(["--cpus", "1", "--hang-after", "0", "--nmi-after", "300ms", "--core"])
            .arg(core)
            .args(arguments)
            .with_report()
            .start();
        running.wait_for("backtrace requested by --nmi-after", 1);
        running.signal(Signal::USR1);
        running.wait_for("backtrace requested by SIGUSR1", 1);
        running.signal(Signal::INT);
        running.wait().expect_code(exit::CLEAN)
    };
    let again = |core: &Path| {
        let finished = nmiscope(["report", "--locals"]).arg(core).with_report().run();
        finished.expect_code(exit::CLEAN)
    };
    let warned_once = |finished: &Finished| {
        let report = finished.report();
        let warning = "arguments and locals are not available: failed to look up types: \
                       the image has no debug information";
        assert_eq!(report.warnings, [warning], "{}", finished.all());
        assert_eq!(finished.stderr, format!("warning: {warning}\n"), "{}", finished.all());
        report
    };
    let live = run(&with, &["--locals"]);
    let report = warned_once(&live);
    assert_eq!(report.backtraces.len(), 2);
    assert_eq!(Report { source: Source::Live, ..warned_once(&again(&with)) }, report);

    // Not requested during the run.
    let live = run(&without, &[]);
    assert_eq!((live.report().warnings.len(), live.stderr.as_str()), (0, ""), "{}", live.all());
    warned_once(&again(&without));
}

/// Short bounds for unknown kernels.
const SHORT_BOUNDS: [&str; 4] = ["--hang-after", "1s", "--hang-after", "silent=2s"];

const CORE: &str = "guest.core";

/// Runs a kernel that does what its name says. It never starts the second vCPU.
fn run_foreign(what: &str, arguments: &[&str]) -> Finished {
    let finished = foreign(what, arguments).run();
    let warning = "warning: unknown kernel (the image has no symbol nmi_print_seq): only hangs that show \
                   from outside the guest are reported\n";
    assert_eq!(finished.stderr, warning, "{}", finished.all());
    finished
}

/// A run of a kernel that does what its name says.
pub fn foreign(what: &str, arguments: &[&str]) -> Invocation {
    require_kvm();
    let run = nmiscope(["run", "--cpus", "2", "--core", CORE]);
    let image = run.directory.path().join("foreign.elf");
    assemble_with("foreign.S", &[what], &image);
    run.arg(image).args(SHORT_BOUNDS).args(arguments).with_report()
}

/// Returns the report, after making it again from the core in the same words.
#[track_caller]
fn report_twice(finished: &Finished) -> Report {
    let report = finished.report();
    let core = finished.directory.path().join(CORE);
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(finished.code());
    assert_eq!(Report { source: Source::Live, ..again.report() }, report);
    let written = |line: &&str| !line.starts_with("wrote ");
    let lines = |text: &str| text.lines().filter(written).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&again.stdout), lines(&finished.stdout), "{}", finished.all());
    report
}

/// Checks the hang of cpu0 in a function, and returns it.
#[track_caller]
fn hangs_in(function: &str, finished: Finished) -> Hang {
    let finished = finished.expect_code(exit::HANG);
    let report = report_twice(&finished);
    let hang = only_hang(&report).clone();
    assert_eq!((&hang.blamed[..], hang.victims.len()), (&["cpu0".to_owned()][..], 0));
    let place =
        format!("\n  cpu0 in {function}\n  cpu1 offline\n  signature {}, likely\n", hang.signature);
    assert!(finished.stdout.contains(&place), "{}", finished.stdout);
    // The guest has no NMI handler, and is not killed by an NMI.
    let [backtrace] = &report.backtraces[..] else { panic!("{:#?}", report.backtraces) };
    assert_eq!((&backtrace.trigger, backtrace.nmi_sent), (&Trigger::Hang, 0));
    let [cpu, other] = &backtrace.cpus[..] else { panic!("{:#?}", backtrace.cpus) };
    assert!(no_answer(cpu).contains("no NMI handler"), "{:?}", cpu.nmi);
    assert_eq!(seen_functions(cpu).first().map(String::as_str), Some(function));
    assert_eq!(other.state, CpuState::NotStarted);
    hang
}

#[track_caller]
fn has_fact(hang: &Hang, fact: impl Fn(&Fact) -> bool) {
    let said =
        hang.evidence.iter().any(|evidence| evidence.party == "cpu0" && fact(&evidence.fact));
    assert!(said, "{:#?}", hang.evidence);
}

/// Checks that a kernel runs until `--stop-after` without a report of a hang.
#[track_caller]
fn does_not_hang(what: &str) {
    let finished = run_foreign(what, &["--stop-after", "5s"]).expect_code(exit::CLEAN);
    let report = finished.report();
    assert!(report.hangs.is_empty() && report.backtraces.is_empty(), "{}", finished.all());
}

#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_spins_with_interrupts_off_is_locked_up() {
    // Interrupts were never on: it may be booting.
    let arguments = ["--hang-after", "silent=1m", "--stop-after", "4s"];
    run_foreign("SPINS_WITH_INTERRUPTS_OFF", &arguments).expect_code(exit::CLEAN);
    let arguments = ["--ready-within", "2s", "--hang-after", "silent=1m"];
    let hang = hangs_in("spin_irqs_off", run_foreign("SPINS_WITH_INTERRUPTS_OFF", &arguments));
    assert_eq!(hang.class, Class::HardLockup);
    has_fact(&hang, |fact| matches!(fact, Fact::SeenWithInterruptsOff { ms } if *ms >= 2000.0));
    let stopped_at = |fact: &Fact| {
        matches!(fact, Fact::StoppedAt { halted: false, interrupts_enabled: false, .. })
    };
    has_fact(&hang, stopped_at);
}

/// The first CPU has taken no interrupt yet, although the second has its interrupts on. An NMI would end the
/// guest, and no answer to it could be read.
#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_computes_beside_an_idle_cpu_is_spared() {
    let what = "COMPUTES_BESIDE_AN_IDLE_CPU";
    let arguments = ["--hang-after", "silent=1m", "--nmi-after", "3s", "--stop-after", "4s"];
    let finished = run_foreign(what, &arguments).expect_code(exit::CLEAN);
    let report = finished.report();
    let [backtrace] = &report.backtraces[..] else { panic!("{:#?}", report.backtraces) };
    assert_eq!(backtrace.nmi_sent, 0, "{}", finished.all());
    let states: Vec<_> = backtrace.cpus.iter().map(|cpu| cpu.state).collect();
    assert_eq!(states, [CpuState::Running, CpuState::Halted], "{}", finished.all());
    assert!(no_answer(&backtrace.cpus[0]).contains("no buffer to read"), "{}", finished.all());
    assert!(!report.hangs.iter().any(|hang| hang.certainty.is_verdict()), "{}", finished.all());

    // Its own grace has an end.
    let arguments = ["--hang-after", "silent=1m", "--ready-within", "2s"];
    let finished = run_foreign(what, &arguments).expect_code(exit::HANG);
    let report = finished.report();
    let hang = only_hang(&report);
    assert_eq!((hang.class, &hang.blamed[..]), (Class::HardLockup, &["cpu0".to_owned()][..]));
    assert_eq!(report.backtraces[0].nmi_sent, 0);
}

#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_halts_with_interrupts_off_is_dead() {
    let hang = hangs_in("halt_irqs_off", run_foreign("HALTS_WITH_INTERRUPTS_OFF", &[]));
    assert_eq!(hang.class, Class::DeadHalt);
    let stopped_at = |fact: &Fact| {
        matches!(fact, Fact::StoppedAt { halted: true, interrupts_enabled: false, .. })
    };
    has_fact(&hang, stopped_at);
}

#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_spins_with_interrupts_on_is_silent() {
    let hang = hangs_in("spin_irqs_on", run_foreign("SPINS_WITH_INTERRUPTS_ON", &[]));
    assert_eq!(hang.class, Class::Silent);
    has_fact(&hang, |fact| matches!(fact, Fact::NoOutput { ms } if *ms >= 2000.0));
}

#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_idles_does_not_hang() {
    does_not_hang("IDLES");
}

#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_works_now_and_then_does_not_hang() {
    does_not_hang("WORKS_AND_IDLES");
}

#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_prints_does_not_hang() {
    does_not_hang("PRINTS_WITH_INTERRUPTS_OFF");
}

/// Ten samples a second always show interrupts off, but KVM's counter shows that they are taken.
#[test]
#[ignore = "needs gcc"]
fn an_unknown_kernel_that_takes_few_interrupts_is_silent() {
    let finished = run_foreign("TAKES_INTERRUPTS_NOW_AND_THEN", &[]).expect_code(exit::HANG);
    assert_eq!(only_hang(&report_twice(&finished)).class, Class::Silent);
}

#[test]
#[ignore = "needs gcc"]
fn a_continued_unknown_kernel_is_not_harmed_by_its_capture() {
    let arguments = ["--hang-policy", "report,continue"];
    let running = foreign("SPINS_WITH_INTERRUPTS_ON", &arguments).start();
    // A loaded host needs longer for the guest's own two seconds.
    running.wait_for("hang: silent", 1);
    running.signal(Signal::INT);
    let finished = running.wait().expect_code(exit::HANG);
    let report = finished.report();
    assert!(matches!(report.outcome, Outcome::Stopped { .. }), "{:?}", report.outcome);
    assert_eq!(only_hang(&report).resolved_after_ms, None);
}

/// The words above a hand-made stack are no return address, and nothing says so.
#[test]
#[ignore = "needs gcc"]
fn a_stack_made_by_hand_ends_and_is_not_broken() {
    require_kvm();
    let look = |defined: &[&str]| {
        let run = nmiscope(["run", "--cpus", "2", "--hang-after", "0", "--nmi-after", "500ms"]);
        let image = run.directory.path().join("foreign.elf");
        assemble_with("ap_stack.S", defined, &image);
        let finished = run.arg(image).args(["--stop-after", "1s"]).with_report().run();
        let report = finished.expect_code(exit::CLEAN).report();
        report.backtraces[0].cpus[1].clone()
    };
    let rows: [(&[&str], &[&str]); 4] = [
        (&[], &["ap_main"]),
        (&["HALTS"], &["ap_main"]),
        (&["HALTS", "STAYS_IN_COPY"], &[]),
        (&["HALTS", "CUT"], &["ap_main"]),
    ];
    for (defined, functions) in rows {
        let cpu = look(defined);
        assert_eq!(seen_functions(&cpu), functions, "{defined:?}: {cpu:#?}");
        let is_cut = defined.contains(&"CUT");
        assert_eq!(
            cpu.host_stack.as_ref().expect("a look").complete,
            !is_cut,
            "{defined:?}: {cpu:#?}"
        );
        let broken = |finding: &CpuFinding| matches!(finding, CpuFinding::StackBroken { .. });
        assert_eq!(cpu.findings.iter().any(broken), is_cut, "{defined:?}: {cpu:#?}");
    }
}

#[test]
#[ignore = "needs gcc"]
fn a_crash_of_an_unknown_kernel_is_located() {
    let rows = [
        ("EXCEPTION", CrashCause::TripleFault, "crash: cpu0: triple fault\n"),
        (
            "NOT_EMULATED",
            CrashCause::KvmError,
            "crash: cpu0: KVM could not emulate an instruction (suberror 1) at rip 0x",
        ),
    ];
    for (what, wanted, text) in rows {
        let finished = run_foreign(what, &[]).expect_code(exit::CRASH);
        let report = report_twice(&finished);
        let Outcome::Crash { cpu: 0, cause, .. } = &report.outcome else {
            panic!("{:?}", report.outcome)
        };
        assert_eq!(*cause, wanted);
        assert!(finished.stdout.contains(text), "{}", finished.stdout);
        assert!(report.hangs.is_empty());
        let look = report.backtraces[0].cpus[0].host_stack.as_ref().expect("a look");
        assert_eq!(frame_functions(&look.frames[0]), ["_start"]);
    }
}
