//! Guests that are not ours.

use std::path::Path;
use std::process::Command;

use crate::common::*;
use nmiscope::elf_core::Core;
use nmiscope::hang::Class;
use nmiscope_report::{
    CpuFinding, CpuState, CrashCause, Fact, FoundBy, Hang, Outcome, Report, Source, Trigger,
};
use rustix::process::Signal;

/// Assembles a kernel of `tests/fixtures`.
fn assemble(name: &str, output: &Path) {
    assemble_with(name, &[], output);
}

/// The same with symbols for the preprocessor.
fn assemble_with(name: &str, defined: &[&str], output: &Path) {
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
fn a_kernel_that_describes_itself_has_that_in_its_core() {
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

    // No call frame information, no frame pointer: one frame, and a reason.
    let cpu = &report.backtraces[0].cpus[0];
    let look = cpu.host_stack.as_ref().expect("a look");
    assert_eq!(look.frames[0].found_by, Some(FoundBy::Registers));
    assert_eq!(frame_functions(&look.frames[0]), ["long_mode"]);
    assert!(
        look.complete || matches!(cpu.findings[..], [CpuFinding::StackBroken { .. }]),
        "{cpu:#?}"
    );
}

/// One sentence, and the report is made all the same, live and from the core.
#[test]
#[ignore = "needs gcc"]
fn arguments_of_a_kernel_without_debug_information_are_not_to_be_had_and_that_is_said_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let [image, with, without] =
        ["kernel.elf", "with.core", "without.core"].map(|name| folder.path().join(name));
    assemble("vmcoreinfo.S", &image);
    // Two backtraces: the second one has nothing new to say.
    let run = |core: &Path, arguments: &[&str]| {
        let running = nmiscope(["run"])
            .arg(&image)
            .args(["--cpus", "1", "--hang-after", "0", "--nmi-after", "300ms", "--core"])
            .arg(core)
            .args(arguments)
            .with_report()
            .start();
        running.wait_for("backtrace asked for by --nmi-after", 1);
        running.signal(Signal::USR1);
        running.wait_for("backtrace asked for by SIGUSR1", 1);
        running.signal(Signal::INT);
        running.wait().expect_code(exit::CLEAN)
    };
    let again = |core: &Path| {
        let finished = nmiscope(["report", "--args"]).arg(core).with_report().run();
        finished.expect_code(exit::CLEAN)
    };
    let said_once = |finished: &Finished| {
        let report = finished.report();
        let warning = "arguments and locals are not to be had: failed to look up types: \
                       the image has no debug information";
        assert_eq!(report.warnings, [warning], "{}", finished.all());
        assert_eq!(finished.stderr, format!("warning: {warning}\n"), "{}", finished.all());
        report
    };
    let live = run(&with, &["--args"]);
    let report = said_once(&live);
    assert_eq!(report.backtraces.len(), 2);
    assert_eq!(Report { source: Source::Live, ..said_once(&again(&with)) }, report);

    // Nobody has asked during the run.
    let live = run(&without, &[]);
    assert_eq!((live.report().warnings.len(), live.stderr.as_str()), (0, ""), "{}", live.all());
    said_once(&again(&without));
}

/// What is looked for in guests that nobody knows, quickly.
const QUICKLY: [&str; 4] = ["--hang-after", "1s", "--hang-after", "silent=2s"];

const CORE: &str = "guest.core";

/// Runs a kernel that does what its name says. There is a second vCPU, which it never starts.
fn run_foreign(what: &str, arguments: &[&str]) -> Finished {
    require_kvm();
    let run = nmiscope(["run", "--cpus", "2", "--core", CORE]);
    let image = run.directory.path().join("foreign.elf");
    assemble_with("foreign.S", &[what], &image);
    let finished = run.arg(image).args(QUICKLY).args(arguments).with_report().run();
    let warning = "warning: the guest's kernel is not known (the image has no symbol nmi_print_seq): \
                   hangs are found only as far as they show from outside\n";
    assert_eq!(finished.stderr, warning, "{}", finished.all());
    finished
}

/// Its report, which is told again from its core in the same words.
#[track_caller]
fn told_twice(finished: &Finished) -> Report {
    let report = finished.report();
    let core = finished.directory.path().join(CORE);
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(finished.code());
    assert_eq!(Report { source: Source::Live, ..again.report() }, report);
    let written = |line: &&str| !line.starts_with("wrote ");
    let lines = |text: &str| text.lines().filter(written).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&again.stdout), lines(&finished.stdout), "{}", finished.all());
    report
}

