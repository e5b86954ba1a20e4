//! Reports for people. Says nothing that is not in the structs, and leaves out what would hide the
//! point: registers, unreliable entries where there are reliable ones, columns. JSON has all.
//!
//! Everything that comes from the guest or its image goes through `sanitize`.

mod hang;
mod variables;
mod waits;

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use nmiscope_names::short_name;

use super::sanitize::line;
use super::{
    Backtrace, BufferReservation, Cpu, CpuFinding, CpuState, Frame, Function, GuestTrace,
    HostStack, KernelLog, Machine, NmiAnswer, Outcome, Report, Source, Task, TaskState, Trigger,
    Visit,
};
use crate::summary::{ending, separator};
use crate::units::{plural, ranges, seconds};
pub use hang::{hangs, resolved};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEADING: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Names are padded to at least, and at most, this many characters.
const NAME_WIDTH: std::ops::RangeInclusive<usize> = 22..=48;

/// The guest is up.
pub fn ready(machine: &Machine, after: Duration) -> String {
    format!(
        "{GOOD}guest ready{GOOD:#}: {}, {}, {} ms\n",
        plural(machine.vcpus.into(), "vCPU"),
        size(machine.memory_bytes),
        after.as_millis()
    )
}

/// Returns how the run ended, as a line; nothing for an exit with code 0, or an end that its hangs tell.
pub fn outcome(outcome: &Outcome) -> String {
    let style = match outcome {
        Outcome::Exit { code: 0 } => return String::new(),
        Outcome::Stopped { .. } => Style::new(),
        _ => BAD,
    };
    ending(outcome).map_or_else(String::new, |(label, words)| {
        format!("{style}{label}{style:#}{}{words}\n", separator(label))
    })
}

/// A whole report, in the order in which a run tells it.
pub fn report(report: &Report) -> String {
    let after = report.ready_after_ms;
    let after = after.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    let mut text = after.map_or_else(String::new, |after| ready(&report.machine, after));
    text.extend(report.visit.as_ref().map(visit));
    // When, in which order of what happened at one time, and what was said.
    let mut told: Vec<(f64, u8, String)> = Vec::new();
    for hang in &report.hangs {
        told.push((hang.at_ms, 1, hang::hangs(std::slice::from_ref(hang))));
        if let Some(after) = hang.resolved_after_ms {
            told.push((hang.at_ms + after, 0, hang::resolved(hang)));
        }
    }
    for taken in &report.backtraces {
        let mut said = backtrace(taken);
        if is_of_the_end(taken) {
            said.insert_str(0, &outcome(&report.outcome));
        }
        told.push((taken.at_ms, 2, said));
    }
    told.sort_by(|(at, order, _), (other_at, other_order, _)| {
        at.total_cmp(other_at).then(order.cmp(other_order))
    });
    text.extend(told.into_iter().map(|(_, _, said)| said));
    if !report.backtraces.iter().any(is_of_the_end) {
        text.push_str(&outcome(&report.outcome));
    }
    // A live guest has printed it on its console.
    let stored = report.backtraces.iter().filter(|_| report.source != Source::Live);
    if let Some(log) = stored.rev().find_map(|backtrace| backtrace.log.as_ref()) {
        show_log(&mut text, log);
    }
    text
}

/// The end of the kernel's log.
fn show_log(text: &mut String, log: &KernelLog) {
    const SHOWN: usize = 20;
    if let Some(reason) = &log.missing {
        let _ = writeln!(text, "{HEADING}log{HEADING:#} {BAD}missing{BAD:#}: {}", line(reason));
        return;
    }
    let left_out = log.lines.len().saturating_sub(SHOWN);
    let all = log.omitted.saturating_add(log.lines.len() as u64);
    let shown = &log.lines[left_out..];
    let count = match shown.len() as u64 {
        shown if shown == all => plural(all, "line"),
        shown => format!("last {shown} of {}", plural(all, "line")),
    };
    let _ = writeln!(text, "{HEADING}log{HEADING:#} ({count})");
    for record in shown {
        let (uptime, text_of) = (record.uptime_ms / 1000.0, line(&record.text));
        let _ = writeln!(text, "  {DIM}[{uptime:12.6}]{DIM:#} {text_of}");
    }
}

