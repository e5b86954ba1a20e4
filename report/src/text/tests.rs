//! Texts of backtraces, with expected lines that were worked out by hand.

use super::{Detail, backtrace, size};
use crate::*;

const LOCK_CALL: u32 = 48;

fn function(name: &str, file: &str, line: u32, inlined: bool) -> Function {
    Function {
        name: Some(name.into()),
        file: Some(file.into()),
        line: Some(line),
        column: None,
        inlined,
        variables: Vec::new(),
        variables_omitted: 0,
    }
}

fn frame(interrupted: bool, functions: Vec<Function>) -> Frame {
    Frame {
        address: "ffffffff80200000".into(),
        interrupted,
        reliable: true,
        found_by: None,
        cfi_fault: None,
        symbol: None,
        functions,
        missing: None,
    }
}

fn stack(frames: Vec<Frame>) -> HostStack {
    HostStack { frames, complete: true, end: "the outermost frame".into() }
}

/// A lock that spins, in the frame of the function that asks for it.
fn waiting(caller: &str) -> Vec<Frame> {
    vec![
        frame(
            true,
            vec![
                function("core::hint::spin_loop", "core/src/hint.rs", 287, true),
                function("kernel::spinlock::wait", "src/spinlock.rs", 61, true),
                function("kernel::lock::lock", "src/lock.rs", 105, true),
                function("kernel::abba::take_second", "src/abba.rs", LOCK_CALL, false),
            ],
        ),
        frame(
            false,
            vec![
                function("core::ops::function::call_once", "core/src/ops.rs", 250, true),
                function(caller, "src/abba.rs", 43, false),
            ],
        ),
    ]
}

fn idling() -> Vec<Frame> {
    vec![frame(true, vec![function("kernel::idle", "src/idle.rs", 9, false)])]
}

fn cpu(number: u32, state: CpuState, interrupts: Option<bool>, frames: Vec<Frame>) -> Cpu {
    Cpu {
        cpu: number,
        state,
        interrupts_enabled: interrupts,
        registers: None,
        in_nmi: Some(false),
        nmi: Nmi {
            sent: false,
            delivered: None,
            masked_before: false,
            masked_after: false,
            pending_after: false,
            handler_finished: false,
            ran_ms: None,
            answer: NmiAnswer::NoAnswer { reason: "not asked".into() },
            bytes: None,
            messages_lost: None,
            stale_bytes: 0,
        },
        guest_trace: None,
        host_stack: (!frames.is_empty()).then(|| stack(frames)),
        findings: Vec::new(),
        context: None,
    }
}

/// A backtrace of vCPUs that all have stacks of their own, from a dump.
fn taken(cpus: Vec<Cpu>) -> Backtrace {
    Backtrace {
        trigger: Trigger::Dump,
        at_ms: 0.0,
        reservation: BufferReservation::NotAsked,
        nmi_sent: 0,
        nmi_answered: 0,
        elapsed_ms: 0.0,
        groups: cpus.iter().map(|cpu| vec![cpu.cpu]).collect(),
        cpus,
        tasks: Vec::new(),
        sleeping_tasks: 0,
        waits: None,
        log: None,
        history: None,
    }
}

fn cpu_node(number: u32, task: Option<&str>) -> WaitNode {
    let activity = ActivityState::Running;
    let task = task.map(str::to_owned);
    WaitNode { id: format!("cpu{number}"), kind: NodeKind::Cpu { cpu: number, activity, task } }
}

fn task_node(number: u32, name: &str, state: TaskState) -> WaitNode {
    let kind = NodeKind::Task { task: number, name: name.into(), cpu: 0, state };
    WaitNode { id: name.into(), kind }
}

