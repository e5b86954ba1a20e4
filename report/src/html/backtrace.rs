//! A backtrace on a page: how it was taken, its history, its waits, its vCPUs and tasks, and the table of tasks.
//!
//! Owns the order of these, and the ids by which pictures and stacks lead to each other. Called by `html`.

use std::collections::HashMap;

use askama::Template;

use super::hang::{Drawn, WaitsPart};
use super::party::{PartyPart, Role};
use super::report::PAST;
use super::room::Room;
use super::sources::Sources;
use super::words::{Words, line};
use crate::text::parties::{self, Parties, Party};
use crate::text::{self, Detail};
use crate::units::{plural, seconds};
use crate::wait_graph::Picture;
use crate::{Backtrace, Hang, Task, Trigger, strips};

/// The most boxes of vCPUs and tasks of one backtrace.
const MAX_PARTIES: usize = 200;
/// The most links from a box to a picture.
const MAX_LINKS: usize = 64;

/// A backtrace as a part of a page.
#[derive(Template)]
#[template(path = "report/backtrace.html")]
pub(super) struct BacktracePart {
    prefix: String,
    title: String,
    taken: Vec<Words>,
    strips: Option<String>,
    /// True where there is a history, and no room for its picture.
    strips_left_out: bool,
    waits: Option<WaitsPart>,
    parties: Vec<PartyPart>,
    left_out: Option<String>,
    sleeping: Option<String>,
    tasks: Vec<TaskRow>,
    tasks_left_out: usize,
}

/// A row of the table of tasks.
struct TaskRow {
    name: String,
    number: u32,
    cpu: u32,
    state: &'static str,
    age: String,
    waits_for: String,
}

