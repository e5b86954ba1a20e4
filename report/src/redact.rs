//! Redaction: takes out of a report what the guest printed or held, and names of the host, so that it may be
//! shown to strangers.
//!
//! Owns the decision on each member of each type, by patterns that name all of them: a new member does not
//! compile until it has one. docs/privacy.md has the decisions for people. Refuses to own when a report is
//! redacted (the command line). Called by the command line, for whole reports and for the parts that a run
//! prints while the guest runs.

use std::collections::BTreeMap;

use crate::cpu::{
    Cpu, CpuFinding, GuestTrace, HostStack, KernelContext, Nmi, NmiAnswer, PrintedTrace, Registers,
};
use crate::frame::{Availability, Frame, FrameSymbol, Function, Variable};
use crate::hang::{
    Certainty, Evidence, Fact, Hang, NodeKind, SourceLine, Spin, SpinWriter, Task, WaitEdge,
    WaitGraph, WaitNode,
};
use crate::history::{CpuHistory, History, PastNmis, PastSuspicion};
use crate::report::{
    Backtrace, BufferReservation, GuestImage, GuestKernel, KernelLog, Machine, Outcome, Report,
    Tool, Trigger, UNKNOWN_HOST, Visit,
};
use crate::summary;

/// The text in place of one that is left out.
pub const REDACTED: &str = "<redacted>";

/// A part of a report that can be redacted. Redacting it again changes nothing.
pub trait Redact {
    /// Leaves out what a redacted report does not have. Parts of one report share their `pseudonyms`.
    fn redact(&mut self, pseudonyms: &mut Pseudonyms);
}

/// Numbers in place of addresses: equal addresses of a report have equal numbers.
#[derive(Debug, Default)]
pub struct Pseudonyms {
    addresses: BTreeMap<u64, usize>,
}

impl Pseudonyms {
    /// Returns a sentence of the tool with its addresses replaced, and words that may be paths.
    pub fn sentence(&mut self, text: &str) -> String {
        let words = text.split(' ').map(|word| if is_path(word) { "<path>" } else { word });
        self.without_addresses(&words.collect::<Vec<_>>().join(" "))
    }

    /// Returns a text with its addresses replaced: words of 16 hexadecimal digits, and those of more than 5
    /// digits after `0x`, as an offset of KASLR has. Offsets into functions are shorter.
    fn without_addresses(&mut self, text: &str) -> String {
        let is_of_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_of_word) {
            let (before, word) = rest.split_at(start);
            let (word, after) = word.split_at(word.find(|c| !is_of_word(c)).unwrap_or(word.len()));
            out.push_str(before);
            match address(word) {
                Some(address) => out.push_str(&self.pseudonym(address)),
                None => out.push_str(word),
            }
            rest = after;
        }
        out + rest
    }

    fn pseudonym(&mut self, address: u64) -> String {
        let next = self.addresses.len() + 1;
        format!("address#{}", self.addresses.entry(address).or_insert(next))
    }

    fn replace(&mut self, text: &mut String) {
        *text = self.without_addresses(text);
    }

    fn replace_in_sentence(&mut self, text: &mut String) {
        *text = self.sentence(text);
    }
}

/// Returns the address that a word is; `None` for any other word.
fn address(word: &str) -> Option<u64> {
    let digits = match word.strip_prefix("0x") {
        Some(digits) if digits.len() > 5 => digits,
        None if word.len() == 16 => word,
        _ => return None,
    };
    u64::from_str_radix(digits, 16).ok()
}

/// Returns true for a word with a slash that is neither an offset into a function nor I/O.
fn is_path(word: &str) -> bool {
    word.contains('/') && !word.contains("+0x") && !word.contains("I/O")
}

impl Redact for Report {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            schema_version: _,
            // Made anew below.
            summary: _,
            redacted,
            source: _,
            captured_at: _,
            host,
            tool: Tool { name: _, version: _ },
            image,
            machine: Machine { vcpus: _, memory_bytes: _ },
            ready_after_ms: _,
            outcome,
            hangs,
            backtraces,
            warnings,
            console_tail,
            visit,
        } = self;
        *redacted = true;
        *host = UNKNOWN_HOST.into();
        // The image's path may have spaces, so that its words do not look like paths.
        for warning in warnings.iter_mut() {
            for path in [&image.path, &image.initrd].into_iter().flatten() {
                if path.contains('/') {
                    *warning = warning.replace(path, "<path>");
                }
            }
            pseudonyms.replace_in_sentence(warning);
        }
        image.redact(pseudonyms);
        outcome.redact(pseudonyms);
        hangs.redact(pseudonyms);
        backtraces.redact(pseudonyms);
        console_tail.clear();
        if let Some(Visit { pid: _, memory: _, run_state: _, stopped_ms: _, torn: _ }) = visit {}
        self.summary = summary::summarize(self);
    }
}

