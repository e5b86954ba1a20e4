//! Diagnosis: turns a capture into the report's backtrace and hangs. Parses the output of the guest's NMI
//! handlers, looks every address up, groups equal stacks, and gives each vCPU without an answer a reason.
//!
//! Pure: a capture and symbols in, report structs out. No clock, no KVM, no I/O. Called by `session`.

mod account;
mod context;
mod hangs;
mod history;
mod own_part;
mod printed;
mod resolver;
mod signature;
mod spin;
mod stable;
mod tasks;
mod variables;
mod waits;
mod witnesses;

use nmiscope_machine::{Execution, MpState, Registers, VcpuState};
use nmiscope_report::{
    self as report, Backtrace, Cpu, CpuState, FoundBy, GuestTrace, Nmi, NmiAnswer,
};
use nmiscope_symbolizer::{ProgramCounter, Strategy};

use crate::capture::host_stack::UnwoundStack;
use crate::capture::{BufferReservation, Capture, CpuCapture, NoReservation};
use crate::hang::{Ages, Detection};
use crate::kernel::{BufferOwner, Log, LogError, LogRecord, SeqBuf};
pub use resolver::Resolver;

/// Result of a diagnosis: the parts of a report.
#[derive(Debug)]
pub struct Diagnosis {
    /// The backtrace of the capture.
    pub backtrace: Backtrace,
    /// The hangs that the capture was taken for.
    pub hangs: Vec<report::Hang>,
}

/// Diagnoses a capture. `index` is the index of the backtrace in the report; `None` if it is left out.
pub fn diagnose(capture: &Capture, index: Option<u32>, resolver: &Resolver<'_>) -> Diagnosis {
    let backtrace = backtrace(capture, resolver);
    let hangs = match &capture.found {
        Some(found) => hangs(found, capture, &backtrace, index, resolver),
        None => Vec::new(),
    };
    Diagnosis { backtrace, hangs }
}

fn hangs(
    found: &Detection,
    capture: &Capture,
    backtrace: &Backtrace,
    index: Option<u32>,
    resolver: &Resolver<'_>,
) -> Vec<report::Hang> {
    let context = hangs::Context {
        kernel: capture.kernel.known(),
        ages: &found.ages,
        samples: &stable::Samples::new(&found.samples, resolver),
        cpus: &backtrace.cpus,
        tasks: &backtrace.tasks,
        captured: &capture.cpus,
        task_stacks: &capture.task_stacks,
        at_ms: backtrace.at_ms,
        backtrace: index,
    };
    hangs::hangs(&found.hangs, context, resolver)
}

fn backtrace(capture: &Capture, resolver: &Resolver<'_>) -> Backtrace {
    let cpus = (0..).zip(&capture.cpus);
    let kernel = capture.kernel.known();
    let cpus = cpus.map(|(cpu, capture)| Cpu {
        context: kernel.and_then(|kernel| context::context(kernel, cpu)),
        ..diagnose_cpu(cpu, capture, resolver)
    });
    let mut cpus: Vec<Cpu> = cpus.collect();
    let log = capture.log.as_ref().and_then(|log| log.as_ref().ok());
    let printed = log.map(|log| resolver.vocabulary().printed_stacks(&log.records));
    for stack in printed.iter().flatten() {
        if let Some(cpu) = cpus.get_mut(stack.cpu as usize).filter(|cpu| cpu.guest_trace.is_none())
        {
            cpu.guest_trace = Some(printed::trace(stack, cpu.host_stack.as_ref(), resolver));
        }
    }
    let count = |test: fn(&&Cpu) -> bool| cpus.iter().filter(test).count() as u32;
    let none = Ages::default();
    let ages = capture.found.as_ref().map_or(&none, |found| &found.ages);
    let history = capture.history.as_ref();
    Backtrace {
        trigger: capture.trigger.clone(),
        at_ms: milliseconds(capture.at),
        reservation: reservation(&capture.reservation),
        nmi_sent: count(|cpu| cpu.nmi.sent),
        nmi_answered: count(|cpu| answered(cpu)),
        elapsed_ms: milliseconds(capture.elapsed),
        groups: group(&cpus),
        waits: waits::wait_graph(kernel, ages, &cpus, resolver),
        history: history.map(|past| history::history(past, capture, &cpus, resolver)),
        cpus,
        tasks: tasks::show(kernel, &capture.task_stacks, resolver),
        sleeping_tasks: tasks::count_sleeping(kernel, &capture.task_stacks),
        log: capture.log.as_ref().map(show_log),
    }
}

