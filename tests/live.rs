//! Workloads on a real `/dev/kvm` at 1, 2 and 8 vCPUs, for those with a row below: verdict, blame and
//! stacks are those of the labels (tests/accuracy.rs has the other workloads), and the report has the
//! details that a row checks. The guest's trace shows the frames that the head of the workload's file
//! promises (`Frames: WHERE: FUNCTION, FUNCTION, ...`). The core of a backtrace makes the same report
//! again.
//!
//! The heads are compiled in: expectations come from the workloads, not from the tool.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::common::corpus::{Row, faults, find, promises};
use crate::common::promises::{broken_promises, may_lack_frames};
use crate::common::*;
use nmiscope_report::{
    Backtrace, BufferReservation, CpuFinding, CpuState, Fact, FoundBy, Outcome, Report,
};

/// Name of the core that each run here writes.
const CORE: &str = "hang.core";

/// End of a workload's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// A hang that blames these CPUs.
    Hang(&'static [Culprit]),
    Panic,
    Crash,
    /// Healthy, and stopped by the test after a backtrace.
    Stopped,
    /// An exit by the guest itself, with code 0.
    Left,
}

/// CPU that a workload picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Culprit {
    Number(u32),
    Half,
}

impl Culprit {
    fn number(self, cpus: u32) -> u32 {
        match self {
            Self::Number(cpu) => cpu,
            Self::Half => cpus / 2,
        }
    }
}

const HALF: Ending = Ending::Hang(&[Culprit::Half]);
const FIRST_TWO: Ending = Ending::Hang(&[Culprit::Number(0), Culprit::Number(1)]);

/// Checks the promised frames of both traces. `crashed` is a CPU that was reset and has no stack left.
#[track_caller]
fn check_promises(row: &Row, backtrace: &Backtrace, crashed: Option<u32>) {
    let count = backtrace.cpus.len() as u32;
    for promise in promises(row.source, count) {
        for number in promise.cpus.into_iter().filter(|cpu| Some(*cpu) != crashed) {
            let cpu = &backtrace.cpus[number as usize];
            let word = (!may_lack_frames(row, cpu, count)).then(|| ("word", functions(cpu)));
            for (witness, found) in word.into_iter().chain([("look", seen_functions(cpu))]) {
                assert!(
                    is_subsequence(&promise.functions, &found),
                    "{witness} of cpu{number} of {count}: {:?} are promised, found are {found:?}\n{cpu:#?}",
                    promise.functions,
                );
            }
        }
    }
}

/// Checks that every host stack is complete, by call frame information alone, and that the guest's trace
/// does not contradict it. One workload has a stack without an end.
#[track_caller]
fn check_looks(workload: &str, backtrace: &Backtrace) {
    for cpu in &backtrace.cpus {
        let Some(look) = &cpu.host_stack else { continue };
        let broken = workload == "corrupt-stack" && cpu.cpu == backtrace.cpus.len() as u32 / 2;
        assert_eq!(look.complete, !broken, "{cpu:#?}");
        let by = |frame: &nmiscope_report::Frame| frame.found_by;
        assert!(
            look.frames.iter().all(|frame| by(frame) != Some(FoundBy::FramePointer)),
            "{cpu:#?}"
        );
        let differ = |finding: &CpuFinding| matches!(finding, CpuFinding::StacksDiffer { .. });
        assert!(!cpu.findings.iter().any(differ), "{cpu:#?}");
    }
}