fn hang(blamed: &[&str], nodes: Vec<WaitNode>) -> Hang {
    let wait = |party: &&str| WaitEdge {
        from: (*party).into(),
        to: "INODE_LOCK".into(),
        kind: WaitKind::WaitsFor,
        call_site: Some(SourceLine { file: "src/abba.rs".into(), line: LOCK_CALL }),
        lasted_ms: None,
    };
    Hang {
        class: Class::Deadlock,
        signature: "0123456789abcdef".into(),
        bucket: Some("deadlock:take_second:INODE_LOCK<->JOURNAL_LOCK".into()),
        at_ms: 0.0,
        lasted_ms: 2000.0,
        blamed: blamed.iter().map(|&party| party.into()).collect(),
        locks: vec!["INODE_LOCK".into()],
        victims: Vec::new(),
        edges: blamed.iter().map(wait).collect(),
        nodes,
        evidence: Vec::new(),
        spins: Vec::new(),
        certainty: Certainty::Certain,
        backtrace: Some(0),
        resolved_after_ms: None,
    }
}

fn shown(taken: &Backtrace, hangs: &[Hang], detail: Detail) -> String {
    anstream::adapter::strip_str(&backtrace(taken, hangs, detail)).to_string()
}

#[test]
fn the_function_that_waits_comes_first_and_its_lock_is_folded() {
    let (running, off) = (CpuState::Running, Some(false));
    let taken = taken(vec![cpu(0, running, off, waiting("kernel::abba::take_both"))]);
    let hangs = [hang(&["cpu0"], vec![cpu_node(0, None)])];
    let expected = "\
1 vCPU, seen from outside

cpu0  running, interrupts off
  host's stack:
  #0  take_second             src/abba.rs:48
      calls lock > wait > spin_loop
  #1  take_both               src/abba.rs:43

";
    assert_eq!(shown(&taken, &hangs, Detail::Folded), expected);
}

#[test]
fn a_verbose_text_has_every_function_of_a_stack() {
    let (running, off) = (CpuState::Running, Some(false));
    let taken = taken(vec![cpu(0, running, off, waiting("kernel::abba::take_both"))]);
    let hangs = [hang(&["cpu0"], vec![cpu_node(0, None)])];
    let expected = "\
1 vCPU, seen from outside

cpu0  running, interrupts off
  host's stack:
  #0  spin_loop               core/src/hint.rs:287
  in  wait                    src/spinlock.rs:61
  in  lock                    src/lock.rs:105
  in  take_second             src/abba.rs:48
  #1  call_once               core/src/ops.rs:250
  in  take_both               src/abba.rs:43

";
    assert_eq!(shown(&taken, &hangs, Detail::All), expected);
}

#[test]
fn blamed_parties_come_before_idle_cpus_which_share_a_line() {
    let mut cpus = vec![cpu(0, CpuState::Halted, Some(true), idling())];
    cpus.push(cpu(1, CpuState::Halted, Some(false), idling()));
    cpus.push(cpu(2, CpuState::Running, Some(true), waiting("kernel::abba::take_both")));
    cpus.extend((3..64).map(|number| cpu(number, CpuState::Halted, Some(true), idling())));
    let mut taken = taken(cpus);
    taken.tasks = vec![Task {
        task: 7,
        name: "writer".into(),
        cpu: 0,
        state: TaskState::Blocked,
        waits_for: Some("INODE_LOCK".into()),
        asleep_ms: None,
        switches: 3,
        host_stack: Some(stack(waiting("kernel::abba::write"))),
    }];
    let nodes = vec![cpu_node(2, None), task_node(7, "writer", TaskState::Blocked)];
    let hangs = [hang(&["cpu2", "writer"], nodes)];
    let expected = "\
64 vCPUs, seen from outside

cpu2  running, interrupts on
  host's stack:
  #0  take_second             src/abba.rs:48
      calls lock > wait > spin_loop
  #1  take_both               src/abba.rs:43

task writer  on cpu0, blocked, waits for INODE_LOCK
  #0  take_second             src/abba.rs:48
      calls lock > wait > spin_loop
  #1  write                   src/abba.rs:43

cpu1  halted, interrupts off
  host's stack:
  #0  idle                    src/idle.rs:9

cpu0, cpu3-cpu63  idle (halted, interrupts on)

";
    assert_eq!(shown(&taken, &hangs, Detail::Folded), expected);
}

