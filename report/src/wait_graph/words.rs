//! Words of boxes and arrows: names, states, durations, and the longer texts of their titles.
//!
//! Owns these words and their length; sentences are in `wait_words`, which the text report shares. Called by the
//! module's interface, `fold` and `dot`.

use super::model::{Arrow, Mark, PartyBox};
use crate::sanitize::line;
use crate::units::{plural, ranges, seconds};
use crate::wait_words::sentence;
use crate::{ActivityState, LockKind, NodeKind, SourceLine, TaskState, WaitKind, WaitNode};

/// The most characters of a name in a box.
const MAX_NAME: usize = 26;
/// The most characters of another line of a box.
const MAX_STATE: usize = 32;
/// The most characters of a name in a title of several.
const MAX_TITLE_NAME: usize = 100;
/// The most names in a title.
const MAX_NAMES: usize = 200;

/// The text of a box.
#[derive(Debug)]
pub struct BoxText {
    /// Name of the party, or number of parties.
    pub name: String,
    /// Kind and state, and below them one more fact: where a lock was taken, or the task of a CPU.
    pub lines: Vec<String>,
    /// Part in the hang; empty for none.
    pub part: &'static str,
    /// Name and facts in full, for a person who points at the box or listens to it.
    pub title: String,
}

/// Returns the text of a box.
pub fn text(party: &PartyBox<'_>) -> BoxText {
    let (name, lines, title) = match party.members.as_slice() {
        [node] => {
            let (name, state) = (line(&node.id), state_line(node, party));
            let title = format!("{name}: {state}{}", in_full(node));
            (name, std::iter::once(state).chain(detail(node, party)).collect(), title)
        }
        members => folded(members, party),
    };
    let lines = lines.iter().map(|line| shorten(line, MAX_STATE)).collect();
    let part = part(party);
    let title = if part.is_empty() { title } else { format!("{title}; {part}") };
    BoxText { name: shorten(&name, MAX_NAME), lines, part, title }
}

/// Returns the part of a box in the hang.
pub fn part(party: &PartyBox<'_>) -> &'static str {
    match (party.mark, party.in_cycle) {
        (Mark::Blamed, true) => "blamed, in the cycle",
        (Mark::Blamed, false) => "blamed",
        (Mark::Victim, true) => "victim, in the cycle",
        (Mark::Victim, false) => "victim",
        (Mark::None, true) => "in the cycle",
        (Mark::None, false) => "",
    }
}

/// Returns name, line and title of several equal parties.
fn folded(members: &[&WaitNode], party: &PartyBox<'_>) -> (String, Vec<String>, String) {
    let kind = &members[0].kind;
    let count = members.len();
    let are_equal = members.iter().all(|member| state(&member.kind) == state(kind));
    let adjective = match (party.waits, kind) {
        (None, NodeKind::Cpu { activity: ActivityState::Dead, .. }) => "halted",
        (None, NodeKind::Cpu { activity: ActivityState::Unknown, .. }) => "",
        (None, NodeKind::Task { state: TaskState::Unknown, .. }) => "",
        _ if !are_equal => "",
        (None, kind) => state(kind),
        (Some(_), _) => "waiting",
    };
    let space = if adjective.is_empty() { "" } else { " " };
    let name = format!("{count} {adjective}{space}{}", nouns(kind));
    let names = names(members, MAX_NAMES);
    let left_out = match count.saturating_sub(MAX_NAMES) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let title = format!("{name}: {}{left_out}", names.join(", "));
    (name, vec![first_names(&names)], title)
}

/// Returns as many names as a line has room for.
fn first_names(names: &[String]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let more = if index + 1 == names.len() { "" } else { ", ..." };
        let length = text.chars().count() + name.chars().count() + separator.len() + more.len();
        if index > 0 && length > MAX_STATE {
            text.push_str(", ...");
            break;
        }
        text.push_str(separator);
        text.push_str(&shorten(name, MAX_STATE - 5));
    }
    text
}

