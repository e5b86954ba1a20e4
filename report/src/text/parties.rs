//! The vCPUs and tasks of a backtrace as people see them: which share an entry, which come first, what is
//! said about each, and which of its two stacks is shown.
//!
//! Owns that choice and the words; refuses to own their layout (`backtrace`, and `html` for a page) and the
//! frames of a stack (`stack`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::focus::{Focus, Rank};
use super::stack::{self, Frames};
use super::{Detail, variables};
use crate::phrase::{Phrase, Tone};
use crate::sanitize::line;
use crate::units::{plural, ranges, seconds};
use crate::{
    Backtrace, Cpu, CpuFinding, CpuState, Frame, GuestTrace, Hang, HostStack, KernelContext,
    NmiAnswer, PrintedTrace, Task, TaskState, Trigger,
};

/// An entry of a backtrace: vCPUs or tasks that share a stack.
pub(crate) enum Party<'a> {
    /// vCPUs with equal stacks and of one rank.
    Cpus(Vec<&'a Cpu>),
    /// vCPUs with equal stacks that idle, and nothing is wrong with them.
    IdleCpus(Vec<&'a Cpu>),
    /// Tasks with equal stacks and of one rank.
    Tasks(Vec<&'a Task>),
}

impl Party<'_> {
    /// Returns true for vCPUs of which one has that number.
    pub(crate) fn has_cpu(&self, number: u32) -> bool {
        match self {
            Self::Cpus(cpus) | Self::IdleCpus(cpus) => cpus.iter().any(|cpu| cpu.cpu == number),
            Self::Tasks(_) => false,
        }
    }
}

/// A stack as it is shown.
pub(crate) struct ShownStack<'a> {
    /// Name of the stack, where its party has two.
    pub(crate) heading: Option<String>,
    /// Faults of the stack, which are shown before it.
    pub(crate) before: Vec<Phrase>,
    /// Functions of the stack that are shown.
    pub(crate) frames: Frames<'a>,
    /// Remarks on the stack, and the reason why it ends early.
    pub(crate) after: Vec<Phrase>,
}

/// The vCPUs and tasks of one backtrace.
pub(crate) struct Parties<'a> {
    backtrace: &'a Backtrace,
    focus: Focus<'a>,
    /// True where NMIs were requested, so that a missing answer needs a reason.
    is_requested: bool,
    detail: Detail,
}

/// Returns true for a backtrace for which NMIs were requested.
pub(crate) fn has_requested_nmis(backtrace: &Backtrace) -> bool {
    !matches!(backtrace.trigger, Trigger::Dump | Trigger::Attach)
}

impl<'a> Parties<'a> {
    /// Creates the parties of a backtrace, which was taken for `hangs`.
    pub(crate) fn new(
        backtrace: &'a Backtrace,
        hangs: impl IntoIterator<Item = &'a Hang>,
        detail: Detail,
    ) -> Self {
        let is_requested = has_requested_nmis(backtrace);
        Self { backtrace, focus: Focus::new(backtrace, hangs), is_requested, detail }
    }

    /// Returns all entries with their ranks, blamed ones first.
    pub(crate) fn all(&self) -> Vec<(Rank, Party<'a>)> {
        let mut parties = Vec::new();
        for (rank, cpus) in self.backtrace.groups.iter().flat_map(|members| self.split(members)) {
            let Some(first) = cpus.first() else { continue };
            parties.push(match rank == Rank::Bystander && self.is_idle(first) {
                true => (rank, Party::IdleCpus(cpus)),
                false => (rank, Party::Cpus(cpus)),
            });
        }
        for tasks in self.tasks_with_equal_stacks() {
            parties.push((self.focus.rank_of_task(tasks[0]), Party::Tasks(tasks)));
        }
        parties.sort_by_key(|(rank, _)| *rank);
        parties
    }