#[test]
fn an_idle_cpu_that_is_blamed_keeps_its_stack() {
    let taken = taken(vec![cpu(0, CpuState::Halted, Some(true), idling())]);
    let hangs = [hang(&["cpu0"], vec![cpu_node(0, None)])];
    let text = shown(&taken, &hangs, Detail::Folded);
    assert!(text.contains("cpu0  halted, interrupts on\n"), "{text}");
    assert!(text.contains("#0  idle "), "{text}");
}

#[test]
fn a_blamed_cpu_has_a_row_apart_from_equal_stacks_of_others() {
    let waiting = |name: &str| {
        let inner = function("kernel::arch::interrupts_on", "src/arch.rs", 113, true);
        vec![
            frame(true, vec![inner, function(name, "src/kthread.rs", 124, false)]),
            frame(false, vec![function("kernel::cpu_main", "src/main.rs", 176, false)]),
        ]
    };
    let idle = |number: u32| {
        cpu(number, CpuState::Halted, Some(true), waiting("kernel::wait_for_interrupt"))
    };
    let taken = Backtrace { groups: vec![vec![0, 1, 2, 3]], ..taken((0..4).map(idle).collect()) };
    let stopped_at = Fact::StoppedAt {
        halted: true,
        interrupts_enabled: true,
        nmi_masked: false,
        handler: None,
        address: "ffffffff80200000".into(),
        function: Some("kernel::wait_for_interrupt".into()),
        line: None,
    };
    let hang = Hang {
        edges: Vec::new(),
        victims: vec!["cpu3".into()],
        evidence: vec![Evidence { party: "cpu2".into(), fact: stopped_at }],
        ..hang(&["cpu2"], (0..4).map(|number| cpu_node(number, None)).collect())
    };
    let expected = "\
4 vCPUs, seen from outside

cpu2  halted, interrupts on
  host's stack:
  #0  wait_for_interrupt      src/kthread.rs:124
      calls interrupts_on
  #1  cpu_main                src/main.rs:176

cpu3  halted, interrupts on
  host's stack:
  #0  interrupts_on           src/arch.rs:113
  in  wait_for_interrupt      src/kthread.rs:124
  #1  cpu_main                src/main.rs:176

cpu0, cpu1  idle (halted, interrupts on)

";
    assert_eq!(shown(&taken, &[hang], Detail::Folded), expected);
}

#[test]
fn waits_that_a_hang_names_are_not_repeated() {
    let wait = |from: &str, to: &str, kind: WaitKind| WaitEdge {
        from: from.into(),
        to: to.into(),
        kind,
        call_site: None,
        lasted_ms: Some(2000.0),
    };
    let edges = vec![
        wait("cpu0", "INODE_LOCK", WaitKind::WaitsFor),
        wait("INODE_LOCK", "cpu1", WaitKind::HeldBy),
        wait("cpu2", "INODE_LOCK", WaitKind::WaitsFor),
        wait("cpu3", "cpu1", WaitKind::CallsFunction),
    ];
    let nodes = || (0..4).map(|number| cpu_node(number, None)).collect();
    let mut taken = taken((0..4).map(|n| cpu(n, CpuState::Running, None, idling())).collect());
    taken.waits = Some(WaitGraph { nodes: nodes(), edges: edges.clone() });
    let other_waits = "\
cpu2 waits for INODE_LOCK, held by cpu1 (2.0 s)
cpu3 waits for cpu1 to answer its call-function IPI (2.0 s)

";
    let hang = hang(&["cpu0"], nodes());
    for trigger in [Trigger::Dump, Trigger::Hang] {
        taken.trigger = trigger;
        let text = shown(&taken, std::slice::from_ref(&hang), Detail::Folded);
        assert!(text.contains(other_waits), "{text}");
        assert!(!text.contains("cpu0 waits for"), "{text}");
    }
    let text = shown(&taken, &[], Detail::Folded);
    assert!(text.contains("cpu0 waits for INODE_LOCK, held by cpu1 (2.0 s)\n"), "{text}");
    let mut victims = hang;
    victims.blamed = vec!["cpu1".into()];
    victims.victims = vec!["cpu0".into(), "cpu2".into(), "cpu3".into()];
    victims.edges = edges;
    let text = shown(&taken, &[victims], Detail::Folded);
    assert!(!text.contains(" waits for "), "{text}");
}

