//! Guests whose records lie about waits, holders and tasks, which the detector reads ten times a second.
//! Each run ends with a documented code, in bounded time and with a bounded report, and the report is
//! harmless to a terminal.

use crate::common::image::{Patched, address_in, address_of, bundled, function};
use crate::common::*;
use nmiscope::hang::Class;
use nmiscope_guest::abi::{
    LOCK_MUTEX, LOCK_SPIN, TASK_BLOCKED, TASK_READY, WAIT_CPU_CALL, WAIT_CPU_ONLINE, WAIT_LOCK,
};
use nmiscope_report::{ActivityState, Fact, Hang, LockKind, NodeKind, Report, TaskState};

const IMAGE: &str = "guest.elf";

/// Function of some length that the workload `busy` does not use.
const ROOM: &str = "16mutex_contention7contend";

/// Value that the guest writes, again and again, on each of its CPUs.
#[derive(Debug, Clone, Copy)]
enum Write {
    /// A write to a fixed address.
    To(u64, u32),
    /// A write to the CPU's own copy of a variable, by the template's address.
    Own(u64, u32),
}
use Write::{Own, To};

impl Write {
    /// Assembles mov dword ptr [disp32], imm32 (SDM vol. 2, MOV: C7 /0 id; SIB 25 is an absolute disp32),
    /// with the GS prefix for a CPU's own copy: the base of GS is the distance of its copies from the
    /// templates.
    fn code(self) -> Vec<u8> {
        let (prefix, address, value) = match self {
            To(address, value) => (&[][..], address, value),
            Own(address, value) => (&[0x65][..], address, value),
        };
        let address = (address as u32).to_le_bytes();
        [prefix, &[0xc7, 0x04, 0x25], &address, &value.to_le_bytes()].concat()
    }
}

/// Splits a 64-bit value into two writes.
fn long(write: fn(u64, u32) -> Write, address: u64, value: u64) -> [Write; 2] {
    [write(address, value as u32), write(address + 4, (value >> 32) as u32)]
}

/// Writes a wait of each CPU for the lock at an address.
fn waits_for_lock(address: u64) -> Vec<Write> {
    let mut writes = vec![Own(address_of("cpu_wait", "kind"), WAIT_LOCK)];
    writes.extend(long(Own, address_of("cpu_wait", "on"), address));
    writes
}

/// Writes a wait of each CPU for another CPU.
fn waits_for_cpu(kind: u32, cpu: u32) -> Vec<Write> {
    vec![Own(address_of("cpu_wait", "kind"), kind), Own(address_of("cpu_wait", "cpu"), cpu)]
}

/// Writes a task of a CPU that is blocked on a lock.
fn blocked_task(number: u64, cpu: u32, lock: u64) -> Vec<Write> {
    let member = |member| address_in("TASKS", number, member);
    let mut writes = vec![
        To(member("cpu"), cpu),
        To(member("state"), TASK_BLOCKED),
        To(member("wait.kind"), WAIT_LOCK),
    ];
    writes.extend(long(To, member("wait.on"), lock));
    writes
}

/// Address of image memory that is unused once the CPUs have their copies of it.
fn scratch() -> u64 {
    address_of("nmi_print_seq", "seq.buffer").next_multiple_of(8)
}

/// Bytes of the record that a lock begins with (guest/src/sync/record.rs).
fn lock(kind: u32, holder: u32, taken_at: u64) -> Vec<u8> {
    let numbers = [kind.to_le_bytes(), holder.to_le_bytes()].concat();
    [numbers, taken_at.to_le_bytes().to_vec(), 7u64.to_le_bytes().to_vec()].concat()
}

/// Bytes of a `core::panic::Location`, as Rust lays it out.
fn location(file: u64, length: u64, line: u32) -> Vec<u8> {
    let numbers = [file.to_le_bytes(), length.to_le_bytes()].concat();
    [numbers, line.to_le_bytes().to_vec(), 1u32.to_le_bytes().to_vec()].concat()
}

/// Guest that only writes these values, with these bytes at [`scratch`].
fn liar(writes: &[Write], bytes: &[u8]) -> Patched {
    let (room, _) = function(ROOM);
    let (start, _) = function("4busy10mix_rounds");
    let jump = |from: u64, to: u64| {
        let distance = to.wrapping_sub(from + 5) as u32;
        [&[0xe9], &distance.to_le_bytes()[..]].concat()
    };
    let mut code: Vec<u8> = writes.iter().flat_map(|write| write.code()).collect();
    code.extend(jump(room + code.len() as u64, room));
    let guest = bundled().function(ROOM, &code);
    guest.function("4busy10mix_rounds", &jump(start, room)).at_address(scratch(), bytes)
}