    /// Splits vCPUs with equal stacks by their ranks: an idle vCPU that is blamed does not stand among others
    /// that idle too.
    fn split(&self, members: &[u32]) -> BTreeMap<Rank, Vec<&'a Cpu>> {
        let mut ranks: BTreeMap<Rank, Vec<&Cpu>> = BTreeMap::new();
        for cpu in members.iter().filter_map(|&number| self.backtrace.cpus.get(number as usize)) {
            ranks.entry(self.focus.rank_of_cpu(cpu)).or_default().push(cpu);
        }
        ranks
    }

    /// Returns true for a vCPU whose stack says nothing: idle, and nothing is wrong with it.
    fn is_idle(&self, cpu: &Cpu) -> bool {
        let is_idle = matches!(cpu.state, CpuState::Halted | CpuState::ProbablyHalted)
            && cpu.interrupts_enabled == Some(true)
            && cpu.in_nmi != Some(true);
        let is_silent = self.is_requested && cpu.nmi.answer != NmiAnswer::Answered;
        let is_faulty = !cpu.findings.is_empty()
            || cpu.guest_trace.as_ref().is_some_and(|trace| !trace.findings.is_empty());
        is_idle && !is_silent && !is_faulty
    }

    /// Groups tasks that wait alike: of one rank, in one state, for one thing, and with one stack. Tasks without a
    /// stack are not alike. Groups are in the order of their first tasks.
    fn tasks_with_equal_stacks(&self) -> Vec<Vec<&'a Task>> {
        let mut groups: Vec<Vec<&Task>> = Vec::new();
        let mut by_stack = BTreeMap::new();
        for task in &self.backtrace.tasks {
            let frames = task.host_stack.as_ref().map_or(&[][..], |stack| &stack.frames);
            let addresses: Vec<&str> = frames.iter().map(|frame| frame.address.as_str()).collect();
            let state = (self.focus.rank_of_task(task), task.state as u8, &task.waits_for);
            let group = if addresses.is_empty() {
                groups.len()
            } else {
                *by_stack.entry((state, addresses)).or_insert(groups.len())
            };
            match groups.get_mut(group) {
                Some(group) => group.push(task),
                None => groups.push(vec![task]),
            }
        }
        groups
    }

    /// Returns the names by which hangs know a vCPU: its own, and that of the task that runs on it.
    pub(crate) fn ids_of_cpu(&self, cpu: &Cpu) -> Vec<String> {
        self.focus.ids_of_cpu(cpu)
    }

    /// Returns the names by which hangs know a task.
    pub(crate) fn ids_of_task(&self, task: &Task) -> Vec<String> {
        self.focus.ids_of_task(task)
    }

    /// Returns the state of a vCPU, and all that is special about it.
    pub(crate) fn condition(&self, cpu: &Cpu) -> String {
        let mut text = state(cpu.state).to_owned();
        match cpu.interrupts_enabled {
            Some(true) => text.push_str(", interrupts on"),
            Some(false) => text.push_str(", interrupts off"),
            None => {}
        }
        if cpu.in_nmi == Some(true) {
            text.push_str(", in an NMI");
        }
        if let Some(context) = &cpu.context {
            text.push_str(&served(context));
        }
        let frames = cpu.host_stack.as_ref().map_or(&[][..], |stack| &stack.frames);
        if frames.iter().skip(1).any(|frame| frame.interrupted) && cpu.in_nmi != Some(true) {
            text.push_str(", in an interrupt or exception handler");
        }
        if let Some(task) = self.focus.ended_task(cpu) {
            let _ = write!(text, ", its task {} has ended", line(task));
        } else if let Some(task) = cpu.context.as_ref().and_then(|context| context.task.as_ref()) {
            let _ = write!(text, ", runs {}", line(task));
        }
        text
    }

    /// Returns what is remarkable about a vCPU beside its state: overdue work, a missing answer, its findings,
    /// and that its variables are shown, where others in `cpus` share its stack.
    pub(crate) fn remarks(&self, cpus: &[&Cpu], cpu: &Cpu) -> Vec<Phrase> {
        let mut remarks: Vec<Phrase> = cpu.context.as_ref().and_then(overdue).into_iter().collect();
        if let NmiAnswer::NoAnswer { reason } = &cpu.nmi.answer
            && !matches!(cpu.state, CpuState::NotStarted | CpuState::InInit)
            && self.is_requested
        {
            remarks.push(Phrase::new(Tone::Bad, "no answer").then(&format!(": {reason}")));
        }
        let findings = cpu.findings.iter().filter(|finding| !is_shown_elsewhere(finding));
        remarks.extend(findings.map(|finding| fault(&finding_text(finding))));
        if cpu.host_stack.as_ref().is_some_and(variables::has_some) {
            remarks.extend((cpus.len() > 1).then(|| variables::owner(cpu)));
        }
        remarks
    }

    /// Returns the stacks of a vCPU that are shown: one where the guest's trace and the host's stack agree, or
    /// both.
    pub(crate) fn stacks_of_cpu(&self, cpu: &'a Cpu) -> Vec<ShownStack<'a>> {
        let places = self.focus.places_of_cpu(cpu);
        let host_stack = |stack| stack::host_stack(stack, &places, self.detail);
        let guest_trace = |trace| stack::guest_trace(trace, &places, self.detail);
        let agreed = cpu.guest_trace.as_ref().filter(|trace| trace.current && shows_all(cpu));
        let host = cpu.host_stack.as_ref();
        // Equal frames, and the host's have variables.
        if let (Some(trace), Some(stack)) =
            (agreed, host.filter(|stack| variables::has_some(stack)))
            && !cpu
                .findings
                .iter()
                .any(|finding| matches!(finding, CpuFinding::InterruptedBefore { .. }))
        {
            return vec![ShownStack { before: stack::trace_faults(trace), ..host_stack(stack) }];
        }
        let headed = |shown, heading: &str| ShownStack { heading: Some(heading.into()), ..shown };
        let mut shown = Vec::new();
        if let Some(trace) = &cpu.guest_trace
            && let Some(printed) = &trace.printed
        {
            shown.extend(host.map(|stack| headed(host_stack(stack), HOST_STACK)));
            let is_wanted =
                self.detail == Detail::All || self.focus.rank_of_cpu(cpu) != Rank::Bystander;
            if let Some(at) = repeated_at(printed, trace, host) {
                let remark = format!("its kernel printed the same stack at [{at}]");
                shown.push(ShownStack::remark(Phrase::new(Tone::Dim, &remark)));
            } else if is_wanted {
                let heading = format!("guest's trace, printed at [{}]", uptime(printed));
                shown.push(headed(guest_trace(trace), &heading));
            }
            return shown;
        }
        let agreed = agreed.filter(|_| !host.is_some_and(variables::has_some));
        if let Some(trace) = &cpu.guest_trace {
            let trace_shown = guest_trace(trace);
            let of = if trace.current { "this NMI" } else { "an earlier NMI" };
            shown.push(match agreed.is_none() && host.is_some() {
                true => headed(trace_shown, &format!("guest's trace, of {of}")),
                false => trace_shown,
            });
        }
        let host = host.filter(|_| agreed.is_none());
        shown.extend(host.map(|stack| headed(host_stack(stack), HOST_STACK)));
        shown
    }

    /// Returns the stack of a task; `None` where it could not be read.
    pub(crate) fn stack_of_task(&self, task: &'a Task) -> Option<ShownStack<'a>> {
        let stack = task.host_stack.as_ref()?;
        Some(stack::host_stack(stack, &self.focus.places_of_task(task), self.detail))
    }
}

impl ShownStack<'_> {
    /// Creates a remark in place of a stack.
    fn remark(remark: Phrase) -> Self {
        Self { heading: None, before: Vec::new(), frames: Frames::default(), after: vec![remark] }
    }
}

