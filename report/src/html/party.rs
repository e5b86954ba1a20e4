//! vCPUs and tasks on a page: those that share a stack in one box, blamed ones open.
//!
//! Owns the markup of a box, and which details of a vCPU there is room for; order, words and stacks are those of
//! `text`. Called by `backtrace`.

use askama::Template;

use super::room::Room;
use super::sources::Sources;
use super::stack::StackPart;
use super::words::{Words, line};
use crate::phrase::{Phrase, Tone};
use crate::sanitize;
use crate::text::focus::Rank;
use crate::text::parties::{self, Parties, Party, ShownStack, cpu_list};
use crate::units::plural;
use crate::{Cpu, Nmi, NmiAnswer, Registers, Task};

/// The most functions of one stack.
const MAX_LINES: usize = 64;
/// The most names of tasks in the title of a box.
const MAX_NAMES: usize = 24;

/// A box of vCPUs or tasks that share a stack.
#[derive(Template)]
#[template(path = "report/party.html")]
pub(super) struct PartyPart {
    pub(super) id: String,
    /// Names by which hangs know the parties of the box.
    pub(super) names: Vec<String>,
    /// Ids of the parties in pictures of wait graphs, with their names.
    pub(super) nodes: Vec<(String, String)>,
    class: &'static str,
    role: &'static str,
    is_open: bool,
    title: Words,
    lines: Vec<Words>,
    stacks: Vec<StackPart>,
    details: Vec<Details>,
}

/// Registers, NMI and findings of one vCPU.
struct Details {
    name: String,
    nmi: String,
    findings: Vec<String>,
    registers: Option<String>,
    text: Option<String>,
}

/// Role of a party in what a backtrace was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The party panicked, or ended the guest.
    Failed,
    /// The party has a part in a hang, or none.
    Of(Rank),
}

impl Role {
    /// Returns the role of a party of a rank, which `has_failed` or not.
    pub(super) fn new(rank: Rank, has_failed: bool) -> Self {
        if has_failed { Self::Failed } else { Self::Of(rank) }
    }
}

impl PartyPart {
    /// Creates the box of a party; `None` for one without a part in a hang whose stack has no room left.
    pub(super) fn new(
        id: String,
        role: Role,
        party: &Party<'_>,
        parties: &Parties<'_>,
        sources: &Sources,
        room: &mut Room,
    ) -> Option<Self> {
        let (class, name_of_role) = match role {
            Role::Failed => ("blamed", "failed"),
            Role::Of(Rank::Blamed) => ("blamed", "blamed"),
            Role::Of(Rank::Victim) => ("victim", "victim"),
            Role::Of(Rank::Bystander) => ("", ""),
        };
        let is_bystander = role == Role::Of(Rank::Bystander);
        let (names, title, mut lines, shown) = match party {
            Party::Cpus(cpus) | Party::IdleCpus(cpus) => of_cpus(cpus, parties),
            Party::Tasks(tasks) => of_tasks(tasks, parties),
        };
        let wanted: usize = shown.iter().map(|stack| stack.frames.rows.len().min(MAX_LINES)).sum();
        let stacks = if room.lines(wanted) {
            shown.into_iter().map(|stack| StackPart::new(stack, sources, room, MAX_LINES)).collect()
        } else if is_bystander {
            return None;
        } else {
            let words = "stack left out for the size of the page: it is in the JSON";
            lines.push(Phrase::new(Tone::Dim, words));
            Vec::new()
        };
        let (details, details_left_out) = match party {
            Party::Cpus(cpus) | Party::IdleCpus(cpus) => details(cpus, room),
            Party::Tasks(_) => (Vec::new(), 0),
        };
        if details_left_out > 0 {
            let count = plural(details_left_out as u64, "vCPU");
            let words = format!(
                "registers or texts of {count} left out for the size of the page: in the JSON"
            );
            lines.push(Phrase::new(Tone::Dim, &words));
        }
        Some(Self {
            id,
            names,
            nodes: Vec::new(),
            class,
            role: name_of_role,
            is_open: !is_bystander,
            title: title.into(),
            lines: lines.into_iter().map(Words::from).collect(),
            stacks,
            details,
        })
    }
}

type Parts<'a> = (Vec<String>, Phrase, Vec<Phrase>, Vec<ShownStack<'a>>);

fn of_cpus<'a>(cpus: &[&'a Cpu], parties: &Parties<'a>) -> Parts<'a> {
    let names = cpus.iter().flat_map(|cpu| parties.ids_of_cpu(cpu)).collect();
    let Some(&cpu) = cpus.first() else {
        return (names, Phrase::default(), Vec::new(), Vec::new());
    };
    let title = Phrase::new(Tone::Heading, &cpu_list(cpus));
    let title = title.then("  ").then(&parties.condition(cpu));
    (names, title, parties.remarks(cpus, cpu), parties.stacks_of_cpu(cpu))
}