/// Runs the guest until it is reported to hang.
#[track_caller]
fn hangs(writes: &[Write], bytes: &[u8]) -> (Finished, Report) {
    require_kvm();
    let arguments = ["run", IMAGE, "--cpus", "2", "--memory", "32M", "--workload", "busy"];
    let finished = nmiscope(arguments)
        .args(["--hang-after", "300ms", "--stop-after", "60s", "--nmi-timeout", "500ms"])
        .args(["--core", "guest.core"])
        .with_report()
        .with_file(IMAGE, &liar(writes, bytes).0)
        .run()
        .expect_code(exit::HANG);
    harmless(&finished);
    assert!(finished.text_of(REPORT).len() < 1 << 20, "a long report");
    let report = finished.report();
    let again = |file: &str| {
        let path = finished.directory.path().join(file);
        let again = nmiscope(["report"]).arg(path).run().expect_code(exit::HANG);
        harmless(&again);
        assert!(again.stdout.starts_with("guest ready"), "{}", again.all());
        again.stdout
    };
    assert_eq!(again(REPORT).lines().nth(1), again("guest.core").lines().nth(1));
    (finished, report)
}

/// Checks that both CPUs hang in the same class, without victims.
#[track_caller]
fn both(report: &Report, class: Class) -> &Hang {
    let hang = only_hang(report);
    assert_eq!((hang.class, &hang.blamed[..]), (class, &["cpu0", "cpu1"].map(String::from)[..]));
    assert!(hang.victims.is_empty(), "{hang:#?}");
    hang
}

fn node<'a>(hang: &'a Hang, id: &str) -> &'a NodeKind {
    let node = hang.nodes.iter().find(|node| node.id == id);
    &node.unwrap_or_else(|| panic!("no {id} in {hang:#?}")).kind
}

#[test]
fn a_guest_that_writes_nothing_schedules_nothing() {
    let (_, report) = hangs(&[], &[]);
    both(&report, Class::SoftLockup);
}

#[test]
fn a_wait_of_an_unknown_kind_is_ignored() {
    let (_, report) = hangs(&[Own(address_of("cpu_wait", "kind"), 77)], &[]);
    assert!(both(&report, Class::SoftLockup).edges.is_empty());
}

#[test]
fn waiters_for_a_lock_without_memory_are_blamed() {
    let nowhere = [
        ("unmapped", 0x10),
        ("not canonical", 0x8000_0000_0000_0000),
        ("wraps around", u64::MAX - 3),
        ("null", 0),
        ("unaligned", scratch() + 1),
    ];
    for (what, address) in nowhere {
        let (finished, report) = hangs(&waits_for_lock(address), &[]);
        let hang = both(&report, Class::LockWait);
        let [name] = &hang.locks[..] else { panic!("{what}: {hang:#?}") };
        let kind = node(hang, name);
        assert!(matches!(kind, NodeKind::Lock { lock: LockKind::Unknown, .. }), "{what}: {kind:?}");
        let said = format!("\n  cpu0 waits for {name}, where there is no lock\n");
        assert!(finished.stdout.contains(&said), "{what}: {}", finished.stdout);
    }
}

#[test]
fn waiters_for_a_lock_whose_holder_does_not_exist_are_blamed() {
    for (kind, plus_one, holder) in [
        (LOCK_SPIN, 78, "cpu77"),
        (LOCK_SPIN, u32::MAX, "cpu4294967294"),
        (LOCK_MUTEX, 1001, "task#1000"),
    ] {
        let (finished, report) = hangs(&waits_for_lock(scratch()), &lock(kind, plus_one, 0));
        let hang = both(&report, Class::LockWait);
        let absent = match node(hang, holder) {
            NodeKind::Cpu { activity, .. } => *activity == ActivityState::Absent,
            NodeKind::Task { state, .. } => *state == TaskState::Absent,
            NodeKind::Lock { .. } | NodeKind::Queue { .. } => false,
        };
        assert!(absent, "{hang:#?}");
        let said = format!("says that it is held by {holder}, and there is no {holder}\n");
        assert!(finished.stdout.contains(&said), "{}", finished.stdout);
    }
}

#[test]
fn callers_of_a_cpu_that_does_not_exist_are_blamed() {
    for kind in [WAIT_CPU_CALL, WAIT_CPU_ONLINE] {
        let (finished, report) = hangs(&waits_for_cpu(kind, 99), &[]);
        both(&report, Class::LockWait);
        let said = "\n  there is no cpu99\n";
        assert_eq!(finished.stdout.matches(said).count(), 1, "{}", finished.stdout);
    }
}