/// Returns the last lines of a log: a report may have many backtraces, each with its own.
fn show_log(log: &Result<Log, LogError>) -> report::KernelLog {
    const MOST: usize = 100;
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            let missing = Some(crate::error_chain(error));
            return report::KernelLog { missing, ..report::KernelLog::default() };
        }
    };
    let left_out = log.records.len().saturating_sub(MOST);
    let line = |record: &LogRecord| report::LogLine {
        uptime_ms: milliseconds(record.uptime),
        cpu: record.cpu,
        level: record.level,
        text: record.text.clone(),
    };
    report::KernelLog {
        lines: log.records[left_out..].iter().map(line).collect(),
        omitted: log.lost.saturating_add(left_out as u64),
        missing: None,
    }
}

/// Returns a duration as reports have it: in milliseconds.
pub fn milliseconds(duration: std::time::Duration) -> f64 {
    // Whole microseconds: smaller parts are noise, and lengthen every number.
    duration.as_micros() as f64 / 1000.0
}

fn reservation(reservation: &BufferReservation) -> report::BufferReservation {
    match reservation {
        BufferReservation::Held { waited } => {
            report::BufferReservation::Held { waited_ms: milliseconds(*waited) }
        }
        BufferReservation::Refused { holder, held, waited } => report::BufferReservation::Refused {
            holder: *holder,
            held_ms: held.map(milliseconds),
            waited_ms: milliseconds(*waited),
        },
        BufferReservation::Unavailable { reason: NoReservation::NotAsked } => {
            report::BufferReservation::NotAsked
        }
        BufferReservation::Unavailable { reason } => {
            report::BufferReservation::Unavailable { reason: crate::error_chain(reason) }
        }
    }
}

fn diagnose_cpu(number: u32, capture: &CpuCapture, resolver: &Resolver<'_>) -> Cpu {
    let state = capture.state.as_ref().ok();
    let somewhere = state.filter(|state| state.execution().has_position());
    let nmi = account::account(capture);
    let guest_trace = guest_trace(capture, &nmi, resolver);
    Cpu {
        cpu: number,
        state: cpu_state(state),
        interrupts_enabled: somewhere.map(|state| state.registers.interrupts_enabled()),
        registers: state.map(|state| show_registers(&state.registers)),
        in_nmi: somewhere.and_then(|state| Some(state.nmi?.masked)),
        context: None,
        findings: witnesses::findings(capture, &nmi, guest_trace.as_ref()),
        host_stack: capture.stack.as_ref().map(|stack| show_stack(stack, resolver)),
        nmi,
        guest_trace,
    }
}

fn cpu_state(state: Option<&VcpuState>) -> CpuState {
    let Some(state) = state else { return CpuState::Unknown };
    match state.execution() {
        Execution::Halted if state.mp_state == MpState::BehindHlt => CpuState::ProbablyHalted,
        Execution::Unknown(_) => CpuState::Unknown,
        Execution::NotStarted => CpuState::NotStarted,
        Execution::InInit => CpuState::InInit,
        Execution::Offline => CpuState::Reset,
        Execution::Halted => CpuState::Halted,
        _ if state.mp_state == MpState::Unrecorded => CpuState::NotRecorded,
        Execution::Kernel
        | Execution::User
        | Execution::RealMode
        | Execution::ProtectedMode
        | Execution::Firmware => CpuState::Running,
    }
}

fn show_stack(stack: &UnwoundStack, resolver: &Resolver<'_>) -> report::HostStack {
    let frames = stack.frames.iter().map(|frame| report::Frame {
        found_by: Some(found_by(frame.strategy)),
        cfi_fault: frame.cfi_fault.as_ref().map(|fault| crate::error_chain(fault)),
        ..resolver.frame(frame.pc, true)
    });
    let mut frames: Vec<report::Frame> = frames.collect();
    for (frame, variables) in frames.iter_mut().zip(&stack.variables) {
        variables::add(frame, variables);
    }
    report::HostStack {
        frames,
        complete: stack.ending.is_complete(),
        end: stack.ending.to_string(),
    }
}

fn found_by(strategy: Strategy) -> FoundBy {
    match strategy {
        Strategy::Registers => FoundBy::Registers,
        Strategy::Cfi => FoundBy::Cfi,
        Strategy::Orc => FoundBy::Orc,
        Strategy::BadCall => FoundBy::BadCall,
        Strategy::FramePointer => FoundBy::FramePointer,
    }
}

fn show_registers(registers: &Registers) -> report::Registers {
    let show = |value: u64| format!("{value:016x}");
    let control = |value: u64| match registers.control_unrecorded {
        true => "not recorded".into(),
        false => show(value),
    };
    report::Registers {
        rip: show(registers.rip),
        rsp: show(registers.rsp),
        rbp: show(registers.rbp),
        rflags: show(registers.rflags),
        rax: show(registers.rax),
        rbx: show(registers.rbx),
        rcx: show(registers.rcx),
        rdx: show(registers.rdx),
        rsi: show(registers.rsi),
        rdi: show(registers.rdi),
        r8: show(registers.r8),
        r9: show(registers.r9),
        r10: show(registers.r10),
        r11: show(registers.r11),
        r12: show(registers.r12),
        r13: show(registers.r13),
        r14: show(registers.r14),
        r15: show(registers.r15),
        cr0: control(registers.cr0),
        cr2: control(registers.cr2),
        cr3: control(registers.cr3),
        cr4: control(registers.cr4),
        cpl: registers.cpl,
    }
}