impl BacktracePart {
    /// Creates the part of backtrace `number` of `count`. `hangs` are those that it was taken for, `failed` is the CPU
    /// that panicked or ended the guest; `pictures` has the prefix of each drawn graph of the hangs.
    pub(super) fn new(
        backtrace: &Backtrace,
        (number, count): (usize, usize),
        (hangs, failed): (&[&Hang], Option<u32>),
        pictures: &[(String, &Picture<'_>)],
        sources: &Sources,
        room: &mut Room,
    ) -> Self {
        let prefix = format!("b{number}");
        let parties = Parties::new(backtrace, hangs.iter().copied(), Detail::Folded);
        let mut all = parties.all();
        // The CPU that failed comes first, and idle vCPUs last, as in the text.
        let has_failed = |party: &Party<'_>| failed.is_some_and(|cpu| party.has_cpu(cpu));
        all.sort_by_key(|(_, party)| (!has_failed(party), matches!(party, Party::IdleCpus(_))));
        let mut boxes: Vec<PartyPart> = Vec::new();
        let mut left_out = all.len().saturating_sub(MAX_PARTIES);
        for (rank, party) in all.iter().take(MAX_PARTIES) {
            let id = format!("{prefix}-party-{}", boxes.len());
            let role = Role::new(*rank, has_failed(party));
            match PartyPart::new(id, role, party, &parties, sources, room) {
                Some(part) => boxes.push(part),
                None => left_out += 1,
            }
        }
        let own_graph = backtrace.waits.as_ref().filter(|_| hangs.is_empty());
        let own_prefix = format!("w{number}");
        let drawn: Option<Drawn<'_>> = own_graph.map(Picture::new);
        let own_picture = drawn.as_ref().and_then(|drawn| drawn.as_ref().ok());
        let own_picture = own_picture.map(|picture| (own_prefix.clone(), picture));
        for (prefix, picture) in pictures.iter().chain(&own_picture) {
            link_to_picture(&mut boxes, prefix, picture);
        }
        let anchors = anchors_of(&boxes);
        let waits = own_graph.zip(drawn.as_ref()).map(|(graph, drawn)| {
            let anchor = |party: &str| anchors.get(party).map(|id| (*id).to_owned());
            WaitsPart::of_backtrace(&own_prefix, graph, drawn, &anchor)
        });
        let shown_tasks = room.tasks(backtrace.tasks.len());
        let strips = Some(format!("{prefix}-strips")).filter(|_| room.has_strips());
        let strips = strips.and_then(|prefix| strips::figure(backtrace, &prefix));
        let strips = strips.filter(|_| room.strips());
        Self {
            title: title(backtrace, number, count),
            taken: text::backtrace::taken(backtrace).into_iter().map(Words::from).collect(),
            strips_left_out: strips.is_none() && backtrace.history.is_some(),
            strips,
            waits,
            left_out: (left_out > 0).then(|| {
                format!("{}, left out: in the JSON", plural(left_out as u64, "more stack"))
            }),
            sleeping: parties::sleeping(backtrace),
            tasks: backtrace.tasks.iter().take(shown_tasks).map(task_row).collect(),
            tasks_left_out: backtrace.tasks.len() - shown_tasks,
            parties: boxes,
            prefix,
        }
    }

    /// Returns the id of the box with a party's stack, by the party's name.
    pub(super) fn anchors(&self) -> HashMap<&str, &str> {
        anchors_of(&self.parties)
    }

    /// Returns the part's entries in the contents: ids and titles.
    pub(super) fn entries(&self) -> Vec<(String, String)> {
        let past = self.strips.as_ref().map(|_| (format!("{}-past", self.prefix), PAST.to_owned()));
        let tasks = (!self.tasks.is_empty())
            .then(|| (format!("{}-tasks", self.prefix), format!("Tasks ({})", self.tasks.len())));
        let own = (self.prefix.clone(), self.title.clone());
        past.into_iter().chain([own]).chain(tasks).collect()
    }

    /// Returns true where the picture of the history is shown.
    pub(super) fn has_strips(&self) -> bool {
        self.strips.is_some()
    }
}

fn anchors_of(boxes: &[PartyPart]) -> HashMap<&str, &str> {
    let ids = boxes
        .iter()
        .flat_map(|part| part.names.iter().map(|name| (name.as_str(), part.id.as_str())));
    let mut anchors = HashMap::new();
    for (name, id) in ids {
        anchors.entry(name).or_insert(id);
    }
    anchors
}

fn link_to_picture(boxes: &mut [PartyPart], prefix: &str, picture: &Picture<'_>) {
    for part in boxes {
        for name in &part.names {
            let Some(index) = picture.box_of(name) else { continue };
            let node = format!("{prefix}-node-{index}");
            if part.nodes.len() < MAX_LINKS && part.nodes.iter().all(|(other, _)| *other != node) {
                part.nodes.push((node, line(name)));
            }
        }
    }
}

fn title(backtrace: &Backtrace, number: usize, count: usize) -> String {
    let trigger = match &backtrace.trigger {
        Trigger::Hang => "when the hang was detected",
        Trigger::Starved => "when the guest was starved",
        Trigger::Timer => "requested by --nmi-after",
        Trigger::Signal { .. } => "requested by a signal",
        Trigger::GuestEnded => "when the guest ended",
        Trigger::TimeLimit => "at the time limit",
        Trigger::Dump => "in the dump",
        Trigger::Attach => "at the attach",
    };
    let at = match backtrace.at_ms > 0.0 {
        true => format!(", at {}", seconds(backtrace.at_ms)),
        false => String::new(),
    };
    match count {
        1 => format!("Stacks {trigger}{at}"),
        count => format!("Stacks {} of {count}: {trigger}{at}", number + 1),
    }
}

fn task_row(task: &Task) -> TaskRow {
    TaskRow {
        name: line(&task.name),
        number: task.task,
        cpu: task.cpu,
        state: parties::state_of_task(task.state).unwrap_or("does not exist"),
        age: task.asleep_ms.map_or_else(String::new, seconds),
        waits_for: task.waits_for.as_deref().map_or_else(String::new, line),
    }
}