/// Runs a workload, and checks its end and its promises.
fn check(workload: &str, ending: Ending, cpus: u32) -> Report {
    let row = find(workload).expect("a workload of that name");
    let invocation = run_workload(workload, cpus);
    // Handlers that share their cores with other work need more time than the default, which is short for
    // those that never answer.
    let invocation = match workload {
        "nmi-stuck" => invocation,
        _ => invocation.args(["--nmi-timeout", "10s"]),
    };
    let invocation = invocation.args(["--core", CORE]);
    let finished = match ending {
        Ending::Hang(_) => invocation.args(["--hang-after", "500ms"]).run(),
        Ending::Stopped => invocation.start().look_amid(Duration::from_secs(1)),
        Ending::Panic | Ending::Crash | Ending::Left => invocation.run(),
    };
    let report = finished.report();
    let all = || finished.all();
    let code = match (ending, &report.outcome) {
        (Ending::Hang(culprits), Outcome::Hang) => {
            let wanted: Vec<String> =
                culprits.iter().map(|culprit| format!("cpu{}", culprit.number(cpus))).collect();
            assert_eq!(only_hang(&report).blamed, wanted, "{}", all());
            exit::HANG
        }
        (Ending::Panic, Outcome::Panic { cpu, .. }) => {
            assert_eq!(*cpu, cpus / 2, "{}", all());
            exit::CRASH
        }
        (Ending::Crash, Outcome::Crash { cpu, .. }) => {
            assert_eq!(*cpu, cpus / 2, "{}", all());
            exit::CRASH
        }
        (Ending::Stopped, Outcome::Stopped { by }) => {
            assert_eq!(by, "SIGINT", "{}", all());
            exit::CLEAN
        }
        (Ending::Left, Outcome::Exit { code: 0 }) => exit::CLEAN,
        _ => panic!("{ending:?} is what {workload} does: {}", all()),
    };
    assert_eq!(finished.code(), code, "{}", all());
    let backtraces = usize::from(ending != Ending::Left);
    assert_eq!(report.backtraces.len(), backtraces, "{}", all());
    let crashed = match report.outcome {
        Outcome::Crash { cpu, .. } => Some(cpu),
        _ => None,
    };
    for backtrace in &report.backtraces {
        check_looks(workload, backtrace);
        // A guest that takes backtraces of its own without pause need not release the buffers.
        if matches!(backtrace.reservation, BufferReservation::Held { .. }) {
            check_promises(row, backtrace, crashed);
        } else {
            // On an AMD host KVM resets a CPU that has crashed; if it was the only one, no page tables
            // are left.
            let no_cpu_left = crashed.is_some() && cpus == 1;
            assert!(workload == "sysrq-storm" || no_cpu_left, "{}", all());
        }
    }
    let mut wrong = faults(row, &report, cpus);
    wrong.extend(broken_promises(row, &report));
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("; "), all());
    assert_eq!(report.machine.vcpus, cpus);
    assert!(report.ready_after_ms.is_some());
    check_core(&finished, backtraces);
    report
}

/// Checks that a run with a backtrace leaves a core, and a run without one none, and that the core makes
/// the same report again, byte for byte except for `source`.
#[track_caller]
fn check_core(live: &Finished, backtraces: usize) {
    if backtraces == 0 {
        assert_eq!(live.files(), [REPORT], "{}", live.all());
        return;
    }
    assert_eq!(live.files(), [CORE, REPORT], "{}", live.all());
    let core = live.directory.path().join(CORE);
    let again = nmiscope(["report", "--quiet"]).arg(core).with_report().run();
    assert_eq!(again.code(), live.code(), "{}", again.all());
    // The core has the warnings of the run.
    let warnings = live.report().warnings;
    let warned: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    assert_eq!((again.stdout.as_str(), &again.stderr), ("", &warned), "{}", again.all());
    again.report();
    let expected = live.text_of(REPORT).replacen("\"source\": \"live\"", "\"source\": \"core\"", 1);
    let found = again.text_of(REPORT);
    let difference = expected.lines().zip(found.lines()).find(|(live, core)| live != core);
    assert!(expected == found, "{difference:?}: {}\n{}", live.all(), again.all());
}

/// Returns the only backtrace of a report.
fn only(report: &Report) -> &Backtrace {
    assert_eq!(report.backtraces.len(), 1);
    &report.backtraces[0]
}

#[track_caller]
fn everyone_answers(backtrace: &Backtrace) {
    for cpu in &backtrace.cpus {
        assert!(answered(cpu), "cpu{}: {:?}", cpu.cpu, cpu.nmi);
        assert!(cpu.nmi.handler_finished, "cpu{}: {:?}", cpu.cpu, cpu.nmi);
    }
}

