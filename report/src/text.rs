//! Reports as text for people: a run's events in their order, its hangs, its backtraces, and the end of its
//! log.
//!
//! Owns what is left out so that the cause shows: registers, columns, unreliable frames where there are
//! reliable ones, and with [`Detail::Folded`] the inside of locks and of panics, and the stacks of idle
//! vCPUs. JSON has all of it. Refuses to own facts: everything here is in the types. Called by the command line.
//!
//! Strings that come from the guest or its image go through [`sanitize`](crate::sanitize).

pub(crate) mod backtrace;
pub(crate) mod evidence;
pub(crate) mod focus;
pub(crate) mod hang;
pub(crate) mod parties;
pub(crate) mod stack;
#[cfg(test)]
mod tests;
pub(crate) mod variables;
pub(crate) mod waits;

use std::fmt::Write as _;
use std::time::Duration;

use crate::phrase::{Phrase, Tone};
use crate::sanitize::line;
use crate::summary::{ending, separator};
use crate::units::plural;
use crate::{
    Backtrace, GuestKernel, Hang, KernelLog, LogLine, Machine, MemorySource, Outcome, Report,
    Source, Trigger, Visit,
};

pub use backtrace::backtrace;
pub use hang::{hangs, resolved};

/// The amount of detail in a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Detail {
    /// Stacks begin with the function that is blamed or that panicked, the core library's functions are left
    /// out, and idle vCPUs share a line.
    #[default]
    Folded,
    /// All functions of all stacks.
    All,
}

impl Detail {
    /// Returns the detail that a verbose text has, or one that is not.
    pub fn from_verbose(verbose: bool) -> Self {
        if verbose { Self::All } else { Self::Folded }
    }
}

/// Returns a line about a guest that is ready, `after` the tool's start.
pub fn ready(machine: &Machine, after: Duration) -> String {
    let label = Phrase::new(Tone::Good, "guest ready");
    format!("{label}: {}, {} ms\n", size_of_machine(machine), after.as_millis())
}

/// Returns the number of a machine's vCPUs and the size of its memory.
pub(crate) fn size_of_machine(machine: &Machine) -> String {
    format!("{}, {}", plural(machine.vcpus.into(), "vCPU"), size(machine.memory_bytes))
}

/// Returns how the run ended, as a line; empty for an exit with code 0, and for an end that the hangs explain.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exit { code: 0 } => String::new(),
        outcome => end(outcome).map_or_else(String::new, |end| format!("{end}\n")),
    }
}

/// Returns how the run ended; `None` for an end that the hangs explain.
pub(crate) fn end(outcome: &Outcome) -> Option<Phrase> {
    let (label, words) = ending(outcome)?;
    let tone = match outcome {
        Outcome::Exit { code: 0 } => Tone::Good,
        Outcome::Stopped { .. } => Tone::Plain,
        _ => Tone::Bad,
    };
    Some(Phrase::new(tone, label).then(separator(label)).then(&words))
}

/// The parts of a report that a redacted one lacks.
pub(crate) const REDACTED: &str = "without log and console, names of tasks, registers, addresses, values of \
                                   variables, kernel parameters, paths and the host's name";

/// Returns the line that a redacted report begins with.
pub fn redaction() -> String {
    format!("{}: {REDACTED}\n", Phrase::new(Tone::Heading, "redacted"))
}