/// Returns the names of parties, CPUs in a row as a range; of `most` parties at most.
fn names(members: &[&WaitNode], most: usize) -> Vec<String> {
    let mut cpus = Vec::new();
    let mut names = Vec::new();
    for member in members.iter().take(most) {
        match member.kind {
            NodeKind::Cpu { cpu, .. } => cpus.push(cpu),
            _ => names.push(shorten(&line(&member.id), MAX_TITLE_NAME)),
        }
    }
    cpus.sort_unstable();
    let mut all = ranges(&cpus);
    all.extend(names);
    all
}

/// Returns the noun for a kind of party.
pub fn noun(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::Cpu { .. } => "CPU",
        NodeKind::Task { .. } => "task",
        NodeKind::Lock { lock, .. } => lock_noun(*lock),
        NodeKind::Queue { .. } => "queue",
    }
}

/// Returns the noun for several parties of a kind.
fn nouns(kind: &NodeKind) -> String {
    let noun = noun(kind);
    format!("{noun}{}", if noun.ends_with('x') { "es" } else { "s" })
}

fn lock_noun(lock: LockKind) -> &'static str {
    match lock {
        LockKind::Spin => "spinlock",
        LockKind::Ticket => "ticket lock",
        LockKind::Mutex => "mutex",
        LockKind::RwSemaphore => "rwsem",
        LockKind::Unknown => "lock",
    }
}

/// Returns the state of a party; empty for a lock and a queue.
pub fn state(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::Cpu { activity, .. } => match activity {
            ActivityState::Running => "running",
            ActivityState::Stuck => "stuck",
            ActivityState::Idle => "idle",
            ActivityState::Dead => "halted with interrupts off",
            ActivityState::Offline => "offline",
            ActivityState::Absent => "absent",
            ActivityState::Unknown => "state unknown",
        },
        NodeKind::Task { state, .. } => match state {
            TaskState::Ready => "ready",
            TaskState::Running => "running",
            TaskState::Blocked => "blocked",
            TaskState::Sleeping => "sleeping",
            TaskState::Ended => "ended",
            TaskState::Absent => "absent",
            TaskState::Unknown => "state unknown",
        },
        NodeKind::Lock { .. } | NodeKind::Queue { .. } => "",
    }
}

/// Returns the second line of one party's box: its kind and its state.
fn state_line(node: &WaitNode, party: &PartyBox<'_>) -> String {
    match &node.kind {
        NodeKind::Cpu { activity, .. } => {
            let state = match (party.waits, activity) {
                (Some(WaitKind::WaitsFor), ActivityState::Running | ActivityState::Stuck) => {
                    "spinning"
                }
                _ => state(&node.kind),
            };
            format!("CPU, {state}")
        }
        NodeKind::Task { state: TaskState::Absent, .. } => "task, absent".into(),
        NodeKind::Task { cpu, .. } => format!("task on cpu{cpu}, {}", state(&node.kind)),
        NodeKind::Lock { lock, held_by, .. } => {
            let is_drawn = party.waits == Some(WaitKind::HeldBy);
            let holder = match held_by {
                _ if *lock == LockKind::Unknown => ", no valid lock".into(),
                Some(_) if is_drawn => String::new(),
                Some(_) if party.is_target => ", its holder keeps changing".into(),
                Some(holder) => format!(", held by {}", line(holder)),
                None => ", nobody holds it".into(),
            };
            format!("{}{holder}", lock_noun(*lock))
        }
        NodeKind::Queue { .. } => "queue".into(),
    }
}

/// Returns the third line of one party's box; `None` if there is nothing to add.
fn detail(node: &WaitNode, party: &PartyBox<'_>) -> Option<String> {
    match &node.kind {
        NodeKind::Cpu { task: Some(task), .. } => Some(format!("ran {}", line(task))),
        NodeKind::Lock { taken_at: Some(place), .. } if party.waits == Some(WaitKind::HeldBy) => {
            Some(format!("taken at {}", file_line(place)))
        }
        _ => None,
    }
}