/// Heading of a host's stack beside a guest's trace.
const HOST_STACK: &str = "host's stack";

/// Returns the line about a fault.
pub(super) fn fault(words: &str) -> Phrase {
    Phrase::new(Tone::Bad, "!").then(" ").then(words)
}

/// Returns the names and the state of tasks that share an entry.
pub(crate) fn title_of_tasks(tasks: &[&Task]) -> Phrase {
    let Some(&task) = tasks.first() else { return Phrase::default() };
    let title = if tasks.len() == 1 {
        Phrase::new(Tone::Heading, &format!("task {}", task.name))
            .then(&format!("  on cpu{}", task.cpu))
    } else {
        let count = plural(tasks.len() as u64, "task");
        Phrase::new(Tone::Heading, &format!("{count} with one stack"))
    };
    let state = match state_of_task(task.state) {
        Some(state) => format!(", {state}"),
        None => ", which does not exist".into(),
    };
    let title = title.then(&state).then(&asleep(tasks));
    match &task.waits_for {
        Some(lock) => {
            let verb = if tasks.len() == 1 { "waits" } else { "wait" };
            title.then(&format!(", {verb} for {lock}"))
        }
        None => title,
    }
}

/// Returns the scheduling state of a task in words; `None` for a task that does not exist.
pub(crate) fn state_of_task(state: TaskState) -> Option<&'static str> {
    Some(match state {
        TaskState::Ready => "ready to run",
        TaskState::Running => "running",
        TaskState::Blocked => "blocked",
        TaskState::Sleeping => "sleeping",
        TaskState::Ended => "ended",
        TaskState::Absent => return None,
        TaskState::Unknown => "in an unknown state",
    })
}