impl<T: Redact> Redact for [T] {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        self.iter_mut().for_each(|part| part.redact(pseudonyms));
    }
}

impl<T: Redact> Redact for Vec<T> {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        self.as_mut_slice().redact(pseudonyms);
    }
}

impl<T: Redact> Redact for Option<T> {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        self.iter_mut().for_each(|part| part.redact(pseudonyms));
    }
}

impl Redact for GuestImage {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self { path, build_id: _, initrd, command_line, kernel } = self;
        for name in [path, initrd].into_iter().flatten().chain([command_line]) {
            if !name.is_empty() {
                *name = REDACTED.into();
            }
        }
        match kernel {
            GuestKernel::Known { name } => pseudonyms.replace(name),
            GuestKernel::Unknown { reason } => pseudonyms.replace_in_sentence(reason),
            GuestKernel::Bundled | GuestKernel::NotExamined => {}
        }
    }
}

impl Redact for Outcome {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        match self {
            Self::Panic { cpu: _, message } | Self::Observed { panicking: _, message } => {
                if let Some(message) = message {
                    *message = REDACTED.into();
                }
            }
            Self::Crash { cpu: _, cause: _, description } => {
                pseudonyms.replace_in_sentence(description);
            }
            Self::Exit { code: _ }
            | Self::Hang
            | Self::Starved { cpus: _, wall_ms: _, ran_ms: _ }
            | Self::TimedOut { limit_ms: _, ran_ms: _ }
            | Self::Stopped { by: _ } => {}
        }
    }
}

impl Redact for Backtrace {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            trigger,
            at_ms: _,
            reservation,
            nmi_sent: _,
            nmi_answered: _,
            elapsed_ms: _,
            cpus,
            groups: _,
            tasks,
            sleeping_tasks: _,
            waits,
            log,
            history,
        } = self;
        match trigger {
            Trigger::Signal { name: _ } => {}
            Trigger::Hang | Trigger::Starved | Trigger::Timer | Trigger::GuestEnded => {}
            Trigger::TimeLimit | Trigger::Dump | Trigger::Attach => {}
        }
        match reservation {
            BufferReservation::Unavailable { reason } => pseudonyms.replace_in_sentence(reason),
            BufferReservation::Refused { holder: _, held_ms: _, waited_ms: _ } => {}
            BufferReservation::Held { waited_ms: _ } | BufferReservation::NotAsked => {}
        }
        cpus.redact(pseudonyms);
        tasks.redact(pseudonyms);
        let nodes = waits.as_ref().map_or(&[][..], |waits| &waits.nodes);
        let parties = Parties::new(nodes, pseudonyms);
        if let Some(WaitGraph { nodes, edges }) = waits {
            nodes.iter_mut().for_each(|node| parties.redact_node(node, pseudonyms));
            edges.iter_mut().for_each(|edge| parties.redact_edge(edge));
        }
        if let Some(history) = history {
            parties.redact_history(history);
        }
        log.redact(pseudonyms);
    }
}

impl Redact for KernelLog {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self { lines, omitted, missing } = self;
        *omitted = omitted.saturating_add(lines.len() as u64);
        lines.clear();
        if let Some(reason) = missing {
            pseudonyms.replace_in_sentence(reason);
        }
    }
}

impl Redact for Cpu {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            cpu: _,
            state: _,
            interrupts_enabled: _,
            registers,
            in_nmi: _,
            context,
            nmi,
            guest_trace,
            host_stack,
            findings,
        } = self;
        context.redact(pseudonyms);
        let _: Option<Registers> = registers.take();
        nmi.redact(pseudonyms);
        guest_trace.redact(pseudonyms);
        host_stack.redact(pseudonyms);
        findings.redact(pseudonyms);
    }
}