/// Returns the name of a file without its directories, and the line.
fn file_line(place: &SourceLine) -> String {
    let file = place.file.rsplit('/').next().unwrap_or_default();
    line(&format!("{file}:{}", place.line))
}

/// Returns the facts of a party that its box has no room for.
fn in_full(node: &WaitNode) -> String {
    match &node.kind {
        NodeKind::Cpu { task: Some(task), .. } => format!(", ran task {}", line(task)),
        NodeKind::Cpu { task: None, .. } => String::new(),
        NodeKind::Task { task, name, .. } => match line(name) {
            name if name.is_empty() || node.id.starts_with(&name) => format!(", number {task}"),
            name => format!(", number {task}, named {name}"),
        },
        NodeKind::Lock { symbol, address, taken_at, .. } => {
            let taken = taken_at.as_ref().map_or_else(String::new, |place| {
                format!(", taken at {}", line(&format!("{}:{}", place.file, place.line)))
            });
            format!("{}, at {}{taken}", symbol_if_other(symbol, node), line(address))
        }
        NodeKind::Queue { symbol, address } => {
            format!("{}, at {}", symbol_if_other(symbol, node), line(address))
        }
    }
}

/// Returns the symbol, unless the party is named so.
fn symbol_if_other(symbol: &Option<String>, node: &WaitNode) -> String {
    let symbol = symbol.as_ref().filter(|symbol| **symbol != node.id);
    symbol.map_or_else(String::new, |symbol| format!(", {}", line(symbol)))
}

/// Returns the text on an arrow, as it is read from the box where the arrow begins to the one where it ends.
pub fn label(arrow: &Arrow<'_>) -> String {
    let lasted = lasted(arrow);
    let (one, many, rest) = match arrow.kind() {
        WaitKind::WaitsFor => ("waits", "wait", "for"),
        WaitKind::HeldBy => ("held", "held", "by"),
        WaitKind::CallsFunction => ("waits", "wait", "for IPI answer of"),
        WaitKind::BringsUp => ("waits", "wait", "for start of"),
        WaitKind::RunsOn => ("runs", "run", "on"),
        WaitKind::SleepsOn => ("sleeps", "sleep", "on"),
    };
    let verb = if arrow.edges.len() > 1 { many } else { one };
    format!("{verb} {lasted}{rest}")
}

/// Returns the duration of an arrow's waits with a space behind it; empty where it is not known.
fn lasted(arrow: &Arrow<'_>) -> String {
    let lasted = arrow.edges.iter().filter_map(|edge| edge.lasted_ms);
    // A hostile report may have any number, and a picture has room for a year.
    let lasted = || lasted.clone().map(|ms| ms.clamp(0.0, 4e10));
    let Some(longest) = lasted().reduce(f64::max) else { return String::new() };
    let shortest = lasted().fold(longest, f64::min);
    let (from, to) = (seconds(shortest), seconds(longest));
    match from == to {
        true => format!("{to} "),
        false => format!("{}-{to} ", from.trim_end_matches(" s")),
    }
}

/// Returns an arrow as a sentence.
pub fn arrow_title(arrow: &Arrow<'_>) -> String {
    match arrow.edges.as_slice() {
        [edge] => {
            let place = edge.call_site.as_ref().map_or_else(String::new, |place| {
                format!(", at {}", line(&format!("{}:{}", place.file, place.line)))
            });
            format!("{}{place}", sentence(edge, None))
        }
        edges => {
            let first = sentence(edges[0], None);
            format!("{}: {first}, and {} more", plural(edges.len() as u64, "wait"), edges.len() - 1)
        }
    }
}

/// Returns a text of `most` characters at most: of a longer one, the middle is left out.
pub fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(3);
    let tail = kept / 2;
    let head = kept - tail;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}...{end}")
}