/// Declares a test for each workload: it runs at each number of vCPUs, ends as declared and keeps its
/// promises, and its report passes another check.
macro_rules! workloads {
    ($($test:ident: $name:literal, $ending:expr, $cpus:expr, $also:expr;)*) => {
        /// Names of all workloads with a row here.
        pub const WORKLOADS: &[&str] = &[$($name),*];

        $(
            #[test]
            fn $test() {
                for cpus in $cpus {
                    let report = check($name, $ending, cpus);
                    let also: fn(&Report) = $also;
                    also(&report);
                }
            }
        )*
    };
}

const COUNTS: [u32; 3] = [1, 2, 8];

fn all_answer(report: &Report) {
    everyone_answers(only(report));
}

workloads! {
    abba_deadlock_blames_the_first_two_cpus:
        "abba-deadlock", FIRST_TWO, [2, 8], all_answer;
    busy_makes_progress: "busy", Ending::Stopped, COUNTS, all_answer;
    corrupt_stack_hangs_with_one_reliable_frame:
        "corrupt-stack", HALF, COUNTS, only_the_interrupted_frame_is_reliable;
    deep_stack_hangs_and_lost_messages_are_counted:
        "deep-stack", HALF, COUNTS, the_loss_is_counted;
    double_begin_panics_with_its_bug_on_the_console:
        "double-begin", Ending::Panic, COUNTS, the_bug_is_on_the_console;
    exit_ends_with_code_0: "exit", Ending::Left, COUNTS, |_| {};
    halt_irqs_off_hangs_in_hlt:
        "halt-irqs-off", HALF, COUNTS, the_culprit_is_halted;
    idle_is_healthy: "idle", Ending::Stopped, COUNTS, all_answer;
    nmi_stuck_hangs_and_its_nmi_stays_masked:
        "nmi-stuck", HALF, COUNTS, the_nmi_is_masked;
    null_deref_panics: "null-deref", Ending::Panic, COUNTS, the_fault_is_named;
    panic_panics: "panic", Ending::Panic, COUNTS, the_message_is_on_the_console;
    partial_line_hangs_and_its_last_line_is_marked:
        "partial-line", HALF, COUNTS, the_partial_line_is_marked;
    printk_lock_held_hangs_and_all_cpus_answer:
        "printk-lock-held", HALF, COUNTS, all_answer;
    spin_irqs_off_hangs: "spin-irqs-off", HALF, COUNTS, interrupts_are_off;
    spin_irqs_on_hangs_with_ticks:
        "spin-irqs-on", HALF, COUNTS, the_tick_goes_on;
    sysrq_storm_is_healthy:
        "sysrq-storm", Ending::Stopped, COUNTS, |_| {};
    tasks_is_healthy: "tasks", Ending::Stopped, COUNTS, all_answer;
    triple_fault_crashes:
        "triple-fault", Ending::Crash, COUNTS, the_crash_is_placed_or_lost;
}

/// Returns the CPU that a workload with one culprit picks, in the only backtrace.
fn culprit(report: &Report) -> &nmiscope_report::Cpu {
    &only(report).cpus[report.machine.vcpus as usize / 2]
}

fn the_others_answer(report: &Report) {
    let culprit = culprit(report).cpu;
    for cpu in only(report).cpus.iter().filter(|cpu| cpu.cpu != culprit) {
        assert!(answered(cpu), "cpu{}: {:?}", cpu.cpu, cpu.nmi);
    }
}

/// Checks that the crash has a place or none: some hosts' KVM leaves the registers as they were at the
/// triple fault, AMD's resets the vCPU.
fn the_crash_is_placed_or_lost(report: &Report) {
    the_others_answer(report);
    let cpu = culprit(report);
    match &cpu.host_stack {
        Some(_) => assert!(seen_functions(cpu).contains(&"cause_triple_fault".to_owned())),
        None => assert_eq!(cpu.state, CpuState::Reset),
    }
}