/// Returns a whole report, in the order in which a run prints it.
pub fn report(report: &Report, detail: Detail) -> String {
    let after = report.ready_after_ms;
    let after = after.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    let mut text = if report.redacted { redaction() } else { String::new() };
    text.extend(after.map(|after| ready(&report.machine, after)));
    match &report.image.kernel {
        GuestKernel::Known { name } => {
            let _ = writeln!(text, "{}", line(name));
        }
        GuestKernel::Unknown { reason } if is_of_another_program(report.source) => {
            let _ = writeln!(text, "kernel unknown: {}", line(reason));
        }
        GuestKernel::Unknown { .. } | GuestKernel::Bundled | GuestKernel::NotExamined => {}
    }
    text.extend(report.visit.as_ref().map(visit));
    // The time of each part, its place among parts of the same time, and its text.
    let mut parts: Vec<(f64, u8, String)> = Vec::new();
    for hang in &report.hangs {
        parts.push((hang.at_ms, 1, hangs(std::slice::from_ref(hang))));
        if let Some(after) = hang.resolved_after_ms {
            parts.push((hang.at_ms + after, 0, resolved(hang)));
        }
    }
    for (index, taken) in (0..).zip(&report.backtraces) {
        let is_of_this = |hang: &&Hang| hang.backtrace == Some(index);
        let mut part = backtrace(taken, report.hangs.iter().filter(is_of_this), detail);
        if is_of_the_end(taken) {
            part.insert_str(0, &outcome(&report.outcome));
        }
        parts.push((taken.at_ms, 2, part));
    }
    parts.sort_by(|(at, order, _), (other_at, other_order, _)| {
        at.total_cmp(other_at).then(order.cmp(other_order))
    });
    text.extend(parts.into_iter().map(|(_, _, part)| part));
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

/// Returns a whole report as [`report`] does, without colors.
pub fn plain(report: &Report, detail: Detail) -> String {
    without_colors(&self::report(report, detail))
}

/// Returns a text of this module without its colors.
pub(crate) fn without_colors(text: &str) -> String {
    // All words are harmless, so that each escape character begins a color, which ends with an `m`.
    let mut parts = text.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    plain.extend(parts.filter_map(|part| Some(part.split_once('m')?.1)));
    plain
}

/// Returns true for a guest that another program started, about whose kernel nothing may be known beforehand.
fn is_of_another_program(source: Source) -> bool {
    match source {
        Source::Dump | Source::Attached => true,
        Source::Live | Source::Core => false,
    }
}

/// Appends the end of the kernel's log.
fn show_log(text: &mut String, log: &KernelLog) {
    const SHOWN: usize = 20;
    let heading = Phrase::new(Tone::Heading, "log");
    if let Some(reason) = &log.missing {
        let missing = heading.then(" ").and(Tone::Bad, "missing").then(": ").then(reason);
        let _ = writeln!(text, "{missing}");
        return;
    }
    let left_out = log.lines.len().saturating_sub(SHOWN);
    let all = log.omitted.saturating_add(log.lines.len() as u64);
    let shown = &log.lines[left_out..];
    let count = match shown.len() as u64 {
        0 if all > 0 => format!("{}, left out", plural(all, "line")),
        shown if shown == all => plural(all, "line"),
        shown => format!("last {shown} of {}", plural(all, "line")),
    };
    let _ = writeln!(text, "{heading} ({count})");
    for record in shown {
        let uptime = Phrase::new(Tone::Dim, &uptime(record));
        let _ = writeln!(text, "  {uptime} {}", line(&record.text));
    }
}

/// Returns the time of a line as kernels print it: `[    0.000594]`.
pub(crate) fn uptime(line: &LogLine) -> String {
    format!("[{:12.6}]", line.uptime_ms / 1000.0)
}

/// Returns a line about an attach to a running VM.
pub(crate) fn visit(visit: &Visit) -> String {
    let Visit { pid, memory, run_state, stopped_ms, torn } = visit;
    let stopped = match stopped_ms {
        Some(ms) => format!("stopped for {ms:.1} ms"),
        None if run_state == "running" => "not stopped".into(),
        None => format!("{} before, and left so", line(run_state)),
    };
    let torn = if *torn { ", read in part while it ran" } else { "" };
    let process = pid.map(|pid| format!(" process {pid}")).unwrap_or_default();
    let memory = match memory {
        MemorySource::Process => "",
        MemorySource::Monitor => ", memory read through the monitor",
    };
    format!("QEMU{process}: {stopped}{memory}{torn}\n")
}

/// Returns true for a backtrace that was taken because the run ended, or because it is all that was seen of
/// it.
fn is_of_the_end(backtrace: &Backtrace) -> bool {
    match backtrace.trigger {
        Trigger::GuestEnded | Trigger::Starved | Trigger::TimeLimit => true,
        Trigger::Dump | Trigger::Attach => true,
        Trigger::Hang | Trigger::Timer | Trigger::Signal { .. } => false,
    }
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