/// A hang of cpu0, in a function.
#[track_caller]
fn hangs_in(function: &str, finished: Finished) -> Hang {
    let finished = finished.expect_code(exit::HANG);
    let report = told_twice(&finished);
    let hang = only_hang(&report).clone();
    assert_eq!((&hang.blamed[..], hang.victims.len()), (&["cpu0".to_owned()][..], 0));
    let place =
        format!("\n  cpu0 in {function}\n  cpu1 offline\n  signature {}, likely\n", hang.signature);
    assert!(finished.stdout.contains(&place), "{}", finished.stdout);
    // It cannot take an NMI, and is not killed by one.
    let [backtrace] = &report.backtraces[..] else { panic!("{:#?}", report.backtraces) };
    assert_eq!((&backtrace.trigger, backtrace.nmi_sent), (&Trigger::Hang, 0));
    let [cpu, other] = &backtrace.cpus[..] else { panic!("{:#?}", backtrace.cpus) };
    assert!(no_answer(cpu).contains("no NMI handler"), "{:?}", cpu.nmi);
    assert_eq!(seen_functions(cpu).first().map(String::as_str), Some(function));
    assert_eq!(other.state, CpuState::NotStarted);
    hang
}

#[track_caller]
fn says(hang: &Hang, fact: impl Fn(&Fact) -> bool) {
    let said =
        hang.evidence.iter().any(|evidence| evidence.party == "cpu0" && fact(&evidence.fact));
    assert!(said, "{:#?}", hang.evidence);
}

/// It runs until it is told to stop, and nobody is alarmed.
#[track_caller]
fn gets_on(what: &str) {
    let finished = run_foreign(what, &["--stop-after", "5s"]).expect_code(exit::CLEAN);
    let report = finished.report();
    assert!(report.hangs.is_empty() && report.backtraces.is_empty(), "{}", finished.all());
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_spins_with_interrupts_off_is_locked_up() {
    // It has never had them on: it may be booting.
    let arguments = ["--hang-after", "silent=1m", "--stop-after", "4s"];
    run_foreign("SPINS_WITH_INTERRUPTS_OFF", &arguments).expect_code(exit::CLEAN);
    let arguments = ["--ready-within", "2s", "--hang-after", "silent=1m"];
    let hang = hangs_in("spin_irqs_off", run_foreign("SPINS_WITH_INTERRUPTS_OFF", &arguments));
    assert_eq!(hang.class, Class::HardLockup);
    says(&hang, |fact| matches!(fact, Fact::SeenWithInterruptsOff { ms } if *ms >= 2000.0));
    let stood = |fact: &Fact| {
        matches!(fact, Fact::StoppedAt { halted: false, interrupts_enabled: false, .. })
    };
    says(&hang, stood);
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_halts_with_interrupts_off_is_dead() {
    let hang = hangs_in("halt_irqs_off", run_foreign("HALTS_WITH_INTERRUPTS_OFF", &[]));
    assert_eq!(hang.class, Class::DeadHalt);
    let stood = |fact: &Fact| {
        matches!(fact, Fact::StoppedAt { halted: true, interrupts_enabled: false, .. })
    };
    says(&hang, stood);
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_spins_with_interrupts_on_and_says_nothing_is_silent() {
    let hang = hangs_in("spin_irqs_on", run_foreign("SPINS_WITH_INTERRUPTS_ON", &[]));
    assert_eq!(hang.class, Class::Silent);
    says(&hang, |fact| matches!(fact, Fact::NoOutput { ms } if *ms >= 2000.0));
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_idles_does_not_hang() {
    gets_on("IDLES");
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_has_little_to_do_does_not_hang_although_it_says_nothing() {
    gets_on("WORKS_AND_IDLES");
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_prints_does_not_hang_although_its_interrupts_are_off() {
    gets_on("PRINTS_WITH_INTERRUPTS_OFF");
}

/// Ten looks a second see it with interrupts off each time. KVM's counter says better.
#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_takes_interrupts_now_and_then_is_silent_and_not_locked_up() {
    let finished = run_foreign("TAKES_INTERRUPTS_NOW_AND_THEN", &[]).expect_code(exit::HANG);
    assert_eq!(only_hang(&told_twice(&finished)).class, Class::Silent);
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_hangs_and_is_let_go_on_is_not_harmed_by_the_look() {
    let arguments = ["--hang-policy", "report,continue", "--stop-after", "4s"];
    let finished = run_foreign("SPINS_WITH_INTERRUPTS_ON", &arguments).expect_code(exit::HANG);
    let report = finished.report();
    assert!(matches!(report.outcome, Outcome::Stopped { .. }), "{:?}", report.outcome);
    assert_eq!(only_hang(&report).resolved_after_ms, None);
}

#[test]
#[ignore = "needs gcc"]
fn a_stranger_that_crashes_says_where() {
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
        let report = told_twice(&finished);
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
