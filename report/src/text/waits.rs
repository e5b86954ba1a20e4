//! All waits of a moment as text, a line each.
//!
//! Owns the order of a line; the words for a wait are those of `hang`. Called by `backtrace`.

use std::fmt::Write as _;

use super::super::sanitize::line;
use super::super::{WaitEdge, WaitGraph, WaitKind};
use super::hang::waits;
use crate::units::seconds;

/// Appends a line for each wait: the waiting party, what it waits for, its holder, and the duration.
pub fn show(text: &mut String, graph: &WaitGraph) {
    for edge in graph.edges.iter().filter(|edge| edge.kind != WaitKind::HeldBy) {
        let is_held = |held: &&WaitEdge| held.kind == WaitKind::HeldBy && held.from == edge.to;
        let holder = graph.edges.iter().find(is_held);
        let holder =
            holder.map_or_else(String::new, |held| format!(", held by {}", line(&held.to)));
        let lasted = edge.lasted_ms.map_or_else(String::new, |ms| format!(" ({})", seconds(ms)));
        let _ = writeln!(text, "{} {}{holder}{lasted}", line(&edge.from), waits(edge));
    }
}
