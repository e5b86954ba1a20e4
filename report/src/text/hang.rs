//! Hangs as text: class and blamed parties in one line, then holds and waits, victims, other CPUs, and the
//! signature.
//!
//! Owns these lines; refuses to own stacks (`backtrace`). Called by `text`, whose interface has it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use nmiscope_names::short_name;

use super::super::sanitize::line;
use super::super::{
    ActivityState, Certainty, Fact, HandlerKind, Hang, LockKind, NodeKind, OfflineState,
    SourceLine, Spin, TaskState, WaitEdge, WaitKind, WaitNode,
};
use super::{BAD, DIM, GOOD};
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
    let blamed = names(hang, &hang.blamed);
    hang.resolved_after_ms.map_or_else(String::new, |after| {
        format!("{GOOD}recovered{GOOD:#}: {}, {blamed} (after {})\n", hang.class, seconds(after))
    })
}

fn render(hang: &Hang) -> String {
    let (class, blamed, symptom) = (hang.class, names(hang, &hang.blamed), symptom(hang));
    let (symptom, lasted_ms) = match lone_task_not_run(hang) {
        Some(ms) => ("ready and not run for", ms),
        None => (symptom, hang.lasted_ms),
    };
    let lasted = seconds(lasted_ms);
    let mut text = match &hang.certainty {
        // Where no CPU makes progress, the kernel has no later record.
        Certainty::Certain | Certainty::Likely if hang.lasted_ms < 1.0 => {
            format!("{BAD}hang{BAD:#}: {class}, {blamed} (for how long is not known)\n")
        }
        Certainty::Certain | Certainty::Likely => {
            format!("{BAD}hang{BAD:#}: {class}, {blamed} ({symptom} {lasted})\n")
        }
        Certainty::Suspected { bound_ms, .. } => format!(
            "{BAD}suspected{BAD:#}: {class}, {blamed} ({symptom} {lasted}; a hang after {})\n",
            seconds(*bound_ms)
        ),
        Certainty::Unknown { reason } => {
            format!("{BAD}unknown{BAD:#}: {class}, {blamed} ({})\n", line(reason))
        }
    };
    for party in &hang.blamed {
        let said = [account(hang, party), place(hang, party), offline(hang, party)];
        for said in said.into_iter().flatten() {
            let _ = writeln!(text, "  {said}");
        }
    }
    for spin in &hang.spins {
        let _ = writeln!(text, "  {}", spins(hang, spin));
    }
    let absent = hang.edges.iter().filter(|edge| is_absent(hang, &edge.to)).map(absent);
    for said in absent.collect::<BTreeSet<_>>() {
        let _ = writeln!(text, "  {said}");
    }
    for pending in pending_work_of_others(hang) {
        let _ = writeln!(text, "  {pending}");
    }
    for victims in groups_of_victims(hang, &hang.victims) {
        let _ = writeln!(text, "  victims: {victims}");
    }
    if let Some(others) = others(hang) {
        let _ = writeln!(text, "  {others}");
    }
    let certainty = match &hang.certainty {
        Certainty::Certain => ", certain",
        Certainty::Likely => ", likely",
        Certainty::Suspected { .. } | Certainty::Unknown { .. } => "",
    };
    let _ = writeln!(text, "  {DIM}signature {}{certainty}{DIM:#}", hang.signature);
    if let Some(bucket) = &hang.bucket {
        let _ = writeln!(text, "  {DIM}bucket {}{DIM:#}", line(bucket));
    }
    text
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
fn names(hang: &Hang, ids: &[String]) -> String {
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
fn account(hang: &Hang, party: &str) -> Option<String> {
    let holds = hang.edges.iter().filter(|edge| edge.kind == WaitKind::HeldBy && edge.to == party);
    let holds = holds.map(|edge| format!("holds {}", held(hang, &edge.from)));
    let waits = hang.edges.iter().filter(|edge| edge.from == party).map(|edge| {
        let state = wanted(hang, edge);
        format!("{}{state}", waits(edge))
    });
    let holds = holds.collect::<Vec<_>>().join(", ");
    let waits = waits.collect::<Vec<_>>().join(", ");
    let separator = match (holds.is_empty(), waits.is_empty()) {
        (true, true) => return None,
        (false, false) => ", ",
        _ => "",
    };
    let name = names(hang, &[party.to_owned()]);
    let line = format!("  {name} {holds}{separator}{waits}");
    let columns = columns(&line);
    let separator = if columns > WIDTH && !separator.is_empty() { ",\n    " } else { separator };
    Some(format!("{name} {holds}{separator}{waits}"))
}

/// Returns the width of a line on a terminal: its characters but for the styles, which are all escape sequences
/// that a sanitized text has.
fn columns(line: &str) -> usize {
    let mut parts = line.split('\x1b');
    let start = parts.next().map_or(0, |part| part.chars().count());
    let after_style = |part: &str| part.split_once('m').map_or(0, |(_, text)| text.chars().count());
    start + parts.map(after_style).sum::<usize>()
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

fn held(hang: &Hang, lock: &str) -> String {
    let taken = match node(hang, lock).map(|node| &node.kind) {
        Some(NodeKind::Lock { taken_at: Some(place), .. }) => {
            format!(" {DIM}(taken at {}){DIM:#}", source(place))
        }
        _ => String::new(),
    };
    format!("{}{taken}", line(lock))
}

fn source(place: &SourceLine) -> String {
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
    let how = match how {
        Some(OfflineState::NotStarted) => "has never been started",
        Some(OfflineState::InInit) => "has received INIT, and waits for its start-up IPI",
        Some(OfflineState::Reset) => "was reset after it had been started",
        Some(OfflineState::Halted) => "is offline, says the kernel, and halted",
        Some(OfflineState::Running) => "is offline, says the kernel, and executes",
        None => "has not started, or was reset",
    };
    offline.then(|| format!("{} {how}", line(party)))
}

/// Returns the position of a blamed party, and the work that it has not done; `None` in a cycle, where all wait.
fn place(hang: &Hang, party: &str) -> Option<String> {
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
    let place =
        place.as_ref().map_or_else(String::new, |place| format!("  {DIM}{}{DIM:#}", source(place)));
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
    Some(format!("{} in {function}{more}{place}", line(party)))
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