/// Returns the names of tasks, each with its CPU.
pub(crate) fn names_of_tasks(tasks: &[&Task]) -> String {
    let name = |task: &&Task| format!("{} on cpu{}", line(&task.name), task.cpu);
    tasks.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Returns how long tasks have not run, from the shortest to the longest time; nothing if that is not known.
fn asleep(tasks: &[&Task]) -> String {
    let ages = || tasks.iter().filter_map(|task| task.asleep_ms);
    let (Some(shortest), Some(longest)) = (ages().reduce(f64::min), ages().reduce(f64::max)) else {
        return String::new();
    };
    match (seconds(shortest), seconds(longest)) {
        (shortest, longest) if shortest == longest => format!(" for {longest}"),
        (shortest, longest) => format!(" for {shortest} to {longest}"),
    }
}

/// Returns lines about the vCPUs that idle: a line for each way to be halted.
pub(crate) fn idle<'a>(idle: impl Iterator<Item = &'a Party<'a>>) -> Vec<Phrase> {
    let mut rows = [
        (CpuState::Halted, "idle", "halted", Vec::new()),
        (CpuState::ProbablyHalted, "likely idle", "after a HLT", Vec::new()),
    ];
    for party in idle {
        let Party::IdleCpus(cpus) = party else { continue };
        for (state, .., numbers) in &mut rows {
            let of_state = cpus.iter().filter(|cpu| cpu.state == *state);
            numbers.extend(of_state.map(|cpu| cpu.cpu));
        }
    }
    let rows = rows.into_iter().filter(|(.., numbers)| !numbers.is_empty());
    rows.map(|(_, label, position, mut numbers)| {
        numbers.sort_unstable();
        Phrase::new(Tone::Heading, &ranges(&numbers).join(", "))
            .then(&format!("  {label} "))
            .and(Tone::Dim, &format!("({position}, interrupts on)"))
    })
    .collect()
}

/// Returns the number of tasks that only wait for work; `None` if there are none.
pub(crate) fn sleeping(backtrace: &Backtrace) -> Option<String> {
    let count = plural(backtrace.sleeping_tasks.into(), "other task");
    (backtrace.sleeping_tasks > 0).then(|| format!("{count} asleep, waiting for work or events"))
}

/// Returns the time of a trace from the kernel's log that only repeats the host's stack; `None` for any other. A CPU that
/// spins is at another instruction of its innermost function each time, or in an interrupt on top of it.
fn repeated_at(
    printed: &PrintedTrace,
    trace: &GuestTrace,
    host: Option<&HostStack>,
) -> Option<String> {
    let host = &host?.frames;
    let reliable: Vec<&Frame> = trace.frames.iter().filter(|frame| frame.reliable).collect();
    let innermost = *reliable.first()?;
    let same = host.len().checked_sub(reliable.len()).and_then(|above| host.get(above))?;
    let is_top = reliable.len() == host.len() || same.interrupted;
    let name = |frame: &Frame| frame.symbol.as_ref().map(|symbol| symbol.name.clone());
    let is_same = name(innermost).is_some() && name(innermost) == name(same);
    (is_top && is_same && printed.common_frames as usize + 1 >= reliable.len())
        .then(|| uptime(printed))
}