/// A line on a visit to a VM that somebody else runs.
fn visit(visit: &Visit) -> String {
    let Visit { pid, run_state, stopped_ms, torn } = visit;
    let stopped = match stopped_ms {
        Some(ms) => format!("stopped for {ms:.1} ms"),
        None if run_state == "running" => "not stopped".into(),
        None => format!("{} before, and left so", line(run_state)),
    };
    let torn = if *torn { ", read in part while it ran" } else { "" };
    format!("QEMU process {pid}: {stopped}{torn}\n")
}

fn is_of_the_end(backtrace: &Backtrace) -> bool {
    match backtrace.trigger {
        Trigger::GuestEnded | Trigger::Starved | Trigger::TimeLimit => true,
        Trigger::Dump | Trigger::Attach => true,
        Trigger::Hang | Trigger::Timer | Trigger::Signal { .. } => false,
    }
}

/// A backtrace of all vCPUs.
pub fn backtrace(backtrace: &Backtrace) -> String {
    let mut text = String::new();
    match &backtrace.trigger {
        Trigger::Signal { name } => {
            let _ = writeln!(text, "backtrace asked for by {name}");
        }
        Trigger::Timer => text.push_str("backtrace asked for by --nmi-after\n"),
        Trigger::Hang
        | Trigger::Starved
        | Trigger::GuestEnded
        | Trigger::TimeLimit
        | Trigger::Dump
        | Trigger::Attach => {}
    }
    let is_dump = matches!(backtrace.trigger, Trigger::Dump | Trigger::Attach);
    match is_dump {
        true => {
            let vcpus = plural(backtrace.cpus.len() as u64, "vCPU");
            let _ = writeln!(text, "{vcpus}, seen from outside");
        }
        false => nmis(&mut text, backtrace),
    }
    // The hangs of a verdict have said it.
    if let Some(graph) = backtrace.waits.as_ref().filter(|_| backtrace.trigger != Trigger::Hang) {
        waits::show(&mut text, graph);
    }
    for group in &backtrace.groups {
        let members = group.iter().filter_map(|&cpu| backtrace.cpus.get(cpu as usize));
        if let Some(cpu) = members.clone().next() {
            text.push('\n');
            show_cpu(&mut text, &cpu_list(group), cpu, !is_dump);
        }
    }
    for task in &backtrace.tasks {
        text.push('\n');
        show_task(&mut text, task);
    }
    text.push('\n');
    text
}

fn nmis(text: &mut String, backtrace: &Backtrace) {
    let _ = writeln!(
        text,
        "NMI: sent to {}, {} answered in {} ms",
        plural(backtrace.nmi_sent.into(), "vCPU"),
        backtrace.nmi_answered,
        round_up(backtrace.elapsed_ms)
    );
    text.push_str(&reservation(&backtrace.reservation));
}

fn show_task(text: &mut String, task: &Task) {
    let name = line(&task.name);
    let _ = write!(text, "{HEADING}task {name}{HEADING:#}  on cpu{}", task.cpu);
    text.push_str(match task.state {
        TaskState::Ready => ", ready to run",
        TaskState::Running => ", running",
        TaskState::Blocked => ", blocked",
        TaskState::Ended => ", ended",
        TaskState::Absent => ", which does not exist",
        TaskState::Unknown => ", in no state that is known",
    });
    if let Some(what) = &task.waits_for {
        let _ = write!(text, ", waits for {}", line(what));
    }
    text.push('\n');
    if let Some(look) = &task.host_stack {
        show_look(text, look);
    }
}

fn reservation(reservation: &BufferReservation) -> String {
    match reservation {
        BufferReservation::Held { waited_ms } if *waited_ms < 1.0 => String::new(),
        BufferReservation::Held { waited_ms } => format!(
            "NMI buffers: waited {} ms for a backtrace inside the guest to end\n",
            round_up(*waited_ms)
        ),
        BufferReservation::Refused { holder, held_ms, waited_ms } => {
            let holder = holder.map_or("no CPU of the guest".into(), |cpu| format!("cpu{cpu}"));
            let held = held_ms.map_or("an unknown time".into(), seconds);
            format!(
                "NMI buffers: {BAD}not reserved{BAD:#}, {holder} has held them for {held} (waited {} ms); \
                 their text may be of an earlier NMI\n",
                round_up(*waited_ms)
            )
        }
        BufferReservation::Unavailable { reason } => {
            format!("NMI buffers: {BAD}not reserved{BAD:#}: {}\n", line(reason))
        }
        BufferReservation::NotAsked => "NMI buffers: not used, no NMIs were asked for\n".into(),
    }
}

