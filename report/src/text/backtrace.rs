//! A backtrace as text: how it was taken, then its vCPUs and tasks.
//!
//! Owns the order of vCPUs and tasks, the line that each begins with, and which of its two stacks is shown;
//! refuses to own frames (`stack`). Called by `text`, whose interface has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::focus::{Focus, Rank};
use super::stack;
use super::{BAD, DIM, Detail, HEADING, round_up, variables, waits};
use crate::sanitize::line;
use crate::units::{plural, ranges, seconds};
use crate::{
    Backtrace, BufferReservation, Cpu, CpuFinding, CpuState, Frame, GuestTrace, Hang, HostStack,
    KernelContext, NmiAnswer, PrintedTrace, Task, TaskState, Trigger,
};

/// Returns the text of a backtrace and of the vCPUs and tasks in it. `hangs` are those that it was taken
/// for: their blamed parties come first, and in a stack the blamed function.
///
/// With [`Detail::Folded`], vCPUs that idle share one line without a stack.
pub fn backtrace<'a>(
    backtrace: &'a Backtrace,
    hangs: impl IntoIterator<Item = &'a Hang>,
    detail: Detail,
) -> String {
    let mut text = String::new();
    match &backtrace.trigger {
        Trigger::Signal { name } => {
            let _ = writeln!(text, "backtrace requested by {name}");
        }
        Trigger::Timer => text.push_str("backtrace requested by --nmi-after\n"),
        Trigger::Hang
        | Trigger::Starved
        | Trigger::GuestEnded
        | Trigger::TimeLimit
        | Trigger::Dump
        | Trigger::Attach => {}
    }
    let is_requested = !matches!(backtrace.trigger, Trigger::Dump | Trigger::Attach);
    if is_requested {
        nmis(&mut text, backtrace);
    } else {
        let vcpus = plural(backtrace.cpus.len() as u64, "vCPU");
        let _ = writeln!(text, "{vcpus}, seen from outside");
    }
    let hangs: Vec<&Hang> = hangs.into_iter().collect();
    if let Some(graph) = &backtrace.waits {
        waits::show(&mut text, graph, &hangs);
    }
    let writer = Writer { focus: Focus::new(backtrace, hangs), is_requested, detail };
    writer.parties(&mut text, backtrace);
    text.push('\n');
    text
}

/// A vCPU or a task, with its place in the text.
enum Party<'a> {
    /// vCPUs with equal stacks and of one rank, and the first of them.
    Cpus { numbers: Vec<u32>, first: &'a Cpu },
    /// Tasks with equal stacks and of one rank.
    Tasks(Vec<&'a Task>),
}

struct Writer<'a> {
    focus: Focus<'a>,
    /// True where NMIs were requested, so that a missing answer needs a reason.
    is_requested: bool,
    detail: Detail,
}

