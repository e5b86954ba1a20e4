//! Hangs as text: class and blamed parties in one line, then holds and waits, victims, other CPUs, and the
//! signature.
//!
//! Owns these lines; refuses to own stacks (`backtrace`). Called by `text`, whose interface has it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use nmiscope_names::short_name;

use super::super::sanitize::line;
use super::super::{
    ActivityState, Certainty, Fact, HandlerKind, Hang, LockKind, NodeKind, SourceLine, Spin,
    TaskState, WaitEdge, WaitKind, WaitNode,
};
use super::evidence;
use crate::phrase::{Phrase, Tone};
use crate::units::{plural, ranges, seconds};
use crate::wait_words::waits;

/// The most columns of the line of a blamed party that is not broken before its waits.
const WIDTH: usize = 100;

/// Returns the lines of hangs that were found at one moment.
pub fn hangs(hangs: &[Hang]) -> String {
    hangs.iter().map(render).collect()
}

/// Returns a line about a hang that has ended; nothing for one that has not.
pub fn resolved(hang: &Hang) -> String {
    recovery(hang).map_or_else(String::new, |recovery| format!("{recovery}\n"))
}

/// Returns a sentence about a hang that has ended; `None` for one that has not.
pub(crate) fn recovery(hang: &Hang) -> Option<Phrase> {
    let (blamed, after) = (names(hang, &hang.blamed), seconds(hang.resolved_after_ms?));
    let words = format!(": {}, {blamed} (after {after})", hang.class);
    Some(Phrase::new(Tone::Good, "recovered").then(&words))
}

/// A statement about a party of a hang, or about several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The words of the statement.
    pub(crate) words: Phrase,
    /// Words that follow after a comma: on a line of their own where both are long.
    pub(crate) more: Option<Phrase>,
}

impl From<Phrase> for Statement {
    fn from(words: Phrase) -> Self {
        Self { words, more: None }
    }
}

impl Statement {
    /// Returns the whole statement, in one line.
    pub(crate) fn whole(self) -> Phrase {
        let Self { words, more } = self;
        Phrase::joined([words].into_iter().chain(more), ", ")
    }
}

fn render(hang: &Hang) -> String {
    let mut text = format!("{}\n", headline(hang));
    for statement in statements(hang) {
        let Statement { words, more } = statement;
        let columns = words.columns() + more.as_ref().map_or(0, |more| more.columns() + ", ".len());
        let separator = if columns + "  ".len() > WIDTH { ",\n    " } else { ", " };
        let more = more.map_or_else(String::new, |more| format!("{separator}{more}"));
        let _ = writeln!(text, "  {words}{more}");
    }
    let certainty = match certainty(&hang.certainty) {
        Some(certainty) => format!(", {certainty}"),
        None => String::new(),
    };
    let signature = format!("signature {}{certainty}", hang.signature);
    let _ = writeln!(text, "  {}", Phrase::new(Tone::Dim, &signature));
    if let Some(bucket) = &hang.bucket {
        let _ = writeln!(text, "  {}", Phrase::new(Tone::Dim, &format!("bucket {bucket}")));
    }
    text
}

/// Returns the certainty of a verdict in a word; `None` for a suspicion, whose headline has it.
pub(crate) fn certainty(certainty: &Certainty) -> Option<&'static str> {
    match certainty {
        Certainty::Certain => Some("certain"),
        Certainty::Likely => Some("likely"),
        Certainty::Suspected { .. } | Certainty::Unknown { .. } => None,
    }
}

/// Returns the class of a hang, its blamed parties and its age.
pub(crate) fn headline(hang: &Hang) -> Phrase {
    let (class, blamed, symptom) = (hang.class, names(hang, &hang.blamed), symptom(hang));
    let (symptom, lasted_ms) = match lone_task_not_run(hang) {
        Some(ms) => ("ready and not run for", ms),
        None => (symptom, hang.lasted_ms),
    };
    let lasted = seconds(lasted_ms);
    let (label, words) = match &hang.certainty {
        // Where no CPU makes progress, the kernel has no later record.
        Certainty::Certain | Certainty::Likely if hang.lasted_ms < 1.0 => {
            ("hang", "for how long is not known".to_owned())
        }
        Certainty::Certain | Certainty::Likely => ("hang", format!("{symptom} {lasted}")),
        Certainty::Suspected { bound_ms, .. } => {
            ("suspected", format!("{symptom} {lasted}; a hang after {}", seconds(*bound_ms)))
        }
        Certainty::Unknown { reason } => ("unknown", line(reason)),
    };
    Phrase::new(Tone::Bad, label).then(&format!(": {class}, {blamed} ({words})"))
}