fn only_the_interrupted_frame_is_reliable(report: &Report) {
    let word = culprit(report).guest_trace.as_ref().expect("a word");
    assert!(word.frames[0].interrupted && word.frames[0].reliable, "{word:?}");
    assert!(word.frames[1..].iter().all(|frame| !frame.reliable), "{word:?}");
    all_answer(report);
    let look = culprit(report).host_stack.as_ref().expect("a look");
    assert_eq!(look.frames.len(), 1, "{look:#?}");
    let [CpuFinding::StackBroken { reason }] = &culprit(report).findings[..] else {
        panic!("{:?}", culprit(report).findings)
    };
    assert!(reason.contains("is not code"), "{reason}");
}

/// Checks the loss: the buffer holds 4096 bytes, and the trace of 250 levels is longer.
fn the_loss_is_counted(report: &Report) {
    all_answer(report);
    let cpu = culprit(report);
    let word = cpu.guest_trace.as_ref().expect("a word");
    let lost = cpu.nmi.messages_lost.expect("a number");
    assert!(lost > 0);
    assert!(word.text.len() <= 4096 && word.text.len() > 4096 - 64, "{}", word.text.len());
    assert!(word.text.ends_with('\n'), "cut in the middle of a line: {}", word.text);
    assert_eq!(cpu.nmi.bytes, Some(word.text.len() as u32));
    let kept = word.frames.len() as u64;
    // Each level has at least one entry; the message about the loss is the finding's.
    assert!(kept + lost >= 250, "{kept} kept and {lost} lost");
    let findings = word.findings.join("; ");
    assert!(findings.contains(&lost.to_string()), "{lost} lost, but: {findings}");
    let seen = cpu.host_stack.as_ref().expect("a look").frames.len();
    assert!(seen > 250, "{seen} frames");
    let lacking = (seen - word.frames.len()) as u32;
    let wanted = [
        CpuFinding::BufferOverflowed { messages: lost },
        CpuFinding::TraceIncomplete { frames: lacking },
    ];
    assert_eq!(cpu.findings, wanted);
}

fn the_bug_is_on_the_console(report: &Report) {
    let console = report.console_tail.join("\n");
    assert!(
        console.contains("BUG: printk_nmi_backtrace_this_cpu_begin inside of itself"),
        "{console}"
    );
}

fn the_culprit_is_halted(report: &Report) {
    all_answer(report);
    let cpu = culprit(report);
    assert_eq!(cpu.state, CpuState::Halted);
    assert_eq!(cpu.interrupts_enabled, Some(false));
}

fn the_nmi_is_masked(report: &Report) {
    the_others_answer(report);
    let cpu = culprit(report);
    let reason = no_answer(cpu);
    assert!(reason.contains("masked"), "{reason}");
    assert!(cpu.nmi.masked_before && cpu.nmi.pending_after, "{:?}", cpu.nmi);
    assert_eq!(cpu.nmi.delivered, Some(false));
    assert!(!cpu.nmi.handler_finished);
    // The text in its buffer answers another NMI, and is not reported as current.
    assert!(cpu.guest_trace.as_ref().is_some_and(|word| !word.current), "{:?}", cpu.guest_trace);
    assert_eq!(cpu.findings, [CpuFinding::NmiMasked]);
    assert_eq!((cpu.in_nmi, cpu.interrupts_enabled), (Some(true), Some(false)));
    // Through the NMI's stack to the stack that it interrupted.
    let wanted = ["spin_forever", "trap_entry", "trap_common", "get_stuck", "step", "cpu_main"];
    assert!(is_subsequence(&wanted, &seen_functions(cpu)), "{:#?}", cpu.host_stack);
    let interrupted =
        cpu.host_stack.iter().flat_map(|look| &look.frames).filter(|frame| frame.interrupted);
    let names: Vec<String> = interrupted.flat_map(frame_functions).collect();
    assert!(is_subsequence(&["spin_forever", "get_stuck"], &names), "{names:?}");
    assert!(!names.contains(&"step".to_owned()), "{names:?}");
}

fn the_fault_is_named(report: &Report) {
    let console = report.console_tail.join("\n");
    assert!(console.contains("page fault at 0000000000000000"), "{console}");
}