/// Returns the time of a trace as the kernel's log has it: in seconds.
fn uptime(printed: &PrintedTrace) -> String {
    format!("{:.6}", printed.uptime_ms / 1000.0)
}

/// Returns what a CPU has disabled or serves, by its kernel's records.
fn served(context: &KernelContext) -> String {
    let states = [
        (context.preemption_disabled > 0, ", preemption off"),
        (context.softirqs_disabled > 0, ", softirqs off"),
        (context.serves_softirq, ", in a softirq"),
    ];
    states.into_iter().filter(|(is_so, _)| *is_so).map(|(_, words)| words).collect()
}

/// Returns what a CPU should have done and has not: its tick, and its softirqs. Those of an instant are no news.
fn overdue(context: &KernelContext) -> Option<Phrase> {
    const LATE_MS: f64 = 1000.0;
    let age = context.tick_age_ms.filter(|age| *age >= LATE_MS)?;
    let tick = Phrase::plain(&format!("last timer tick {} ago", seconds(age)));
    Some(match context.pending_softirqs.as_slice() {
        [] => tick,
        pending => tick.then(&format!(", softirqs pending: {}", pending.join(", "))),
    })
}

/// Returns true where the guest's trace has all frames of the host's stack, so that one of them is enough.
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

/// Returns true for a finding that the text has in another place: as the reason for no answer, or as a
/// fault of the guest's trace.
fn is_shown_elsewhere(finding: &CpuFinding) -> bool {
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

/// Returns a finding as a sentence.
pub(crate) fn finding_text(finding: &CpuFinding) -> String {
    match finding {
        CpuFinding::NmiNotDelivered => "the NMI was not delivered".into(),
        CpuFinding::NmiMasked => "the NMI is pending: the vCPU is inside an earlier one".into(),
        CpuFinding::HandlerUnfinished => "the NMI handler did not finish".into(),
        CpuFinding::BufferOverflowed { messages } => {
            format!("buffer full: {messages} messages lost")
        }
        CpuFinding::TraceGarbled => "the guest's trace is garbled".into(),
        CpuFinding::TraceTruncated => "the guest's trace ends within a line".into(),
        CpuFinding::TraceIncomplete { frames } => {
            format!("the guest's trace lacks {frames} of the frames that the host sees")
        }
        CpuFinding::InterruptedBefore { frames } => {
            format!("it took an interrupt before the NMI: {frames} frames on top")
        }
        CpuFinding::InterruptShadow { frame } => format!(
            "stopped in the shadow of an STI or MOV SS, it ran on before the NMI: the guest's trace is from a \
             later moment than the host's stack, and differs at #{frame}"
        ),
        CpuFinding::StacksDiffer { frame } => {
            format!("the guest's trace and the host's stack differ at #{frame}")
        }
        CpuFinding::StackUnreadable { reason } => format!("its stack cannot be read: {reason}"),
        CpuFinding::StackBroken { reason } => format!("its stack is broken: {reason}"),
    }
}

fn state(state: CpuState) -> &'static str {
    match state {
        CpuState::Running => "running",
        CpuState::Halted => "halted",
        CpuState::NotStarted => "offline: not started",
        CpuState::InInit => "offline: INIT received, no start-up IPI yet",
        CpuState::Reset => "offline: reset, and KVM has lost its position",
        CpuState::Unknown => "state unknown",
        CpuState::NotRecorded => "running or halted (not recorded)",
        CpuState::ProbablyHalted => "likely halted (after a HLT)",
    }
}

/// Returns the names of vCPUs that share an entry.
pub(crate) fn cpu_list(cpus: &[&Cpu]) -> String {
    let numbers: Vec<u32> = cpus.iter().map(|cpu| cpu.cpu).collect();
    ranges(&numbers).join(", ")
}