/// Tasks of CPUs that do not exist wait for each other, and both CPUs for one of them. Their names are
/// those of CPUs and escape sequences.
#[test]
fn a_cycle_of_tasks_on_nonexistent_cpus_is_reported() {
    let (first, second) = (scratch(), scratch() + 24);
    let mut writes = vec![To(address_of("nr_tasks", ""), 2)];
    writes.extend(blocked_task(0, u32::MAX, second));
    writes.extend(blocked_task(1, 0x8000_0000, first));
    let names = [*b"cpu0\0\0\0\0", *b"\x1b[2J\x07\xff\xc2\x9b"].map(u64::from_le_bytes);
    writes.extend(long(To, address_in("TASKS", 0, "name"), names[0]));
    writes.extend(long(To, address_in("TASKS", 1, "name"), names[1]));
    writes.extend(waits_for_lock(first));
    let bytes = [lock(LOCK_MUTEX, 1, 0), lock(LOCK_MUTEX, 2, 0)].concat();
    let (finished, report) = hangs(&writes, &bytes);
    let hang = only_hang(&report);
    assert_eq!(hang.class, Class::Deadlock);
    let [a, b] = &hang.blamed[..] else { panic!("{hang:#?}") };
    assert_eq!(a, "cpu0#0", "not to be taken for the CPU");
    assert!(b.starts_with('\u{1b}'), "JSON has the name as it is: {b:?}");
    assert_eq!(hang.victims, ["cpu0", "cpu1"]);
    assert!(finished.stdout.contains("on cpu4294967295"), "{}", finished.stdout);
}

#[test]
fn a_garbage_number_of_tasks_is_bounded() {
    let mut writes = vec![To(address_of("nr_tasks", ""), u32::MAX)];
    for number in 0..16 {
        let member = |member| address_in("TASKS", number, member);
        let state = if number % 2 == 0 { TASK_READY } else { 0x8000_0000 + number as u32 };
        writes.push(To(member("state"), state));
        writes.push(To(member("cpu"), u32::MAX - number as u32));
        writes.extend(long(To, member("stack_pointer"), u64::MAX - number));
    }
    writes.push(Own(address_of("nr_running", ""), u32::MAX));
    let (_, report) = hangs(&writes, &[]);
    assert!(report.backtraces[0].tasks.len() <= 16, "{:#?}", report.backtraces[0].tasks);
    for hang in &report.hangs {
        assert!(hang.blamed.iter().all(|party| party.starts_with("cpu")), "{hang:#?}");
    }
}

#[test]
fn a_place_in_the_source_is_reported_if_it_is_plausible() {
    let at = scratch();
    let file = at + 64;
    let rows = [
        ("as it should be", location(file, 8, 7), Some("evil.rs\u{7}")),
        ("longer than all memory", location(file, u64::MAX, 7), None),
        ("longer than any name", location(file, 4096, 7), None),
        ("nowhere", location(0x10, 8, 7), None),
        ("not canonical", location(1 << 63, 8, 7), None),
        ("around the end", location(u64::MAX - 3, 8, 7), None),
    ];
    let mut writes = waits_for_lock(at);
    writes.extend(long(Own, address_of("cpu_wait", "at"), at + 32));
    for (what, place, wanted) in rows {
        let mut bytes = lock(LOCK_SPIN, 2, at + 32);
        bytes.resize(32, 0);
        bytes.extend(place);
        bytes.resize(64, 0);
        bytes.extend(b"evil.rs\x07");
        let (finished, report) = hangs(&writes, &bytes);
        let hang = only_hang(&report);
        let edge = hang.edges.iter().find(|edge| edge.from == "cpu0").expect("a wait");
        let file = edge.call_site.as_ref().map(|place| place.file.as_str());
        assert_eq!(file, wanted, "{what}");
        let said = finished.stdout.contains("taken at evil.rs");
        assert_eq!(said, wanted.is_some(), "{what}: {}", finished.stdout);
    }
}

#[test]
fn places_without_memory_are_not_reported() {
    let mut writes = waits_for_lock(scratch());
    writes.extend(long(Own, address_of("cpu_wait", "at"), 0x1234_5678_9abc_def0));
    let (finished, report) = hangs(&writes, &lock(LOCK_SPIN, 2, u64::MAX - 2));
    assert!(only_hang(&report).edges.iter().all(|edge| edge.call_site.is_none()));
    assert!(!finished.stdout.contains("taken at"), "{}", finished.stdout);
}

#[test]
fn a_running_task_that_does_not_exist_is_left_out() {
    for garbage in [17, 1000, u32::MAX] {
        let (finished, report) = hangs(&[Own(address_of("current_task", ""), garbage)], &[]);
        let hang = both(&report, Class::SoftLockup);
        assert!(matches!(node(hang, "cpu0"), NodeKind::Cpu { task: None, .. }), "{hang:#?}");
        assert!(!finished.stdout.contains("task"), "{}", finished.stdout);
    }
}

#[test]
fn counters_that_go_backwards_count_as_zero() {
    let mut writes = Vec::new();
    writes.extend(long(Own, address_of("work_queued", ""), 3));
    writes.extend(long(Own, address_of("work_done", ""), 5));
    writes.extend(long(Own, address_of("irq_count", ""), 0));
    let (_, report) = hangs(&writes, &[]);
    let hang = both(&report, Class::SoftLockup);
    for evidence in &hang.evidence {
        match evidence.fact {
            Fact::PendingWork { items, .. } => panic!("{items} items"),
            Fact::NoSchedule { interrupts, .. } => assert!(interrupts < 1000, "{interrupts}"),
            _ => {}
        }
    }
}