fn the_message_is_on_the_console(report: &Report) {
    let console = report.console_tail.join("\n");
    let wanted = format!("the workload asked for it on cpu{}", report.machine.vcpus / 2);
    assert!(console.contains(&wanted), "{console}");
}

fn the_partial_line_is_marked(report: &Report) {
    all_answer(report);
    let word = culprit(report).guest_trace.as_ref().expect("a word");
    assert!(word.text.ends_with("a line without an end"), "{}", word.text);
    assert!(word.findings.iter().any(|finding| finding.contains("no end")), "{word:?}");
    assert_eq!(culprit(report).findings, [CpuFinding::TraceTruncated]);
}

fn interrupts_are_off(report: &Report) {
    all_answer(report);
    let cpu = culprit(report);
    assert_eq!(cpu.state, CpuState::Running);
    assert_eq!(cpu.interrupts_enabled, Some(false));
    let facts = facts_of_culprit(report);
    assert!(facts.iter().any(|fact| matches!(fact, Fact::NoTick { .. })), "{facts:?}");
    assert!(facts.iter().any(|fact| matches!(fact, Fact::NoSchedule { .. })), "{facts:?}");
}

fn the_tick_goes_on(report: &Report) {
    all_answer(report);
    // A tick may have just come, whose handler runs with interrupts off.
    let cpu = culprit(report);
    let look = cpu.host_stack.as_ref().expect("a look");
    let inside_tick = look.frames.iter().skip(1).any(|frame| frame.interrupted);
    assert_eq!(cpu.interrupts_enabled, Some(!inside_tick), "{look:#?}");
    let facts = facts_of_culprit(report);
    assert!(!facts.iter().any(|fact| matches!(fact, Fact::NoTick { .. })), "{facts:?}");
    let long = |fact: &&Fact| matches!(fact, Fact::NoSchedule { ms, .. } if *ms >= 500.0);
    assert!(facts.iter().any(long), "{facts:?}");
}

/// Returns the evidence about the blamed CPU.
fn facts_of_culprit(report: &Report) -> Vec<&Fact> {
    let culprit = format!("cpu{}", report.machine.vcpus / 2);
    let evidence = only_hang(report).evidence.iter();
    evidence.filter(|evidence| evidence.party == culprit).map(|evidence| &evidence.fact).collect()
}

#[test]
fn a_workload_that_needs_more_cpus_is_refused_by_the_guest() {
    let finished = run_workload("abba-deadlock", 1).run().expect_code(exit::GUEST_FAILED);
    let report = finished.report();
    assert_eq!(report.outcome, Outcome::Exit { code: 2 });
    let console = report.console_tail.join("\n");
    assert!(console.contains("workload abba-deadlock needs at least 2 CPUs"), "{console}");
}

/// Returns the length of a core's file, and the bytes that it takes on the disk.
fn size_of(core: &Finished) -> (u64, u64) {
    let metadata = fs::metadata(core.directory.path().join(CORE)).expect("a core");
    (metadata.len(), metadata.blocks() * 512)
}

#[test]
fn the_core_of_4_vcpus_is_smaller_than_1_mib() {
    let finished = run_workload("abba-deadlock", 4)
        .args(["--hang-after", "500ms", "--nmi-timeout", "10s", "--core", CORE])
        .run()
        .expect_code(exit::HANG);
    let (length, _) = size_of(&finished);
    assert!(length < 1 << 20, "{length} bytes");
    check_core(&finished, 1);
}

/// Full cores have all memory; pages of zeros are holes.
#[test]
fn a_full_core_makes_the_same_report_and_is_sparse() {
    let finished = run_workload("nmi-stuck", 2)
        .args(["--hang-after", "500ms", "--memory", "64M", "--core", CORE, "--core-size", "full"])
        .run()
        .expect_code(exit::HANG);
    let (length, on_disk) = size_of(&finished);
    assert!(length >= 60 << 20, "{length} bytes");
    assert!(on_disk < length / 4, "{on_disk} of {length} bytes are on the disk");
    check_core(&finished, 1);
}
