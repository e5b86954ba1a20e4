//! A report of a large guest: 64 vCPUs and 1,000 tasks, as a page, a test and a benchmark want one.
//!
//! Made from stored reports of the corpus, whose stacks are repeated with names, numbers and addresses of
//! their own, and without chance.

use nmiscope_report::{
    ActivityState, Backtrace, Cpu, CpuHistory, CpuState, Hang, History, KernelLog, LogLine,
    NodeKind, Report, Series, Task, TaskState, WaitEdge, WaitGraph, WaitKind, WaitNode,
};

pub const CPUS: u32 = 64;
pub const TASKS: u32 = 1_000;

/// Number of CPUs that wait for the deadlock's locks, beside the two that are blamed.
const WAITING: u32 = 14;
/// Number of tasks that have the same stack: a kernel has workers of a kind.
const ALIKE: u32 = 3;

/// Beginning of the name of a task's outermost function. A page has room for the stacks of some tasks.
pub const LOOP: &str = "loop_";

const SPINNING: &str = include_str!("../offline/cores/abba-deadlock.json");
const SLEEPING: &str = include_str!("../offline/cores/mutex-deadlock.json");

/// Returns the report of a deadlock of two CPUs, for which others wait.
pub fn large_report() -> Report {
    let mut report: Report = serde_json::from_str(SPINNING).expect("a report");
    let sleeping: Report = serde_json::from_str(SLEEPING).expect("a report");
    let backtrace = &mut report.backtraces[0];
    backtrace.cpus = (0..CPUS).map(|number| cpu(&backtrace.cpus, number)).collect();
    backtrace.groups = groups();
    (backtrace.nmi_sent, backtrace.nmi_answered) = (CPUS, CPUS);
    backtrace.tasks = (0..TASKS).map(|number| task(&sleeping.backtraces[0], number)).collect();
    backtrace.log = Some(log());
    report.machine.vcpus = CPUS;
    report.console_tail =
        (0..40).map(|line| format!("[{line:4}.000000] worker {line} reports")).collect();
    let hang = &mut report.hangs[0];
    extend(hang);
    let graph = WaitGraph { nodes: hang.nodes.clone(), edges: hang.edges.clone() };
    report.backtraces[0].waits = Some(graph);
    report.backtraces[0].history = Some(history());
    report
}

/// Returns a vCPU: the first two are blamed, the next ones wait for them, and all others idle.
fn cpu(stored: &[Cpu], number: u32) -> Cpu {
    let like = if number < 2 + WAITING { number % 2 } else { 2 };
    let mut cpu = stored[like as usize].clone();
    cpu.cpu = number;
    if let Some(trace) = &mut cpu.guest_trace {
        trace.text = trace.text.replace(&format!("cpu {like}"), &format!("cpu {number}"));
    }
    if let Some(registers) = &mut cpu.registers {
        registers.rsp = address(u64::from(number) << 14);
        registers.rbx = address(u64::from(number));
    }
    assert!(like < 2 || cpu.state == CpuState::Halted, "the third vCPU of the stored report idles");
    cpu
}

fn groups() -> Vec<Vec<u32>> {
    let waiting = 2..2 + WAITING;
    let mut groups = vec![vec![0], vec![1]];
    groups.push(waiting.clone().filter(|number| number % 2 == 0).collect());
    groups.push(waiting.filter(|number| number % 2 == 1).collect());
    groups.push((2 + WAITING..CPUS).collect());
    groups
}

/// Returns a task. Tasks that are alike differ from others in the outermost function of their stack.
fn task(stored: &Backtrace, number: u32) -> Task {
    let mut task = stored.tasks[number as usize % 2].clone();
    task.task = number;
    task.name = format!("kworker/{}:{number}", number % CPUS);
    task.cpu = number % CPUS;
    task.state = if number % 10 == 9 { TaskState::Ready } else { TaskState::Blocked };
    task.asleep_ms = Some(f64::from(number) * 7.5);
    task.switches = u64::from(number) * 3;
    let frames = task.host_stack.iter_mut().flat_map(|stack| &mut stack.frames);
    if let Some(function) = frames.last().and_then(|frame| frame.functions.last_mut()) {
        function.name = Some(format!("nmiscope_kernel::worker::{LOOP}{}", number / ALIKE));
    }
    task
}

/// Adds the CPUs that wait, and those that idle, to the graph of a deadlock of two CPUs.
fn extend(hang: &mut Hang) {
    hang.nodes.retain(|node| !matches!(node.kind, NodeKind::Cpu { .. }));
    let cpus = (0..CPUS).map(|cpu| {
        let activity = if cpu < 2 + WAITING { ActivityState::Stuck } else { ActivityState::Idle };
        WaitNode { id: format!("cpu{cpu}"), kind: NodeKind::Cpu { cpu, activity, task: None } }
    });
    hang.nodes.splice(0..0, cpus);
    let call_site = hang.edges.first().and_then(|edge| edge.call_site.clone());
    for number in 2..2 + WAITING {
        let lock = hang.locks[number as usize % hang.locks.len()].clone();
        let from = format!("cpu{number}");
        hang.victims.push(from.clone());
        let lasted_ms = Some(f64::from(number) * 100.0);
        let kind = WaitKind::WaitsFor;
        hang.edges.push(WaitEdge { from, to: lock, kind, call_site: call_site.clone(), lasted_ms });
    }
}

/// Returns a minute in slots of a second, in which no vCPU is like another.
fn history() -> History {
    let series = |number: u32, most: u32| -> Option<Series> {
        Some((0..60).map(|slot| Some((slot * 31 + number * 17) % most)).collect())
    };
    let cpu = |cpu: u32| CpuHistory {
        cpu,
        own_ms: series(cpu, 1000),
        ran_ms: series(cpu, 700),
        ticks: series(cpu, 1000),
        schedules: series(cpu + 1, 40),
        interrupts: series(cpu + 2, 1000),
        halts: series(cpu + 3, 40),
    };
    History {
        ends_at_ms: 60_000.0,
        slot_ms: 1000,
        wall_ms: Series(vec![Some(1000); 60]),
        cpus: (0..CPUS).map(cpu).collect(),
        ..History::default()
    }
}

fn log() -> KernelLog {
    let line = |number: u32| LogLine {
        uptime_ms: f64::from(number) * 125.0,
        cpu: Some(number % CPUS),
        level: 4 + (number % 4) as u8,
        text: format!("driver {}: request {number} took {} ms", number % 7, number * 13 % 1000),
    };
    KernelLog { lines: (0..240).map(line).collect(), omitted: 900, missing: None }
}

fn address(value: u64) -> String {
    format!("{:016x}", 0xffff_8880_0000_0000 + value)
}