/// Returns the statements about a hang, in the order in which they explain it: those on the blamed parties, the
/// waits that nobody can end, pending work, victims, and the other CPUs.
pub(crate) fn statements(hang: &Hang) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    for party in &hang.blamed {
        statements.extend(account(hang, party));
        statements.extend(place(hang, party).map(Statement::from));
        statements.extend(offline(hang, party).map(|words| Phrase::plain(&words).into()));
    }
    let spins = hang.spins.iter().map(|spin| spins(hang, spin));
    let absent = hang.edges.iter().filter(|edge| is_absent(hang, &edge.to)).map(absent);
    let victims = groups_of_victims(hang, &hang.victims);
    let sentences = spins
        .chain(absent.collect::<BTreeSet<_>>())
        .chain(pending_work_of_others(hang))
        .chain(victims.into_iter().map(|victims| format!("victims: {victims}")))
        .chain(others(hang));
    statements.extend(sentences.map(|words| Phrase::plain(&words).into()));
    statements
}

/// Returns the words before the age of a hang, from its class and evidence.
fn symptom(hang: &Hang) -> &'static str {
    let interrupts_on = hang.evidence.iter().any(|evidence| {
        let on = match evidence.fact {
            Fact::StoppedAt { interrupts_enabled, .. } => interrupts_enabled,
            Fact::NoSchedule { interrupts, .. } => interrupts > 0,
            _ => false,
        };
        on && hang.blamed.contains(&evidence.party)
    });
    let asleep = hang.edges.iter().any(|edge| edge.kind == WaitKind::SleepsOn);
    hang.class.symptom(interrupts_on, asleep)
}

/// Returns the time in milliseconds for which a blamed task could have run and has not; `None` if the hang
/// is another.
fn lone_task_not_run(hang: &Hang) -> Option<f64> {
    let is_task =
        |id: &String| matches!(node(hang, id).map(|node| &node.kind), Some(NodeKind::Task { .. }));
    hang.evidence.iter().find_map(|evidence| match evidence.fact {
        Fact::TasksNotRun { ms, .. }
            if hang.blamed.contains(&evidence.party) && is_task(&evidence.party) =>
        {
            Some(ms)
        }
        _ => None,
    })
}

