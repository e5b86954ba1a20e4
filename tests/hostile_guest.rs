//! Guests whose structures are garbage: the bundled one with bytes changed. The tool marks what it finds,
//! ends with a documented code, never panics, and lets no control character through to the terminal.

use std::time::Duration;

use crate::common::image::{Patched, address_of, bundled, function, section};
use crate::common::*;
use nmiscope::hang::Class;
use nmiscope_report::{
    Backtrace, BufferReservation, CpuFinding, FoundBy, Frame, Outcome, Report, Trigger,
};

const IMAGE: &str = "guest.elf";

/// Runs a guest, with enough time for its NMI handlers.
fn run(guest: &Patched, arguments: &[&str]) -> Finished {
    invocation(guest, arguments).run()
}

fn invocation(guest: &Patched, arguments: &[&str]) -> Invocation {
    require_kvm();
    nmiscope(["run", IMAGE, "--cpus", "2", "--memory", "32M"])
        .args(arguments)
        .with_report()
        .with_file(IMAGE, &guest.0)
}

/// Runs a guest until its hang is reported.
fn hang(guest: &Patched) -> (Finished, Report) {
    let finished = run(guest, &["--workload", "spin-irqs-off", "--hang-after", "300ms"]);
    let finished = finished.expect_code(exit::HANG);
    harmless(&finished);
    let report = finished.report();
    (finished, report)
}