#[test]
fn special_conditions_of_cpus_are_named() {
    let mut handler = vec![frame(true, vec![function("kernel::tick", "src/tick.rs", 5, false)])];
    handler.push(frame(true, vec![function("kernel::poll", "src/poll.rs", 12, false)]));
    let cpus = vec![
        cpu(0, CpuState::Running, Some(false), handler),
        cpu(1, CpuState::NotStarted, None, Vec::new()),
        cpu(2, CpuState::Running, Some(true), idling()),
        cpu(3, CpuState::ProbablyHalted, Some(true), idling()),
    ];
    let nodes = vec![cpu_node(2, Some("reader")), task_node(1, "reader", TaskState::Ended)];
    let expected = "\
4 vCPUs, seen from outside

cpu0  running, interrupts off, in an interrupt or exception handler
  host's stack:
  #0  tick                    src/tick.rs:5
  #1  poll                    src/poll.rs:12  (interrupted)

cpu1  offline: not started

cpu2  running, interrupts on, its task reader has ended
  host's stack:
  #0  idle                    src/idle.rs:9

cpu3  likely idle (after a HLT, interrupts on)

";
    assert_eq!(shown(&taken(cpus), &[hang(&[], nodes)], Detail::Folded), expected);
}

#[test]
fn an_interrupt_above_the_blamed_function_is_folded_and_marked() {
    let mut frames = vec![
        frame(true, vec![function("kernel::tick", "src/tick.rs", 5, false)]),
        frame(false, vec![function("trap_entry", "src/trap.rs", 36, false)]),
    ];
    frames.extend(waiting("kernel::abba::take_both"));
    let taken = taken(vec![cpu(0, CpuState::Running, Some(false), frames)]);
    let hangs = [hang(&["cpu0"], vec![cpu_node(0, None)])];
    let text = shown(&taken, &hangs, Detail::Folded);
    let lines: Vec<&str> = text.lines().skip(2).take(4).collect();
    let expected = [
        "cpu0  running, interrupts off, in an interrupt or exception handler",
        "  host's stack:",
        "  #2  take_second             src/abba.rs:48  (interrupted)",
        "      calls lock > wait > spin_loop > (interrupted) trap_entry > tick",
    ];
    assert_eq!(lines, expected);
}

/// A boot CPU that waits for another one to come online, as the workload `ap-never-starts` has it.
fn starting_others() -> Vec<Frame> {
    let smp = |name: &str, line: u32, inlined: bool| {
        function(&format!("kernel::smp::{name}"), "src/smp.rs", line, inlined)
    };
    let spinning = vec![
        function("core::sync::atomic::atomic_load", "core/src/sync/atomic.rs", 3891, true),
        smp("start_others::{{closure}}", 98, true),
        smp("start_others::{{closure}}", 108, true),
        smp("wait_until", 150, true),
        smp("start_others", 107, false),
    ];
    let assembly = Function { file: None, line: None, ..function("run_on_stack", "", 0, false) };
    let callers = [smp("boot_cpu_main", 188, false), assembly];
    let callers = callers.map(|caller| frame(false, vec![caller]));
    [frame(true, spinning)].into_iter().chain(callers).collect()
}