fn of_tasks<'a>(tasks: &[&'a Task], parties: &Parties<'a>) -> Parts<'a> {
    let names = tasks.iter().flat_map(|task| parties.ids_of_task(task)).collect();
    let shown = &tasks[..tasks.len().min(MAX_NAMES)];
    let lines = match tasks.len() {
        0 | 1 => Vec::new(),
        count => {
            let more = match count - shown.len() {
                0 => String::new(),
                more => format!(", and {}", plural(more as u64, "more task")),
            };
            vec![Phrase::plain(&format!("{}{more}", parties::names_of_tasks(shown)))]
        }
    };
    let stack = tasks.first().and_then(|task| parties.stack_of_task(task));
    (names, parties::title_of_tasks(tasks), lines, stack.into_iter().collect())
}

/// Returns the details of vCPUs that there is room for, and the number of vCPUs of which something is left out.
fn details(cpus: &[&Cpu], room: &mut Room) -> (Vec<Details>, usize) {
    let mut details = Vec::new();
    let mut left_out = 0;
    for (index, cpu) in cpus.iter().enumerate() {
        let registers = cpu.registers.as_ref().map(registers);
        let text = cpu.guest_trace.as_ref().map(|trace| sanitize::lines(trace.text.trim_end()));
        let name = format!("cpu{}", cpu.cpu);
        let findings: Vec<String> =
            cpu.findings.iter().map(|finding| line(&parties::finding_text(finding))).collect();
        let nmi = nmi(&cpu.nmi);
        let size = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        let found: usize = findings.iter().map(String::len).sum();
        let small = nmi.len() + found + 200;
        if !room.details(small) {
            left_out += cpus.len() - index;
            break;
        }
        let text = text.filter(|text| !text.is_empty());
        let wanted = size(&registers) + size(&text);
        let has_room = room.details(wanted);
        left_out += usize::from(!has_room);
        let (registers, text) = (registers.filter(|_| has_room), text.filter(|_| has_room));
        details.push(Details { name, nmi, findings, registers, text });
    }
    (details, left_out)
}

/// Returns the account of an NMI as a sentence.
fn nmi(nmi: &Nmi) -> String {
    if !nmi.sent {
        let reason = match &nmi.answer {
            NmiAnswer::Answered => String::new(),
            NmiAnswer::NoAnswer { reason } => format!(": {}", line(reason)),
        };
        return format!("no NMI was sent{reason}");
    }
    let mut parts = vec!["sent".to_owned()];
    parts.extend(match nmi.delivered {
        Some(true) => Some("delivered".into()),
        Some(false) => Some("not delivered".into()),
        None => None,
    });
    let states = [
        (nmi.masked_before, "inside an earlier NMI before"),
        (nmi.masked_after, "inside an NMI afterwards"),
        (nmi.pending_after, "still pending afterwards"),
        (nmi.handler_finished, "handler finished"),
    ];
    parts.extend(states.iter().filter(|(is_so, _)| *is_so).map(|(_, words)| (*words).to_owned()));
    parts.extend(nmi.ran_ms.map(|ms| format!("ran for {ms:.1} ms")));
    parts.extend(nmi.bytes.map(|bytes| format!("{} printed", plural(bytes.into(), "byte"))));
    let lost = nmi.messages_lost.filter(|lost| *lost > 0);
    parts.extend(lost.map(|lost| format!("{} lost", plural(lost, "message"))));
    if nmi.stale_bytes > 0 {
        parts.push(format!(
            "{} of an earlier NMI discarded",
            plural(nmi.stale_bytes.into(), "byte")
        ));
    }
    parts.push(match &nmi.answer {
        NmiAnswer::Answered => "answered".into(),
        NmiAnswer::NoAnswer { reason } => format!("no answer: {}", line(reason)),
    });
    parts.join(", ")
}

/// Returns registers in lines of three.
fn registers(registers: &Registers) -> String {
    let Registers { rip, rsp, rbp, rflags, rax, rbx, rcx, rdx, rsi, rdi, .. } = registers;
    let Registers { r8, r9, r10, r11, r12, r13, r14, r15, cr0, cr2, cr3, cr4, cpl, .. } = registers;
    let rows = [
        [("rip", rip), ("rsp", rsp), ("rbp", rbp)],
        [("rax", rax), ("rbx", rbx), ("rcx", rcx)],
        [("rdx", rdx), ("rsi", rsi), ("rdi", rdi)],
        [("r8", r8), ("r9", r9), ("r10", r10)],
        [("r11", r11), ("r12", r12), ("r13", r13)],
        [("r14", r14), ("r15", r15), ("rflags", rflags)],
        [("cr0", cr0), ("cr2", cr2), ("cr3", cr3)],
    ];
    let one = |(name, value): (&str, &String)| format!("{name:<3} {}", line(value));
    let mut lines: Vec<String> = rows.iter().map(|row| row.map(one).join("  ")).collect();
    lines.push(format!("{}  cpl {cpl}", one(("cr4", cr4))));
    lines.join("\n")
}
