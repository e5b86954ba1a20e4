//! A hang on a page: its statements, its wait graph, its locks and its evidence.
//!
//! Owns the order of these; the words are those of `text`, the picture is that of `wait_graph`. Called by `html`.

use askama::Template;

use super::verdict::certainty;
use super::words::{Words, line};
use crate::phrase::Phrase;
use crate::text::hang::{self, Statement};
use crate::text::{evidence, waits};
use crate::units::plural;
use crate::wait_graph::{self, Picture};
use crate::{Hang, LockKind, NodeKind, WaitGraph, WaitKind};

/// The most rows of each list of a hang.
const MAX_ROWS: usize = 100;

/// A hang as a part of a page.
#[derive(Template)]
#[template(path = "report/hang.html")]
pub(super) struct HangPart {
    prefix: String,
    title: String,
    headline: Words,
    recovery: Option<Words>,
    statements: Vec<Words>,
    signature: String,
    bucket: Option<String>,
    certainty: String,
    waits: WaitsPart,
    locks: Vec<Lock>,
    evidence: Vec<(String, String)>,
    left_out: Vec<String>,
}

/// A lock that takes part in a hang.
struct Lock {
    id: String,
    /// Id of the lock in the picture.
    node: Option<String>,
    name: String,
    words: String,
}

/// A wait graph: its picture, or the reason why there is none, and its waits in words.
#[derive(Template)]
#[template(path = "report/waits.html")]
pub(super) struct WaitsPart {
    label: String,
    picture: Result<String, String>,
    sentences: Vec<String>,
}

impl WaitsPart {
    /// Creates the part of a drawn graph. `anchor` returns the id of the element that a party's box leads to.
    pub(super) fn new(
        label: String,
        prefix: &str,
        drawn: &Drawn<'_>,
        sentences: Vec<String>,
        anchor: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let picture = match drawn {
            Ok(picture) => Ok(picture.svg(prefix, anchor)),
            Err(reason) => Err(reason.to_string()),
        };
        Self { label, picture, sentences }
    }

    /// Creates the part of a backtrace's waits.
    pub(super) fn of_backtrace(
        prefix: &str,
        graph: &WaitGraph,
        drawn: &Drawn<'_>,
        anchor: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let mut all = waits::sentences(graph, &[]).map(|sentence| sentence.words());
        let mut sentences: Vec<String> = all.by_ref().take(MAX_ROWS).collect();
        let more = all.count();
        if more > 0 {
            sentences.push(format!("{}, left out", plural(more as u64, "more wait")));
        }
        Self::new("All waits of the moment".into(), prefix, drawn, sentences, anchor)
    }
}

/// The picture of a wait graph, or the reason why there is none.
pub(super) type Drawn<'a> = Result<Picture<'a>, wait_graph::NoPicture>;

impl HangPart {
    /// Creates the part of a hang, which is number `number` of `count` from 0. `anchor` returns the id of the
    /// element with a party's stack.
    pub(super) fn new(
        hang: &Hang,
        (number, count): (usize, usize),
        drawn: &Drawn<'_>,
        anchor: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let prefix = prefix(number);
        let label = if hang.certainty.is_verdict() { "Hang" } else { "Suspected hang" };
        let title = match count {
            1 => format!("{label}: {}", hang.class),
            count => format!("{label} {} of {count}: {}", number + 1, hang.class),
        };
        let mut left_out = Vec::new();
        let statements = first(hang::statements(hang), "statement", &mut left_out);
        let evidence = hang.evidence.iter().collect::<Vec<_>>();
        let evidence = first(evidence, "fact", &mut left_out);
        let locks = first(locks(hang, &prefix, drawn), "lock", &mut left_out);
        let lead = |party: &str| {
            let lock = locks.iter().find(|lock| lock.name == line(party));
            anchor(party).or_else(|| lock.map(|lock| lock.id.clone()))
        };
        let waits = WaitsPart::new(
            format!("Wait graph: {}", hang.class),
            &prefix,
            drawn,
            wait_graph::sentences(hang),
            &lead,
        );
        Self {
            title,
            headline: hang::headline(hang).into(),
            recovery: hang::recovery(hang).map(Words::from),
            statements: statements
                .into_iter()
                .map(|statement: Statement| statement.into())
                .collect(),
            signature: line(&hang.signature),
            bucket: hang.bucket.as_deref().map(line),
            certainty: certainty(&hang.certainty),
            waits,
            evidence: evidence
                .into_iter()
                .map(|evidence| (line(&evidence.party), line(&evidence::fact(evidence))))
                .collect(),
            locks,
            left_out,
            prefix,
        }
    }
}

impl HangPart {
    /// Returns the part's entry in the contents: its id and its title.
    pub(super) fn entry(&self) -> (String, String) {
        (self.prefix.clone(), self.title.clone())
    }
}

/// Returns the prefix of all ids of a hang's part.
pub(super) fn prefix(number: usize) -> String {
    format!("h{number}")
}

/// Returns the first rows of a list, and notes how many are left out.
fn first<T>(mut rows: Vec<T>, noun: &str, left_out: &mut Vec<String>) -> Vec<T> {
    let more = rows.len().saturating_sub(MAX_ROWS);
    if more > 0 {
        left_out.push(format!(
            "{}, left out: in the JSON",
            plural(more as u64, &format!("more {noun}"))
        ));
        rows.truncate(MAX_ROWS);
    }
    rows
}

fn locks(hang: &Hang, prefix: &str, drawn: &Drawn<'_>) -> Vec<Lock> {
    let is_lock = |kind: &NodeKind| matches!(kind, NodeKind::Lock { .. });
    let locks = hang.nodes.iter().filter(|node| is_lock(&node.kind)).take(MAX_ROWS * 2);
    let lock = |(index, node): (usize, &crate::WaitNode)| {
        let NodeKind::Lock { lock, held_by, taken_at, .. } = &node.kind else { return None };
        let kind = match lock {
            LockKind::Spin => "spinlock",
            LockKind::Ticket => "ticket lock",
            LockKind::Mutex => "mutex",
            LockKind::RwSemaphore => "semaphore of readers and writers",
            LockKind::Unknown => "no valid lock",
        };
        let holder = match held_by {
            Some(holder) => format!(", held by {}", line(holder)),
            None => ", no holder known".into(),
        };
        let taken = taken_at.as_ref();
        let taken = taken.map_or_else(String::new, |at| format!(", taken at {}", hang::source(at)));
        let is_waiter =
            |edge: &&crate::WaitEdge| edge.to == node.id && matches!(edge.kind, WaitKind::WaitsFor);
        let waiters = hang.edges.iter().filter(is_waiter).count() as u64;
        let waiters = format!(", {}", plural(waiters, "waiter"));
        let drawn = drawn.as_ref().ok();
        let node_index = drawn.and_then(|picture| picture.box_of(&node.id));
        Some(Lock {
            id: format!("{prefix}-lock-{index}"),
            node: node_index.map(|index| format!("{prefix}-node-{index}")),
            name: line(&node.id),
            words: format!("{kind}{holder}{taken}{waiters}"),
        })
    };
    locks.enumerate().filter_map(lock).collect()
}

/// Returns how a hang of which there is no room for a part of its own is named.
pub(super) fn short(hang: &Hang) -> Phrase {
    hang::headline(hang)
}