impl Redact for KernelContext {
    fn redact(&mut self, _pseudonyms: &mut Pseudonyms) {
        let Self {
            task,
            preemption_disabled: _,
            serves_softirq: _,
            softirqs_disabled: _,
            hard_interrupts: _,
            nmis: _,
            pending_softirqs: _,
            ready_tasks: _,
            tick_age_ms: _,
        } = self;
        *task = task.take().map(|_| REDACTED.into());
    }
}

impl Redact for Nmi {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            sent: _,
            delivered: _,
            masked_before: _,
            masked_after: _,
            pending_after: _,
            handler_finished: _,
            ran_ms: _,
            answer,
            bytes: _,
            messages_lost: _,
            stale_bytes: _,
        } = self;
        match answer {
            NmiAnswer::Answered => {}
            NmiAnswer::NoAnswer { reason } => pseudonyms.replace_in_sentence(reason),
        }
    }
}

impl Redact for GuestTrace {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self { text, current: _, printed, frames, findings } = self;
        let _: &Option<PrintedTrace> = printed;
        *text = REDACTED.into();
        frames.redact(pseudonyms);
        findings.iter_mut().for_each(|finding| pseudonyms.replace_in_sentence(finding));
    }
}

impl Redact for HostStack {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self { frames, complete: _, end } = self;
        frames.redact(pseudonyms);
        pseudonyms.replace_in_sentence(end);
    }
}

impl Redact for CpuFinding {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        match self {
            Self::StackUnreadable { reason } | Self::StackBroken { reason } => {
                pseudonyms.replace_in_sentence(reason);
            }
            Self::NmiNotDelivered | Self::NmiMasked | Self::HandlerUnfinished => {}
            Self::BufferOverflowed { messages: _ } => {}
            Self::TraceGarbled | Self::TraceTruncated => {}
            Self::TraceIncomplete { frames: _ } | Self::InterruptedBefore { frames: _ } => {}
            Self::InterruptShadow { frame: _ } | Self::StacksDiffer { frame: _ } => {}
        }
    }
}

impl Redact for Frame {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            address,
            interrupted: _,
            reliable: _,
            found_by: _,
            cfi_fault,
            symbol,
            functions,
            missing,
        } = self;
        pseudonyms.replace(address);
        for reason in [cfi_fault, missing].into_iter().flatten() {
            pseudonyms.replace_in_sentence(reason);
        }
        if let Some(FrameSymbol { name: _, offset: _ }) = symbol {}
        functions.redact(pseudonyms);
    }
}

impl Redact for Function {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            name: _,
            file: _,
            line: _,
            column: _,
            inlined: _,
            variables,
            variables_omitted: _,
        } = self;
        variables.redact(pseudonyms);
    }
}

impl Redact for Variable {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self { name: _, kind: _, type_name: _, value, availability } = self;
        match availability {
            Availability::Known => *value = REDACTED.into(),
            // The value is the reason why there is none.
            Availability::OptimizedOut | Availability::Unavailable => {
                pseudonyms.replace_in_sentence(value);
            }
        }
    }
}

impl Redact for Task {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self { task, name, cpu: _, state: _, waits_for, asleep_ms: _, switches: _, host_stack } =
            self;
        *name = task_name(*task);
        if let Some(lock) = waits_for {
            pseudonyms.replace(lock);
        }
        host_stack.redact(pseudonyms);
    }
}

impl Redact for Hang {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        let Self {
            class: _,
            signature: _,
            // Functions and symbols of locks alone.
            bucket: _,
            at_ms: _,
            lasted_ms: _,
            blamed,
            locks,
            victims,
            nodes,
            edges,
            evidence,
            spins,
            certainty,
            backtrace: _,
            resolved_after_ms: _,
        } = self;
        let parties = Parties::new(nodes, pseudonyms);
        for id in blamed.iter_mut().chain(locks).chain(victims) {
            parties.rename(id);
        }
        nodes.iter_mut().for_each(|node| parties.redact_node(node, pseudonyms));
        edges.iter_mut().for_each(|edge| parties.redact_edge(edge));
        for Evidence { party, fact } in evidence {
            parties.rename(party);
            fact.redact(pseudonyms);
        }
        for Spin { symbol: _, address, parties: spinning, writers } in spins {
            pseudonyms.replace(address);
            spinning.iter_mut().for_each(|party| parties.rename(party));
            for SpinWriter { party, function: _ } in writers {
                parties.rename(party);
            }
        }
        match certainty {
            Certainty::Unknown { reason } => pseudonyms.replace_in_sentence(reason),
            Certainty::Suspected { lasted_ms: _, bound_ms: _ } => {}
            Certainty::Certain | Certainty::Likely => {}
        }
    }
}