/// Guest whose workload `busy` writes these values to these addresses, and then loops.
fn writing_guest(writes: &[(u64, u32)]) -> Patched {
    let mut code = Vec::new();
    for (address, value) in writes {
        // mov dword ptr [disp32], imm32 (SDM vol. 2, MOV: C7 /0 id; SIB 25 is an absolute disp32).
        code.extend([0xc7, 0x04, 0x25]);
        code.extend((*address as u32).to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    // A jump to itself.
    code.extend([0xeb, 0xfe]);
    bundled().function("4busy10mix_rounds", &code)
}

/// Runs the guest, and takes a backtrace after it has written. Detection is off, since its heartbeats may
/// not be found.
#[track_caller]
fn run_and_capture(writes: &[(u64, u32)]) -> (Finished, Report) {
    let running =
        invocation(&writing_guest(writes), &["--workload", "busy", "--hang-after", "0"]).start();
    let finished = running.look_amid(Duration::from_millis(200));
    harmless(&finished);
    // Its NMI handler may panic on the values.
    let code = finished.code();
    assert!(code == exit::CLEAN || code == exit::CRASH, "{}", finished.all());
    let report = finished.report();
    assert!(!report.backtraces.is_empty(), "{}", finished.all());
    (finished, report)
}

#[track_caller]
fn everyone_answers(backtrace: &Backtrace) {
    for cpu in &backtrace.cpus {
        assert!(answered(cpu), "cpu{}: {:?}", cpu.cpu, cpu.nmi);
    }
}

#[test]
fn a_guest_that_writes_nothing_answers() {
    let (_, report) = run_and_capture(&[]);
    everyone_answers(&report.backtraces[0]);
    assert!(matches!(report.backtraces[0].reservation, BufferReservation::Held { .. }));
}

#[test]
fn a_stale_length_beyond_the_buffer_is_discarded_and_reported() {
    let guest = bundled().variable("nmi_print_seq", "seq.len", &u32::MAX.to_le_bytes());
    let (_, report) = hang(&guest);
    let backtrace = &report.backtraces[0];
    everyone_answers(backtrace);
    for cpu in &backtrace.cpus {
        assert!(cpu.nmi.stale_bytes > 0, "{:?}", cpu.nmi);
        let text = &cpu.guest_trace.as_ref().expect("a word").text;
        assert!(text.starts_with(&format!("NMI backtrace for cpu {}\n", cpu.cpu)), "{text}");
    }
}

/// Counts without text are left by a handler that ran for a client inside the guest, while the client was
/// reading.
#[test]
fn messages_lost_by_an_earlier_handler_are_not_counted() {
    for member in ["missed", "seq.lost"] {
        let guest = bundled().variable("nmi_print_seq", member, &5u32.to_le_bytes());
        let (_, report) = hang(&guest);
        for cpu in &report.backtraces[0].cpus {
            assert!(answered(cpu), "{member}: {:?}", cpu.nmi);
            assert_eq!(cpu.nmi.messages_lost, Some(0), "{member}: {:?}", cpu.nmi);
            let word = cpu.guest_trace.as_ref().expect("a word");
            assert!(word.findings.is_empty(), "{member}: {:?}", word.findings);
        }
    }
}

#[test]
fn a_buffer_with_a_garbage_owner_is_no_answer() {
    let guest = bundled().variable("nmi_print_seq", "owner", &77u32.to_le_bytes());
    let (_, report) = hang(&guest);
    for cpu in &report.backtraces[0].cpus {
        let reason = no_answer(cpu);
        assert!(reason.contains("garbage"), "{reason}");
        assert!(cpu.nmi.handler_finished);
        assert!(cpu.nmi.messages_lost > Some(0), "{:?}", cpu.nmi);
    }
}

#[test]
fn a_buffer_full_of_garbage_is_marked() {
    let text =
        b"\x1b]0;owned\x07\x1b[2J\xff\xfe\0Call Trace:\n [<ffffffffffffffff>]\n [<\x1b[31m>]\n";
    let guest = bundled()
        .variable("nmi_print_seq", "owner", &77u32.to_le_bytes())
        .variable("nmi_print_seq", "seq.len", &u32::MAX.to_le_bytes())
        .variable("nmi_print_seq", "seq.buffer", text);
    let (finished, report) = hang(&guest);
    for cpu in &report.backtraces[0].cpus {
        let word = cpu.guest_trace.as_ref().expect("what is in the buffer");
        assert_eq!(word.text.chars().filter(|&c| c == '\u{1b}').count(), 3, "JSON has all of it");
        let findings = word.findings.join("; ");
        for wanted in ["length is garbage", "owner is garbage", "garbled"] {
            assert!(findings.contains(wanted), "{wanted}: {findings}");
        }
        assert!(cpu.findings.contains(&CpuFinding::TraceGarbled), "{:?}", cpu.findings);
    }
    assert!(finished.stdout.contains("length is garbage"), "{}", finished.stdout);
}

#[test]
fn a_garbage_number_of_cpus_is_bounded() {
    let place = address_of("nr_cpu_ids", "");
    for garbage in [0, 1, 3, 0x7fff_ffff, u32::MAX] {
        let (_, report) = run_and_capture(&[(place, garbage)]);
        let backtrace = &report.backtraces[0];
        for cpu in backtrace.cpus.iter().filter(|cpu| cpu.cpu >= garbage) {
            let reason = no_answer(cpu);
            assert!(reason.contains(&format!("knows of {garbage} CPUs")), "{reason}");
        }
        let known = backtrace.cpus.iter().filter(|cpu| cpu.cpu < garbage);
        known.for_each(|cpu| assert!(answered(cpu), "cpu{}: {:?}", cpu.cpu, cpu.nmi));
    }
}

#[test]
fn garbage_per_cpu_offsets_cost_the_answer_with_a_reason() {
    let place = address_of("__per_cpu_offset", "");
    // Unmapped, not canonical, and wrapping around.
    for (low, high) in [(0x1000_0000, 0x1234), (0, 0x8000_0000), (u32::MAX, u32::MAX)] {
        let slots = [(place + 8, low), (place + 12, high)];
        let (_, report) = run_and_capture(&slots);
        let backtrace = &report.backtraces[0];
        assert!(answered(&backtrace.cpus[0]), "{:?}", backtrace.cpus[0].nmi);
        let reason = no_answer(&backtrace.cpus[1]);
        assert!(!reason.is_empty(), "{reason}");
    }
}

#[test]
fn missing_heartbeats_do_not_panic_the_tool() {
    let place = address_of("__per_cpu_offset", "");
    let slots = [(place, 0x1000_0000), (place + 4, 0x1234), (place + 12, 0x8000_0000)];
    let arguments = ["--workload", "busy", "--hang-after", "300ms", "--stop-after", "2s"];
    let finished = run(&writing_guest(&slots), &arguments);
    harmless(&finished);
    let code = finished.code();
    assert!(code == exit::CLEAN || code == exit::HANG, "{}", finished.all());
    finished.report();
}

#[test]
fn buffers_that_are_never_released_are_refused_with_their_holder() {
    let owner = address_of("PRINTK", "nmi_print_flag.owner");
    let (_, report) = run_and_capture(&[(owner, 2)]);
    let reservation = &report.backtraces[0].reservation;
    let BufferReservation::Refused { holder, waited_ms, .. } = reservation else {
        panic!("{reservation:?}");
    };
    assert_eq!(*holder, Some(1), "a guest CPU stores its number plus one");
    assert!(*waited_ms >= 1000.0, "the bound is a second: {waited_ms}");
    // The backtrace is taken without them.
    everyone_answers(&report.backtraces[0]);
}

#[test]
fn a_garbage_holder_of_the_buffers_has_no_name() {
    let owner = address_of("PRINTK", "nmi_print_flag.owner");
    let since = address_of("PRINTK", "nmi_print_flag.since_ns");
    let (finished, report) =
        run_and_capture(&[(owner, 0xdead_beef), (since, u32::MAX), (since + 4, u32::MAX)]);
    let reservation = &report.backtraces[0].reservation;
    let BufferReservation::Refused { holder: None, held_ms: None, .. } = reservation else {
        panic!("{reservation:?}");
    };
    assert!(finished.stdout.contains("no CPU of the guest"), "{}", finished.stdout);
}

#[test]
fn a_garbage_clock_does_not_fail_the_backtrace() {
    let owner = address_of("PRINTK", "nmi_print_flag.owner");
    let scale = address_of("sched_clock", "ns_per_tsc_shifted");
    let (_, report) = run_and_capture(&[(owner, 1), (scale, u32::MAX), (scale + 4, u32::MAX)]);
    assert!(matches!(report.backtraces[0].reservation, BufferReservation::Refused { .. }));
}

#[test]
fn a_guest_that_never_becomes_ready_is_a_boot_stall() {
    let (address, _) = function("kernel_main");
    let guest = bundled().at_address(address, &[0xeb, 0xfe]);
    let finished = run(&guest, &["--ready-within", "500ms"]).expect_code(exit::HANG);
    let report = finished.report();
    let hang = only_hang(&report);
    assert_eq!((hang.class, &hang.blamed[..]), (Class::BootStall, &["cpu0".to_owned()][..]));
    assert!((500.0..2500.0).contains(&hang.lasted_ms), "{}", hang.lasted_ms);
    assert_eq!(report.ready_after_ms, None);
    assert_eq!(report.backtraces[0].trigger, Trigger::Hang);
    let look = report.backtraces[0].cpus[0].host_stack.as_ref().expect("a look");
    assert_eq!(frame_functions(&look.frames[0]), ["kernel_main"]);
}

#[test]
fn an_unmapped_stack_pointer_leaves_one_frame_and_the_address() {
    let (address, _) = function("kernel_main");
    // mov rsp, 0xffffffff80123450; mov rbp, rsp; jmp $: nothing is mapped below the text. Its CFI
    // finds the return address by RBP, as the function's own prologue would have it.
    let code = [0x48, 0xc7, 0xc4, 0x50, 0x34, 0x12, 0x80, 0x48, 0x89, 0xe5, 0xeb, 0xfe];
    let guest = bundled().at_address(address, &code);
    let finished = run(&guest, &["--ready-within", "500ms"]).expect_code(exit::HANG);
    let report = finished.report();
    let cpu = &report.backtraces[0].cpus[0];
    assert_eq!(cpu.host_stack.as_ref().expect("a look").frames.len(), 1, "{cpu:#?}");
    let [CpuFinding::StackUnreadable { reason }] = &cpu.findings[..] else {
        panic!("{:?}", cpu.findings)
    };
    assert!(reason.contains("ffffffff8012345") && reason.contains("not present"), "{reason}");
}

#[test]
fn garbage_call_frame_information_falls_back_to_frame_pointers() {
    let (offset, length) = section(".eh_frame");
    let guest = bundled().at_offset(offset, &vec![0xff; length]);
    let (_, report) = hang(&guest);
    for cpu in &report.backtraces[0].cpus {
        let look = cpu.host_stack.as_ref().expect("a look");
        let [first, callers @ ..] = &look.frames[..] else { panic!("{look:#?}") };
        let fault = first.cfi_fault.as_ref().expect("a fault");
        assert!(fault.contains(".eh_frame"), "{fault}");
        let by_pointer = |frame: &Frame| frame.found_by == Some(FoundBy::FramePointer);
        assert!(!callers.is_empty() && callers.iter().all(by_pointer), "{look:#?}");
        assert!(is_subsequence(&["cpu_main"], &seen_functions(cpu)), "{look:#?}");
    }
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_a_crash() {
    let (address, _) = function("kernel_main");
    // ud2, with no interrupt table yet: the exception cannot be delivered.
    let guest = bundled().at_address(address, &[0x0f, 0x0b]);
    let finished = run(&guest, &[]).expect_code(exit::CRASH);
    assert!(matches!(finished.report().outcome, Outcome::Crash { cpu: 0, .. }));
}

const EVIL: &str = "\u{1b}[31mEVIL\u{7}\u{9b}2J";

#[test]
fn control_characters_of_the_guest_do_not_reach_the_terminal() {
    require_kvm();
    let finished = run_workload("exit", 1).args(["--append", EVIL]).run().expect_code(exit::CLEAN);
    harmless(&finished);
    assert!(finished.stdout.contains("EVIL"), "{}", finished.stdout);
}

#[test]
fn control_characters_reach_a_console_file_unchanged() {
    let finished = run_workload("exit", 1)
        .args(["--append", EVIL, "--serial", "console"])
        .run()
        .expect_code(exit::CLEAN);
    let console = std::fs::read(finished.directory.path().join("console")).expect("a file");
    assert!(console.windows(EVIL.len()).any(|window| window == EVIL.as_bytes()), "{console:?}");
    assert!(
        !finished.stdout.contains("EVIL"),
        "console output is printed twice: {}",
        finished.stdout
    );
}

#[test]
fn control_characters_are_escaped_in_json() {
    let finished = run_workload("exit", 1).args(["--append", EVIL]).run().expect_code(exit::CLEAN);
    let bytes = std::fs::read(finished.directory.path().join("report.json")).expect("a file");
    assert!(!bytes.iter().any(|&byte| byte < 0x20 && byte != b'\n'), "raw control characters");
    let report = finished.report();
    assert_eq!(report.image.command_line, format!("workload=exit {EVIL}"));
    assert!(report.console_tail.iter().any(|line| line.contains(EVIL)), "{report:?}");
}