impl Writer<'_> {
    fn parties(&self, text: &mut String, backtrace: &Backtrace) {
        let mut idle = Vec::new();
        let mut parties = Vec::new();
        let groups = backtrace.groups.iter();
        for (rank, cpus) in groups.flat_map(|members| self.split_by_rank(backtrace, members)) {
            let Some(&first) = cpus.first() else { continue };
            if rank == Rank::Bystander && self.is_one_line(first) {
                idle.extend(cpus);
            } else {
                let numbers = cpus.iter().map(|cpu| cpu.cpu).collect();
                parties.push((rank, Party::Cpus { numbers, first }));
            }
        }
        for tasks in self.tasks_with_equal_stacks(&backtrace.tasks) {
            parties.push((self.focus.rank_of_task(tasks[0]), Party::Tasks(tasks)));
        }
        parties.sort_by_key(|(rank, _)| *rank);
        for (_, party) in parties {
            text.push('\n');
            match party {
                Party::Cpus { numbers, first } => self.cpu(text, &cpu_list(&numbers), first),
                Party::Tasks(tasks) => self.tasks(text, &tasks),
            }
        }
        idle_cpus(text, &idle);
        if backtrace.sleeping_tasks > 0 {
            let count = plural(backtrace.sleeping_tasks.into(), "other task");
            let _ = writeln!(text, "\n{count} asleep, waiting for work or events");
        }
    }

    /// Splits vCPUs with equal stacks by their ranks: an idle vCPU that is blamed does not stand among others
    /// that idle too.
    fn split_by_rank<'b>(
        &self,
        backtrace: &'b Backtrace,
        members: &[u32],
    ) -> BTreeMap<Rank, Vec<&'b Cpu>> {
        let mut ranks: BTreeMap<Rank, Vec<&Cpu>> = BTreeMap::new();
        for cpu in members.iter().filter_map(|&number| backtrace.cpus.get(number as usize)) {
            ranks.entry(self.focus.rank_of_cpu(cpu)).or_default().push(cpu);
        }
        ranks
    }

    /// Returns true for a vCPU whose stack says nothing: idle, and nothing is wrong with it.
    fn is_one_line(&self, cpu: &Cpu) -> bool {
        let is_idle = matches!(cpu.state, CpuState::Halted | CpuState::ProbablyHalted)
            && cpu.interrupts_enabled == Some(true)
            && cpu.in_nmi != Some(true);
        let is_silent = self.is_requested && cpu.nmi.answer != NmiAnswer::Answered;
        let is_faulty = !cpu.findings.is_empty()
            || cpu.guest_trace.as_ref().is_some_and(|trace| !trace.findings.is_empty());
        self.detail == Detail::Folded && is_idle && !is_silent && !is_faulty
    }

    /// Appends one vCPU, with the reason where it has not answered.
    fn cpu(&self, text: &mut String, names: &str, cpu: &Cpu) {
        let _ = writeln!(text, "{HEADING}{names}{HEADING:#}  {}", self.condition(cpu));
        if let Some(context) = &cpu.context {
            overdue(text, context);
        }
        if let NmiAnswer::NoAnswer { reason } = &cpu.nmi.answer
            && !matches!(cpu.state, CpuState::NotStarted | CpuState::InInit)
            && self.is_requested
        {
            let _ = writeln!(text, "  {BAD}no answer{BAD:#}: {}", line(reason));
        }
        for finding in cpu.findings.iter().filter(|finding| !is_shown_elsewhere(finding)) {
            let _ = writeln!(text, "  {BAD}!{BAD:#} {}", line(&finding_text(finding)));
        }
        let places = self.focus.places_of_cpu(cpu);
        let agreed = cpu.guest_trace.as_ref().filter(|trace| trace.current && shows_all(cpu));
        let host = cpu.host_stack.as_ref();
        if host.is_some_and(variables::has_some) {
            variables::add_owner(text, cpu, names);
        }
        // Equal frames, and the host's have variables.
        if let (Some(trace), Some(stack)) =
            (agreed, host.filter(|stack| variables::has_some(stack)))
            && !cpu
                .findings
                .iter()
                .any(|finding| matches!(finding, CpuFinding::InterruptedBefore { .. }))
        {
            stack::trace_faults(text, trace);
            stack::host_stack(text, stack, &places, self.detail);
            return;
        }
        if let Some((printed, trace)) =
            cpu.guest_trace.as_ref().and_then(|trace| Some((trace.printed.as_ref()?, trace)))
        {
            if let Some(stack) = host {
                text.push_str("  host's stack:\n");
                stack::host_stack(text, stack, &places, self.detail);
            }
            let is_wanted =
                self.detail == Detail::All || self.focus.rank_of_cpu(cpu) != Rank::Bystander;
            if let Some(at) = repeated_at(printed, trace, host) {
                let _ = writeln!(text, "  {DIM}its kernel printed the same stack at [{at}]{DIM:#}");
            } else if is_wanted {
                let at = uptime(printed);
                let _ = writeln!(text, "  guest's trace, printed at [{at}]:");
                stack::guest_trace(text, trace, &places, self.detail);
            }
            return;
        }
        let agreed = agreed.filter(|_| !host.is_some_and(variables::has_some));
        if let Some(trace) = &cpu.guest_trace {
            if agreed.is_none() && cpu.host_stack.is_some() {
                let of = if trace.current { "this NMI" } else { "an earlier NMI" };
                let _ = writeln!(text, "  guest's trace, of {of}:");
            }
            stack::guest_trace(text, trace, &places, self.detail);
        }
        if let Some(stack) = host.filter(|_| agreed.is_none()) {
            text.push_str("  host's stack:\n");
            stack::host_stack(text, stack, &places, self.detail);
        }
    }

    /// Returns the state of a vCPU, and all that is special about it.
    fn condition(&self, cpu: &Cpu) -> String {
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

    /// Groups tasks that wait alike: of one rank, in one state, for one thing, and with one stack. Tasks without a
    /// stack are not alike. Groups are in the order of their first tasks.
    fn tasks_with_equal_stacks<'b>(&self, tasks: &'b [Task]) -> Vec<Vec<&'b Task>> {
        let mut groups: Vec<Vec<&Task>> = Vec::new();
        let mut by_stack = BTreeMap::new();
        for task in tasks {
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

    /// Appends tasks that wait alike: their names and ages, and their stack once.
    fn tasks(&self, text: &mut String, tasks: &[&Task]) {
        let Some(&task) = tasks.first() else { return };
        let name = |task: &&Task| format!("{} on cpu{}", line(&task.name), task.cpu);
        if tasks.len() == 1 {
            let name = line(&task.name);
            let _ = write!(text, "{HEADING}task {name}{HEADING:#}  on cpu{}", task.cpu);
        } else {
            let count = plural(tasks.len() as u64, "task");
            let _ = write!(text, "{HEADING}{count} with one stack{HEADING:#}");
        }
        text.push_str(match task.state {
            TaskState::Ready => ", ready to run",
            TaskState::Running => ", running",
            TaskState::Blocked => ", blocked",
            TaskState::Sleeping => ", sleeping",
            TaskState::Ended => ", ended",
            TaskState::Absent => ", which does not exist",
            TaskState::Unknown => ", in an unknown state",
        });
        text.push_str(&asleep(tasks));
        if let Some(lock) = &task.waits_for {
            let verb = if tasks.len() == 1 { "waits" } else { "wait" };
            let _ = write!(text, ", {verb} for {}", line(lock));
        }
        text.push('\n');
        if tasks.len() > 1 {
            let _ = writeln!(text, "  {}", tasks.iter().map(name).collect::<Vec<_>>().join(", "));
        }
        if let Some(stack) = &task.host_stack {
            stack::host_stack(text, stack, &self.focus.places_of_task(task), self.detail);
        }
    }
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

/// Appends what a CPU should have done and has not: its tick, and its softirqs. Those of an instant are no news.
fn overdue(text: &mut String, context: &KernelContext) {
    const LATE_MS: f64 = 1000.0;
    let Some(age) = context.tick_age_ms.filter(|age| *age >= LATE_MS) else { return };
    let _ = write!(text, "  last timer tick {} ago", seconds(age));
    if !context.pending_softirqs.is_empty() {
        let _ = write!(text, ", softirqs pending: {}", line(&context.pending_softirqs.join(", ")));
    }
    text.push('\n');
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

/// Appends the vCPUs that idle: a line for each way to be halted.
fn idle_cpus(text: &mut String, idle: &[&Cpu]) {
    let rows = [
        (CpuState::Halted, "idle", "halted"),
        (CpuState::ProbablyHalted, "likely idle", "after a HLT"),
    ];
    for (state, label, position) in rows {
        let of_state = idle.iter().filter(|cpu| cpu.state == state);
        let mut cpus: Vec<u32> = of_state.map(|cpu| cpu.cpu).collect();
        if cpus.is_empty() {
            continue;
        }
        cpus.sort_unstable();
        let names = cpu_list(&cpus);
        let _ = writeln!(
            text,
            "\n{HEADING}{names}{HEADING:#}  {label} {DIM}({position}, interrupts on){DIM:#}"
        );
    }
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
        BufferReservation::NotAsked => "NMI buffers: not used, no NMIs were requested\n".into(),
    }
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

fn finding_text(finding: &CpuFinding) -> String {
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

fn cpu_list(cpus: &[u32]) -> String {
    ranges(cpus).join(", ")
}