/// One vCPU, and why it has not answered if it was `asked`.
fn show_cpu(text: &mut String, names: &str, cpu: &Cpu, asked: bool) {
    let _ = write!(text, "{HEADING}{names}{HEADING:#}  {}", state(cpu.state));
    match cpu.interrupts_enabled {
        Some(true) => text.push_str(", interrupts on"),
        Some(false) => text.push_str(", interrupts off"),
        None => {}
    }
    if cpu.in_nmi == Some(true) {
        text.push_str(", in an NMI");
    }
    text.push('\n');
    if let NmiAnswer::NoAnswer { reason } = &cpu.nmi.answer
        && cpu.state != CpuState::NotStarted
        && asked
    {
        let _ = writeln!(text, "  {BAD}no answer{BAD:#}: {}", line(reason));
    }
    for finding in cpu.findings.iter().filter(|finding| !is_told(finding)) {
        let _ = writeln!(text, "  {BAD}!{BAD:#} {}", line(&finding_text(finding)));
    }
    let agreed = cpu.guest_trace.as_ref().filter(|word| word.current && shows_all(cpu));
    let look = cpu.host_stack.as_ref();
    if look.is_some_and(variables::has_some) {
        variables::say_whose(text, cpu, names);
    }
    // The same frames, and more of them.
    if let (Some(word), Some(look)) = (agreed, look.filter(|look| variables::has_some(look)))
        && !cpu
            .findings
            .iter()
            .any(|finding| matches!(finding, CpuFinding::InterruptedBefore { .. }))
    {
        show_faults(text, word);
        show_look(text, look);
        return;
    }
    let agreed = agreed.filter(|_| !look.is_some_and(variables::has_some));
    if let Some(word) = &cpu.guest_trace {
        if agreed.is_none() && cpu.host_stack.is_some() {
            let of = if word.current { "this NMI" } else { "an earlier NMI" };
            let _ = writeln!(text, "  guest's word, of {of}:");
        }
        show_word(text, word);
    }
    if let Some(look) = look.filter(|_| agreed.is_none()) {
        text.push_str("  host's look:\n");
        show_look(text, look);
    }
}

fn show_look(text: &mut String, look: &HostStack) {
    show_frames(text, &look.frames.iter().collect::<Vec<_>>());
    // Why the last one has no caller is the reason for the end. One is enough: what is wrong is
    // mostly wrong for the whole image.
    let callees = look.frames.split_last().map_or(&[][..], |(_, callees)| callees);
    let fault = callees.iter().zip(0..).find_map(|(frame, n)| Some((n, frame.cfi_fault.as_ref()?)));
    if let Some((number, fault)) = fault {
        let what = format!("#{number}'s caller was found by other means: failed to {fault}");
        let _ = writeln!(text, "  {BAD}!{BAD:#} {}", line(&what));
    }
    if !look.complete {
        let _ = writeln!(text, "  {DIM}ends: {}{DIM:#}", line(&look.end));
    }
}

/// Whether the guest's word has all that the host saw, so that one of them is enough.
fn shows_all(cpu: &Cpu) -> bool {
    let differs = |finding: &CpuFinding| {
        matches!(
            finding,
            CpuFinding::TraceIncomplete { .. }
                | CpuFinding::InterruptShadow { .. }
                | CpuFinding::StacksDiffer { .. }
                | CpuFinding::StackBroken { .. }
                | CpuFinding::StackUnreadable { .. }
        )
    };
    cpu.nmi.answer == NmiAnswer::Answered && !cpu.findings.iter().any(differs)
}

/// Whether the text says it in another place: why there is no answer, and what is wrong with a
/// buffer.
fn is_told(finding: &CpuFinding) -> bool {
    matches!(
        finding,
        CpuFinding::NmiNotDelivered
            | CpuFinding::NmiMasked
            | CpuFinding::HandlerUnfinished
            | CpuFinding::BufferOverflowed { .. }
            | CpuFinding::TraceGarbled
            | CpuFinding::TraceTruncated
    )
}

