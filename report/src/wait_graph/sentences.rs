//! The graph in words: a sentence for each wait, and one for the parties without.
//!
//! Owns what is a sentence of its own; the words are those of `wait_words` and `words`. Called by pages, for
//! who hears them or has them on paper.

use std::collections::HashMap;

use super::{Waits, model, words};
use crate::WaitKind;
use crate::units::plural;
use crate::wait_words::sentence;

/// The most sentences; another says how many are left out.
const MAX_SENTENCES: usize = 1000;

/// Returns a wait graph in sentences: each wait with the holder of what is waited for and its duration; holds that no
/// wait names; and the parties without waits. A thousand at most, and one that counts the rest.
pub fn sentences<'a>(waits: impl Into<Waits<'a>>) -> Vec<String> {
    let waits = waits.into();
    let held = |edge: &&crate::WaitEdge| edge.kind == WaitKind::HeldBy;
    let mut holders = HashMap::new();
    for edge in waits.edges.iter().filter(held) {
        holders.entry(edge.from.as_str()).or_insert(edge.to.as_str());
    }
    let is_waited_for: std::collections::HashSet<&str> =
        waits.edges.iter().filter(|edge| !held(edge)).map(|edge| edge.to.as_str()).collect();
    // The wait for a lock names its first holder.
    let is_told = |edge: &&crate::WaitEdge| {
        held(edge)
            && is_waited_for.contains(edge.from.as_str())
            && holders.get(edge.from.as_str()) == Some(&edge.to.as_str())
    };
    let told = waits.edges.iter().filter(|edge| !is_told(edge));
    let told = told.map(|edge| {
        let holder = holders.get(edge.to.as_str()).copied();
        sentence(edge, holder.filter(|_| edge.kind != WaitKind::HeldBy))
    });
    let graph = model::graph(&waits);
    let is_apart = |party: &&model::PartyBox<'_>| party.waits.is_none() && !party.is_target;
    let apart = graph.parties.iter().filter(is_apart).map(|party| words::text(party).title);
    let mut all = told.chain(apart);
    let mut sentences: Vec<String> = all.by_ref().take(MAX_SENTENCES).collect();
    let left_out = all.count();
    if left_out > 0 {
        sentences.push(format!("{} left out", plural(left_out as u64, "more sentence")));
    }
    sentences
}
