//! Waits in words, which all forms of a report share.
//!
//! Owns the words for a kind of wait, and the sentence for a wait. Called by `text` and `wait_graph`.

use crate::sanitize::line;
use crate::units::seconds;
use crate::{WaitEdge, WaitKind};

/// Returns a wait without the waiting party, as in `waits for INODE_LOCK`.
pub fn waits(edge: &WaitEdge) -> String {
    let to = line(&edge.to);
    match edge.kind {
        WaitKind::WaitsFor => format!("waits for {to}"),
        WaitKind::CallsFunction => format!("waits for {to} to answer its call-function IPI"),
        WaitKind::BringsUp => format!("waits for {to} to come online"),
        WaitKind::RunsOn => format!("runs on {to}"),
        WaitKind::SleepsOn => format!("sleeps on {to}"),
        WaitKind::HeldBy => format!("is held by {to}"),
    }
}

/// Returns a wait as a sentence: the waiting party, what it waits for, the holder of that where it is given, and
/// the duration.
pub fn sentence(edge: &WaitEdge, holder: Option<&str>) -> String {
    let holder = holder.map_or_else(String::new, |holder| format!(", held by {}", line(holder)));
    let lasted = edge.lasted_ms.map_or_else(String::new, |ms| format!(" ({})", seconds(ms)));
    format!("{} {}{holder}{lasted}", line(&edge.from), waits(edge))
}