fn finding_text(finding: &CpuFinding) -> String {
    match finding {
        CpuFinding::NmiNotDelivered => "the NMI was not delivered".into(),
        CpuFinding::NmiMasked => "the NMI waits: the vCPU is inside an earlier one".into(),
        CpuFinding::HandlerUnfinished => "the NMI handler did not finish".into(),
        CpuFinding::BufferOverflowed { messages } => {
            format!("buffer full: {messages} messages lost")
        }
        CpuFinding::TraceGarbled => "the guest's word is garbled".into(),
        CpuFinding::TraceTruncated => "the guest's word ends within a line".into(),
        CpuFinding::TraceIncomplete { frames } => {
            format!("the guest's word lacks {frames} of the frames that the host sees")
        }
        CpuFinding::InterruptedBefore { frames } => {
            format!("it took an interrupt before the NMI: {frames} frames on top")
        }
        CpuFinding::InterruptShadow { frame } => format!(
            "stopped in the shadow of an STI or MOV SS, it ran on before the NMI: the guest's word is of a \
             later moment than the host's look, and differs at #{frame}"
        ),
        CpuFinding::StacksDiffer { frame } => {
            format!("the guest's word and the host's look differ at #{frame}")
        }
        CpuFinding::StackUnreadable { reason } => format!("its stack cannot be read: {reason}"),
        CpuFinding::StackBroken { reason } => format!("its stack is broken: {reason}"),
    }
}

fn state(state: CpuState) -> &'static str {
    match state {
        CpuState::Running => "running",
        CpuState::Halted => "halted",
        CpuState::NotStarted => "not started",
        CpuState::Reset => "reset: KVM has forgotten where it was",
        CpuState::Unknown => "state unknown",
        CpuState::NotRecorded => "running or halted (not recorded)",
        CpuState::ProbablyHalted => "likely halted (behind a HLT)",
    }
}

fn show_faults(text: &mut String, word: &GuestTrace) {
    for finding in &word.findings {
        let _ = writeln!(text, "  {BAD}!{BAD:#} {}", line(finding));
    }
}

fn show_word(text: &mut String, word: &GuestTrace) {
    show_faults(text, word);
    // The interrupted instruction is always reliable. If nothing behind it is, the rest is better
    // than nothing.
    let trusted = word.frames.iter().filter(|frame| frame.reliable).count() > 1;
    let shown = word.frames.iter().filter(|frame| frame.reliable || !trusted);
    show_frames(text, &shown.collect::<Vec<_>>());
}

fn show_frames(text: &mut String, frames: &[&Frame]) {
    let width = name_width(frames);
    for (number, frame) in frames.iter().enumerate() {
        show_frame(text, number, frame, width);
    }
}

fn name_width(frames: &[&Frame]) -> usize {
    let functions = frames.iter().flat_map(|frame| &frame.functions);
    let longest = functions.map(|function| function_name(function).chars().count()).max();
    longest.unwrap_or(0).clamp(*NAME_WIDTH.start(), *NAME_WIDTH.end())
}

fn show_frame(text: &mut String, number: usize, frame: &Frame, width: usize) {
    let mark = if frame.reliable { "" } else { "  ?" };
    let interrupted = if frame.interrupted && number > 0 { "  (interrupted)" } else { "" };
    if frame.functions.is_empty() {
        let reason = frame.missing.as_deref().unwrap_or("unknown");
        let _ = writeln!(
            text,
            "  #{number:<3}[<{}>]  {DIM}{}{DIM:#}{mark}{interrupted}",
            frame.address,
            line(reason)
        );
    }
    for (index, function) in frame.functions.iter().enumerate() {
        let label = if index == 0 { format!("#{number}") } else { String::new() };
        let place = match (&function.file, function.line) {
            (Some(file), Some(number)) => line(&format!("{file}:{number}")),
            (Some(file), None) => line(file),
            (None, _) => format!("[<{}>]", frame.address),
        };
        let inlined = if function.inlined { "   (inlined into)" } else { "" };
        let (mark, interrupted) = if function.inlined { ("", "") } else { (mark, interrupted) };
        let _ = writeln!(
            text,
            "  {label:<3} {:<width$}  {DIM}{place}{DIM:#}{inlined}{mark}{interrupted}",
            function_name(function)
        );
        variables::show(text, function);
    }
}

fn function_name(function: &Function) -> String {
    function.name.as_deref().map_or_else(|| "??".into(), |name| line(short_name(name)))
}

fn cpu_list(cpus: &[u32]) -> String {
    ranges(cpus).join(", ")
}

fn round_up(milliseconds: f64) -> u64 {
    milliseconds.ceil() as u64
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{} KiB", bytes >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_units_that_are_exact() {
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size((64 << 20) + 4096), "65540 KiB");
    }
}