impl Redact for Fact {
    fn redact(&mut self, pseudonyms: &mut Pseudonyms) {
        match self {
            Self::StoppedAt {
                halted: _,
                interrupts_enabled: _,
                nmi_masked: _,
                handler: _,
                address,
                function: _,
                line,
            } => {
                pseudonyms.replace(address);
                if let Some(SourceLine { file: _, line: _ }) = line {}
            }
            Self::NoTick { ms: _ } | Self::NoSchedule { ms: _, interrupts: _ } => {}
            Self::Waited { ms: _ }
            | Self::TasksNotRun { ms: _, tasks: _ }
            | Self::Offline { how: _ } => {}
            Self::PendingWork { ms: _, items: _, ran_ms: _ } => {}
            Self::NotReady { ms: _ } | Self::NoOutput { ms: _ } => {}
            Self::SeenWithInterruptsOff { ms: _ } => {}
        }
    }
}

/// Returns the name of a task in a redacted report, from its number.
fn task_name(number: u32) -> String {
    format!("#{number}")
}

/// New names of a graph's parties, by the old ones.
struct Parties(BTreeMap<String, String>);

impl Parties {
    fn new(nodes: &[WaitNode], pseudonyms: &mut Pseudonyms) -> Self {
        let rename = |WaitNode { id, kind }: &WaitNode| {
            let name = match kind {
                NodeKind::Task { task, .. } => task_name(*task),
                NodeKind::Cpu { .. } | NodeKind::Lock { .. } | NodeKind::Queue { .. } => {
                    pseudonyms.without_addresses(id)
                }
            };
            (id.clone(), name)
        };
        Self(nodes.iter().map(rename).collect())
    }

    /// Replaces the name of a party. A party that is no node of its graph may be a task.
    fn rename(&self, id: &mut String) {
        let is_cpu = |digits: &str| digits.parse::<u32>().is_ok();
        *id = match self.0.get(id) {
            Some(name) => name.clone(),
            None if id.strip_prefix("cpu").is_some_and(is_cpu) => return,
            None => REDACTED.into(),
        };
    }

    fn redact_node(&self, node: &mut WaitNode, pseudonyms: &mut Pseudonyms) {
        let WaitNode { id, kind } = node;
        self.rename(id);
        match kind {
            NodeKind::Cpu { cpu: _, activity: _, task } => {
                task.iter_mut().for_each(|task| self.rename(task));
            }
            NodeKind::Task { task, name, cpu: _, state: _ } => *name = task_name(*task),
            NodeKind::Lock { symbol: _, address, lock: _, held_by, taken_at } => {
                pseudonyms.replace(address);
                held_by.iter_mut().for_each(|holder| self.rename(holder));
                if let Some(SourceLine { file: _, line: _ }) = taken_at {}
            }
            NodeKind::Queue { symbol: _, address } => pseudonyms.replace(address),
        }
    }

    /// Replaces the names of suspected tasks. Everything else is numbers, which say how busy a CPU was.
    fn redact_history(&self, history: &mut History) {
        let History {
            starts_at_ms: _,
            ends_at_ms: _,
            slot_ms: _,
            wall_ms: _,
            stopped_ms: _,
            cpus,
            suspicions,
            nmis,
        } = history;
        for PastSuspicion { class: _, parties, began_at_ms: _, ended_at_ms: _ } in suspicions {
            parties.iter_mut().for_each(|party| self.rename(party));
        }
        for CpuHistory {
            cpu: _,
            own_ms: _,
            ran_ms: _,
            ticks: _,
            schedules: _,
            interrupts: _,
            halts: _,
        } in cpus
        {}
        for PastNmis { at_ms: _, cpus: _ } in nmis {}
    }

    fn redact_edge(&self, edge: &mut WaitEdge) {
        let WaitEdge { from, to, kind: _, call_site, lasted_ms: _ } = edge;
        self.rename(from);
        self.rename(to);
        if let Some(SourceLine { file: _, line: _ }) = call_site {}
    }
}

#[cfg(test)]
mod tests;