fn guest_trace(capture: &CpuCapture, nmi: &Nmi, resolver: &Resolver<'_>) -> Option<GuestTrace> {
    let buffer = capture.buffer.as_ref().ok().filter(|buffer| !buffer.text.is_empty())?;
    let text = String::from_utf8_lossy(&buffer.text).into_owned();
    let trace = resolver.vocabulary().call_trace(&text);
    let has_trace = trace.is_some();
    let frames = trace.unwrap_or_default().into_iter().map(|entry| {
        let counter = if entry.interrupted {
            ProgramCounter::Interrupted(entry.address)
        } else {
            ProgramCounter::Return(entry.address)
        };
        resolver.frame(counter, entry.reliable)
    });
    Some(GuestTrace {
        current: nmi.delivered == Some(true),
        printed: None,
        findings: faults(buffer, nmi, &text, has_trace),
        frames: frames.collect(),
        text,
    })
}

/// Returns true if the text ends within a line: handlers print whole ones.
fn is_cut(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('\n')
}

/// Returns the faults of a buffer and its text.
fn faults(buffer: &SeqBuf, nmi: &Nmi, text: &str, has_trace: bool) -> Vec<String> {
    let lost = u64::from(buffer.lost);
    let checks = [
        (lost > 0, format!("buffer full: {lost} messages lost")),
        (
            buffer.missed > 0,
            format!("{} messages came while the buffer was being read", buffer.missed),
        ),
        (
            !nmi.handler_finished && buffer.owner == BufferOwner::Handler,
            "the handler that printed this has not returned".into(),
        ),
        (is_cut(text), "the last line has no end".into()),
        (!has_trace, "there is no call trace in it".into()),
    ];
    garbage(buffer, text).into_iter().chain(found(checks)).collect()
}

/// Returns the faults of a buffer that no handler can have caused.
fn garbage(buffer: &SeqBuf, text: &str) -> Vec<String> {
    let checks = [
        (
            buffer.claimed_len > buffer.capacity,
            format!(
                "the guest claims {} bytes in a buffer of {}: its length is garbage",
                buffer.claimed_len, buffer.capacity
            ),
        ),
        (
            matches!(buffer.owner, BufferOwner::Garbage(_)),
            format!("the buffer's owner is garbage: {:?}", buffer.owner),
        ),
        (text.contains(['\u{fffd}', '\0']), "garbled: it is not all text".into()),
    ];
    found(checks).collect()
}

fn found<const N: usize>(checks: [(bool, String); N]) -> impl Iterator<Item = String> {
    checks.into_iter().filter(|(found, _)| *found).map(|(_, text)| text)
}

/// Groups vCPUs that show the same stack in the same state: by the guest's trace, or else by the host's.
fn group(cpus: &[Cpu]) -> Vec<Vec<u32>> {
    let mut groups: Vec<(&Cpu, Vec<u32>)> = Vec::new();
    for cpu in cpus {
        match groups.iter_mut().find(|(first, _)| same_stack(first, cpu)) {
            Some((_, members)) => members.push(cpu.cpu),
            None => groups.push((cpu, vec![cpu.cpu])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

fn same_stack(a: &Cpu, b: &Cpu) -> bool {
    let same_state = a.state == b.state
        && a.interrupts_enabled == b.interrupts_enabled
        && a.in_nmi == b.in_nmi
        && a.findings == b.findings
        && faults_of(a) == faults_of(b)
        && answered(a) == answered(b);
    let was_started = |cpu: &Cpu| !matches!(cpu.state, CpuState::NotStarted | CpuState::InInit);
    let unseen = |cpu: &Cpu| stack(cpu).is_empty() && was_started(cpu);
    same_state && !unseen(a) && !unseen(b) && stack(a) == stack(b)
}

/// Returns the addresses of a vCPU's reliable frames, each with its interrupted flag.
fn stack(cpu: &Cpu) -> Vec<(&str, bool)> {
    let trace = cpu.guest_trace.as_ref().filter(|_| answered(cpu));
    let frames = match (trace, &cpu.host_stack) {
        (Some(trace), _) => &trace.frames[..],
        (None, Some(stack)) => &stack.frames[..],
        (None, None) => &[],
    };
    let reliable = frames.iter().filter(|frame| frame.reliable);
    reliable.map(|frame| (frame.address.as_str(), frame.interrupted)).collect()
}

fn faults_of(cpu: &Cpu) -> &[String] {
    cpu.guest_trace.as_ref().map_or(&[], |trace| &trace.findings)
}

fn answered(cpu: &Cpu) -> bool {
    cpu.nmi.answer == NmiAnswer::Answered
}
