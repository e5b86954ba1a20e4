//! The waits of a moment as text, a line each.
//!
//! Owns the order of a line, and which waits are left out; the words for a wait are those of `hang`. Called
//! by `backtrace`.

use std::fmt::Write as _;

use super::super::sanitize::line;
use super::super::{Hang, WaitEdge, WaitGraph, WaitKind};
use super::hang::waits;
use crate::units::seconds;

/// Appends a line for each wait: the waiting party, what it waits for, its holder, and the duration. The
/// lines of these hangs have named their waits.
pub fn show(text: &mut String, graph: &WaitGraph, hangs: &[&Hang]) {
    let is_shown = |edge: &&WaitEdge| {
        edge.kind != WaitKind::HeldBy && !hangs.iter().any(|hang| names(hang, edge))
    };
    for edge in graph.edges.iter().filter(is_shown) {
        let is_held = |held: &&WaitEdge| held.kind == WaitKind::HeldBy && held.from == edge.to;
        let holder = graph.edges.iter().find(is_held);
        let holder =
            holder.map_or_else(String::new, |held| format!(", held by {}", line(&held.to)));
        let lasted = edge.lasted_ms.map_or_else(String::new, |ms| format!(" ({})", seconds(ms)));
        let _ = writeln!(text, "{} {}{holder}{lasted}", line(&edge.from), waits(edge));
    }
}

/// Returns true for a wait of a blamed party or of a victim: the lines of its hang name it.
fn names(hang: &Hang, edge: &WaitEdge) -> bool {
    let is_party = hang.blamed.contains(&edge.from) || hang.victims.contains(&edge.from);
    let is_same = |other: &WaitEdge| {
        (&other.from, &other.to, other.kind) == (&edge.from, &edge.to, edge.kind)
    };
    is_party && hang.edges.iter().any(is_same)
}