/// A hang of a CPU that does not come online, and its victim with a stack and a call site.
fn starting(call_site: Option<SourceLine>) -> (Backtrace, [Hang; 1]) {
    let cpus = vec![
        cpu(0, CpuState::Running, Some(false), starting_others()),
        cpu(1, CpuState::NotStarted, None, Vec::new()),
    ];
    let stopped_at = Fact::StoppedAt {
        halted: false,
        interrupts_enabled: false,
        nmi_masked: false,
        handler: None,
        address: "ffffffff802058d0".into(),
        function: Some("run_on_stack".into()),
        line: None,
    };
    let edge = WaitEdge {
        from: "cpu0".into(),
        to: "cpu1".into(),
        kind: WaitKind::BringsUp,
        call_site,
        lasted_ms: None,
    };
    let hang = Hang {
        class: Class::BootStall,
        victims: vec!["cpu0".into()],
        edges: vec![edge],
        evidence: vec![Evidence { party: "cpu0".into(), fact: stopped_at }],
        ..hang(&["cpu1"], vec![cpu_node(0, None), cpu_node(1, None)])
    };
    (taken(cpus), [hang])
}

#[test]
fn a_loop_near_the_call_that_waits_comes_first() {
    let (taken, hangs) = starting(Some(SourceLine { file: "src/smp.rs".into(), line: 101 }));
    let text = shown(&taken, &hangs, Detail::Folded);
    let expected = "
  #0  start_others            src/smp.rs:107
      calls wait_until > start_others::{{closure}} > atomic_load
  #1  boot_cpu_main           src/smp.rs:188
  #2  run_on_stack            [<ffffffff80200000>]
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_victims_stack_is_not_folded_down_to_its_outermost_function() {
    let (taken, hangs) = starting(None);
    let text = shown(&taken, &hangs, Detail::Folded);
    assert!(text.contains("  #0  start_others::{{closure}}"), "{text}");
    assert!(text.contains("  in  start_others  "), "{text}");
}

#[test]
fn a_blamed_stack_is_not_folded_down_to_its_outermost_function() {
    let (taken, [mut hang]) = starting(None);
    hang.blamed = vec!["cpu0".into()];
    let text = shown(&taken, &[hang], Detail::Folded);
    assert!(text.contains("  in  start_others  "), "{text}");
}

/// The frames of a panic, above the function that called for it.
fn panicking() -> Vec<Frame> {
    let halted = vec![
        function("kernel::arch::halt_forever", "src/arch.rs", 140, true),
        function("kernel::panic::end", "src/panic.rs", 41, true),
        function("__rustc::rust_begin_unwind", "src/panic.rs", 36, false),
    ];
    let panic_fmt = function("core::panicking::panic_fmt", "core/src/panicking.rs", 80, false);
    vec![frame(true, halted), frame(false, vec![panic_fmt])]
}

fn plain_frame(name: &str, file: &str, line: u32) -> Frame {
    frame(false, vec![function(name, file, line, false)])
}

#[test]
fn the_function_that_raised_an_exception_comes_first_in_a_panic() {
    let mut frames = panicking();
    frames.extend([
        plain_frame("kernel::trap::exception", "src/trap.rs", 144),
        plain_frame("trap_entry", "src/trap.rs", 36),
        plain_frame("trap_common", "src/entry.s", 12),
        frame(true, vec![function("kernel::follow", "src/follow.rs", 24, false)]),
        plain_frame("kernel::step", "src/step.rs", 16),
    ]);
    let taken = taken(vec![cpu(0, CpuState::Running, Some(false), frames)]);
    let text = shown(&taken, &[], Detail::Folded);
    let expected = "
  #5  follow                  src/follow.rs:24  (interrupted)
      calls (interrupted) trap_common > trap_entry > exception > panic_fmt > …
  #6  step                    src/step.rs:16
";
    assert!(text.contains(expected), "{text}");
    let text = shown(&taken, &[], Detail::All);
    assert!(text.contains("  #0  halt_forever  "), "{text}");
}

#[test]
fn the_function_that_panicked_comes_first_in_an_interrupt_handler_too() {
    let mut frames = panicking();
    frames.extend([
        plain_frame("kernel::tick", "src/tick.rs", 5),
        plain_frame("trap_entry", "src/trap.rs", 36),
        frame(true, vec![function("kernel::idle", "src/idle.rs", 9, false)]),
    ]);
    let taken = taken(vec![cpu(0, CpuState::Running, Some(false), frames)]);
    let text = shown(&taken, &[], Detail::Folded);
    assert!(text.contains("  #2  tick "), "{text}");
    assert!(text.contains("  #4  idle                    src/idle.rs:9  (interrupted)"), "{text}");
}

#[test]
fn neighbours_of_one_name_are_folded_into_one() {
    let folded = [
        function("kernel::x86::irq_restore", "src/x86.rs", 7, true),
        function("kernel::irq_restore", "src/irq.rs", 5, true),
        function("kernel::schedule", "src/schedule.rs", 3, true),
        function("kernel::irq_restore", "src/irq.rs", 5, true),
        function("kernel::abba::take_second", "src/abba.rs", LOCK_CALL, false),
    ];
    let taken = taken(vec![cpu(0, CpuState::Running, None, vec![frame(true, folded.into())])]);
    let text = shown(&taken, &[hang(&["cpu0"], vec![cpu_node(0, None)])], Detail::Folded);
    assert!(text.contains("      calls irq_restore > schedule > irq_restore\n"), "{text}");
}

#[test]
fn the_line_of_folded_functions_fits_in_80_columns() {
    let name = |n: u32| format!("kernel::a_function_with_a_long_name_{n}");
    let folded = (0..9).map(|n| function(&name(n), "src/a.rs", n + 1, true));
    let last = function("kernel::abba::take_second", "src/abba.rs", LOCK_CALL, false);
    let frames = vec![frame(true, folded.chain([last]).collect())];
    let taken = taken(vec![cpu(0, CpuState::Running, Some(false), frames)]);
    let text = shown(&taken, &[hang(&["cpu0"], vec![cpu_node(0, None)])], Detail::Folded);
    let calls = text.lines().find(|line| line.contains("calls")).unwrap();
    let expected = "      calls a_function_with_a_long_name_8 > a_function_with_a_long_name_7 > …";
    assert_eq!(calls, expected);
    assert!(calls.chars().count() <= 80);
}

/// The first line of a hang's text.
fn first_line(hang: &Hang) -> String {
    let text = super::hangs(std::slice::from_ref(hang));
    anstream::adapter::strip_str(&text).to_string().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn age_of_a_hang_is_a_duration_for_one_party_or_two() {
    let nodes = || vec![cpu_node(0, None), cpu_node(1, None)];
    let rows = [
        (Class::Deadlock, "for 2.0 s"),
        (Class::DeadHalt, "halted with interrupts off for 2.0 s"),
        (Class::HardLockup, "interrupts off for 2.0 s"),
        (Class::SoftLockup, "nothing scheduled for 2.0 s"),
        (Class::LockWait, "for 2.0 s"),
        (Class::Livelock, "no work finished for 2.0 s"),
        (Class::LostWakeup, "idle with work pending for 2.0 s"),
        (Class::BootStall, "not ready after 2.0 s"),
        (Class::Silent, "nothing printed for 2.0 s"),
    ];
    for (class, age) in rows {
        let shown = |blamed: &[&str]| first_line(&Hang { class, ..hang(blamed, nodes()) });
        assert_eq!(shown(&["cpu0"]), format!("hang: {class}, cpu0 ({age})"));
        assert_eq!(shown(&["cpu0", "cpu1"]), format!("hang: {class}, cpu0 and cpu1 ({age})"));
    }
}

#[test]
fn a_line_of_more_than_100_columns_is_broken_before_the_wait() {
    let shown = |file: &str| {
        let kind = NodeKind::Lock {
            symbol: None,
            address: "ffffffff80611610".into(),
            lock: LockKind::Spin,
            held_by: Some("cpu0".into()),
            taken_at: Some(SourceLine { file: file.into(), line: 38 }),
        };
        let lock = WaitNode { id: "INODE_LOCK".into(), kind };
        let mut hang = hang(&["cpu0"], vec![cpu_node(0, None), lock]);
        hang.edges[0].to = "JOURNAL_LOCK".into();
        let held = WaitEdge {
            from: "INODE_LOCK".into(),
            to: "cpu0".into(),
            kind: WaitKind::HeldBy,
            ..hang.edges[0].clone()
        };
        hang.edges.push(held);
        anstream::adapter::strip_str(&super::hangs(&[hang])).to_string()
    };
    let file = "a".repeat(38);
    let line = format!("\n  cpu0 holds INODE_LOCK (taken at {file}:38), waits for JOURNAL_LOCK\n");
    assert_eq!(line.trim_matches('\n').chars().count(), 100);
    assert!(shown(&file).contains(&line), "{}", shown(&file));
    let file = "a".repeat(39);
    let lines =
        format!("\n  cpu0 holds INODE_LOCK (taken at {file}:38),\n    waits for JOURNAL_LOCK\n");
    assert!(shown(&file).contains(&lines), "{}", shown(&file));
}

#[test]
fn a_hang_has_its_bucket_below_its_signature() {
    let text = super::hangs(&[hang(&["cpu0"], vec![cpu_node(0, None)])]);
    let text = anstream::adapter::strip_str(&text).to_string();
    let expected = "  signature 0123456789abcdef, certain\n  bucket deadlock:take_second:INODE_LOCK<->JOURNAL_LOCK\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn sizes_have_the_largest_unit_that_is_exact() {
    assert_eq!(size(64 << 20), "64 MiB");
    assert_eq!(size((64 << 20) + 4096), "65540 KiB");
}

#[test]
fn a_blamed_cpu_that_is_offline_has_its_reason() {
    let rows = [
        (OfflineState::NotStarted, "cpu0 has never been started"),
        (OfflineState::InInit, "cpu0 has received INIT, and waits for its start-up IPI"),
        (OfflineState::Reset, "cpu0 was reset after it had been started"),
        (OfflineState::Halted, "cpu0 is offline, says the kernel, and halted"),
        (OfflineState::Running, "cpu0 is offline, says the kernel, and executes"),
    ];
    for (how, sentence) in rows {
        let activity = ActivityState::Offline;
        let kind = NodeKind::Cpu { cpu: 0, activity, task: None };
        let node = WaitNode { id: "cpu0".into(), kind };
        let evidence = vec![Evidence { party: "cpu0".into(), fact: Fact::Offline { how } }];
        let text = super::hangs(&[Hang { evidence, ..hang(&["cpu0"], vec![node]) }]);
        assert!(text.contains(&format!("\n  {sentence}\n")), "{text}");
    }
}

#[test]
fn a_cpu_that_is_stuck_outside_a_hang_is_not_called_running() {
    let mut stuck = cpu_node(1, None);
    let NodeKind::Cpu { activity, .. } = &mut stuck.kind else { panic!("{stuck:?}") };
    *activity = ActivityState::Stuck;
    let hang = Hang { edges: Vec::new(), ..hang(&["cpu0"], vec![cpu_node(0, None), stuck]) };
    let text = super::hangs(&[hang]);
    assert!(text.contains("\n  cpu1 also stuck since then\n"), "{text}");
}

#[test]
fn a_task_that_is_not_run_has_its_own_age() {
    let fact = Fact::TasksNotRun { ms: 4000.0, tasks: 1 };
    let hang = Hang {
        class: Class::LostWakeup,
        edges: Vec::new(),
        evidence: vec![Evidence { party: "orphan".into(), fact }],
        ..hang(&["orphan"], vec![task_node(3, "orphan", TaskState::Ready)])
    };
    let wanted = "hang: lost-wakeup, task orphan on cpu0 (ready and not run for 4.0 s)";
    assert_eq!(first_line(&hang), wanted);
}
