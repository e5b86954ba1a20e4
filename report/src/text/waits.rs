//! The waits of a moment as text, a line each.
//!
//! Owns which waits are left out; the words for a wait are those of `wait_words`. Called by `backtrace`.

use super::super::{Hang, WaitEdge, WaitGraph, WaitKind};
use crate::phrase::Phrase;
use crate::wait_words::sentence;

/// Returns a sentence for each wait: the waiting party, what it waits for, its holder, and the duration. Waits that the
/// lines of these hangs have named are left out.
pub(crate) fn sentences<'a>(
    graph: &'a WaitGraph,
    hangs: &'a [&Hang],
) -> impl Iterator<Item = Phrase> + 'a {
    let is_shown = |edge: &&WaitEdge| {
        edge.kind != WaitKind::HeldBy && !hangs.iter().any(|hang| names(hang, edge))
    };
    graph.edges.iter().filter(is_shown).map(|edge| {
        let is_held = |held: &&WaitEdge| held.kind == WaitKind::HeldBy && held.from == edge.to;
        let holder = graph.edges.iter().find(is_held);
        Phrase::plain(&sentence(edge, holder.map(|held| held.to.as_str())))
    })
}

/// Returns true for a wait of a blamed party or of a victim: the lines of its hang name it.
fn names(hang: &Hang, edge: &WaitEdge) -> bool {
    let is_party = hang.blamed.contains(&edge.from) || hang.victims.contains(&edge.from);
    let is_same = |other: &WaitEdge| {
        (&other.from, &other.to, other.kind) == (&edge.from, &edge.to, edge.kind)
    };
    is_party && hang.edges.iter().any(is_same)
}