/// Returns the names of parties: CPUs in a row as a range, tasks with their CPU.
pub(crate) fn names(hang: &Hang, ids: &[String]) -> String {
    let mut cpus = Vec::new();
    let mut names = Vec::new();
    for id in ids {
        match node(hang, id).map(|node| &node.kind) {
            Some(NodeKind::Cpu { cpu, task: Some(task), .. }) if ids.len() == 1 => {
                names.push(format!("cpu{cpu} (task {})", line(task)));
            }
            Some(NodeKind::Cpu { cpu, .. }) => cpus.push(*cpu),
            Some(NodeKind::Task { state: TaskState::Absent, .. }) => names.push(line(id)),
            Some(NodeKind::Task { cpu, .. }) => {
                names.push(format!("task {} on cpu{cpu}", line(id)));
            }
            _ => names.push(line(id)),
        }
    }
    let mut parts = ranges(&cpus);
    parts.extend(names);
    match parts.split_last() {
        None => "no party".into(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

fn node<'a>(hang: &'a Hang, id: &str) -> Option<&'a WaitNode> {
    hang.nodes.iter().find(|node| node.id == id)
}

/// Returns true for a party that the guest's records name and that does not exist.
fn is_absent(hang: &Hang, id: &str) -> bool {
    matches!(
        node(hang, id).map(|node| &node.kind),
        Some(
            NodeKind::Cpu { activity: ActivityState::Absent, .. }
                | NodeKind::Task { state: TaskState::Absent, .. }
        )
    )
}

/// Returns a sentence about a wait for a party that does not exist.
fn absent(edge: &WaitEdge) -> String {
    let (from, to) = (line(&edge.from), line(&edge.to));
    match edge.kind {
        WaitKind::HeldBy => format!("{from} says that it is held by {to}, and there is no {to}"),
        _ => format!("there is no {to}"),
    }
}

/// Returns the locks that a party holds and the parties that it waits for; `None` if there are none.
fn account(hang: &Hang, party: &str) -> Option<Statement> {
    let holds = hang.edges.iter().filter(|edge| edge.kind == WaitKind::HeldBy && edge.to == party);
    let holds = holds.map(|edge| Phrase::plain("holds ").join(held(hang, &edge.from)));
    let waits = hang.edges.iter().filter(|edge| edge.from == party).map(|edge| {
        let state = wanted(hang, edge);
        Phrase::plain(&format!("{}{state}", waits(edge)))
    });
    let (holds, waits) = (Phrase::joined(holds, ", "), Phrase::joined(waits, ", "));
    let name = Phrase::plain(&format!("{} ", names(hang, &[party.to_owned()])));
    match (holds.is_empty(), waits.is_empty()) {
        (true, true) => None,
        (false, false) => Some(Statement { words: name.join(holds), more: Some(waits) }),
        _ => Some(name.join(holds).join(waits).into()),
    }
}

/// Returns a remark on a lock that is waited for: it is none, is free, or changes its holder all the time.
fn wanted(hang: &Hang, edge: &WaitEdge) -> &'static str {
    let stays = |held: &WaitEdge| held.kind == WaitKind::HeldBy && held.from == edge.to;
    match node(hang, &edge.to).map(|node| &node.kind) {
        Some(NodeKind::Lock { lock: LockKind::Unknown, .. }) => ", where there is no lock",
        Some(NodeKind::Lock { held_by: None, .. }) => ", which nobody holds",
        Some(NodeKind::Lock { .. }) if !hang.edges.iter().any(stays) => {
            ", whose holder keeps changing"
        }
        _ => "",
    }
}

fn held(hang: &Hang, lock: &str) -> Phrase {
    let held = Phrase::plain(lock);
    match node(hang, lock).map(|node| &node.kind) {
        Some(NodeKind::Lock { taken_at: Some(place), .. }) => {
            held.then(" ").and(Tone::Dim, &format!("(taken at {})", source(place)))
        }
        _ => held,
    }
}

/// Returns a source line as texts have it.
pub(crate) fn source(place: &SourceLine) -> String {
    line(&format!("{}:{}", place.file, place.line))
}

/// Returns a sentence about a blamed CPU that is offline; `None` for any other party.
fn offline(hang: &Hang, party: &str) -> Option<String> {
    let kind = &node(hang, party)?.kind;
    let offline = matches!(kind, NodeKind::Cpu { activity: ActivityState::Offline, .. });
    let how = hang.evidence.iter().find_map(|evidence| match evidence.fact {
        Fact::Offline { how } if evidence.party == party => Some(how),
        _ => None,
    });
    let how = how.map_or("has not started, or was reset", evidence::offline);
    offline.then(|| format!("{} {how}", line(party)))
}

/// Returns the position of a blamed party, and the work that it has not done; `None` in a cycle, where all wait.
fn place(hang: &Hang, party: &str) -> Option<Phrase> {
    if hang.class.is_cycle() {
        return None;
    }
    let facts = || hang.evidence.iter().filter(|evidence| evidence.party == party);
    let stopped_at = facts().find_map(|evidence| match &evidence.fact {
        Fact::StoppedAt { function, line, address, nmi_masked, handler, .. } => {
            Some((function, line, address, *nmi_masked, *handler))
        }
        _ => None,
    });
    let (function, place, address, nmi_masked, handler) = stopped_at?;
    let function = function
        .as_deref()
        .map_or_else(|| format!("[<{address}>]"), |function| line(short_name(function)));
    let took = facts().find_map(|evidence| match evidence.fact {
        Fact::NoSchedule { interrupts, .. } if interrupts > 0 => {
            Some(format!(", took {} meanwhile", plural(interrupts, "interrupt")))
        }
        _ => None,
    });
    let pending = facts().find_map(|evidence| pending_work(&evidence.fact));
    let pending = pending.map(|pending| format!(", {pending}"));
    let masked = nmi_masked.then(|| ", with NMIs masked".to_owned());
    let handler = match handler {
        // It is in an NMI handler, or was interrupted there.
        _ if nmi_masked => None,
        None => None,
        Some(HandlerKind::Interrupt) => Some(", in an interrupt handler".to_owned()),
        Some(HandlerKind::Unknown) => Some(", in an interrupt or exception handler".to_owned()),
    };
    let more = [handler, masked, took, pending].into_iter().flatten().collect::<String>();
    let words = Phrase::plain(&format!("{party} in {function}{more}"));
    Some(match place {
        Some(place) => words.then("  ").and(Tone::Dim, &source(place)),
        None => words,
    })
}

/// Returns a sentence about a word that CPUs spin on.
fn spins(hang: &Hang, spin: &Spin) -> String {
    let word = match &spin.symbol {
        Some(symbol) => line(short_name(symbol)),
        None => format!("[<{}>]", line(&spin.address)),
    };
    let verb = if spin.parties.len() > 1 { "spin" } else { "spins" };
    let writers = spin.writers.iter().map(|writer| {
        let party = names(hang, std::slice::from_ref(&writer.party));
        format!("; {} on the stack of {party} writes it", line(&writer.function))
    });
    let writers = match spin.writers.is_empty() {
        true => "; no function on a stack is seen to write it".to_owned(),
        false => writers.collect(),
    };
    format!("{} {verb} reading {word}{writers}", names(hang, &spin.parties))
}

fn pending_work(fact: &Fact) -> Option<String> {
    match *fact {
        Fact::PendingWork { items, .. } => Some(format!("{} pending", plural(items, "work item"))),
        Fact::TasksNotRun { tasks, .. } => {
            Some(format!("{} not run", plural(tasks.into(), "task")))
        }
        _ => None,
    }
}

/// Returns the pending work of CPUs that are neither blamed nor victims.
fn pending_work_of_others(hang: &Hang) -> impl Iterator<Item = String> {
    let is_party = |id: &String| hang.blamed.contains(id) || hang.victims.contains(id);
    let others = hang.evidence.iter().filter(move |evidence| !is_party(&evidence.party));
    others.filter_map(|evidence| {
        Some(format!("{} has {}", line(&evidence.party), pending_work(&evidence.fact)?))
    })
}

/// Returns a line for each group of victims that wait for the same thing.
fn groups_of_victims(hang: &Hang, parties: &[String]) -> Vec<String> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for party in parties {
        let edges = hang.edges.iter().filter(|edge| edge.from == *party);
        let why: Vec<String> = edges.map(waits).collect();
        let why = if why.is_empty() { "makes no progress".into() } else { why.join(", ") };
        match groups.iter_mut().find(|(other, _)| *other == why) {
            Some((_, members)) => members.push(party.clone()),
            None => groups.push((why, vec![party.clone()])),
        }
    }
    let line = |(why, members): (String, Vec<String>)| {
        let why = if members.len() > 1 { why.replacen("waits", "wait", 1) } else { why };
        format!("{} {why}", names(hang, &members))
    };
    groups.into_iter().map(line).collect()
}

/// Returns the CPUs that take no part in a hang, by what they do; `None` if there are none.
fn others(hang: &Hang) -> Option<String> {
    let involved = |id: &String| {
        hang.blamed.contains(id)
            || hang.victims.contains(id)
            || hang.edges.iter().any(|edge| edge.from == *id || edge.to == *id)
    };
    let mut by_activity: Vec<(&str, Vec<u32>)> = Vec::new();
    for node in hang.nodes.iter().filter(|node| !involved(&node.id)) {
        let NodeKind::Cpu { cpu, activity, .. } = node.kind else { continue };
        let activity = match activity {
            ActivityState::Running => "running",
            ActivityState::Stuck => "also stuck since then",
            ActivityState::Idle => "idle",
            ActivityState::Dead => "halted with interrupts off",
            ActivityState::Offline => "offline",
            ActivityState::Absent => "absent",
            ActivityState::Unknown => "unknown",
        };
        match by_activity.iter_mut().find(|(other, _)| *other == activity) {
            Some((_, cpus)) => cpus.push(cpu),
            None => by_activity.push((activity, vec![cpu])),
        }
    }
    let parts: Vec<String> = by_activity
        .into_iter()
        .map(|(activity, cpus)| format!("{} {activity}", ranges(&cpus).join(", ")))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
