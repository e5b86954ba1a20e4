//! Wait graphs in the language of graphviz.
//!
//! Owns the statements and their escapes; the words are those of the picture. Nothing is folded. Called for
//! `--format dot`.

use std::fmt::Write as _;

use super::model::{self, Arrow, Graph, Mark, PartyBox};
use super::{Waits, words};
use crate::sanitize::line;
use crate::{Backtrace, NodeKind, Report, WaitKind};

/// Returns the wait graphs of a report: a cluster for each of its hangs or, where there are none, one for the
/// waits of its last backtrace that has any.
pub fn dot(report: &Report) -> String {
    let mut text = String::from(
        "digraph waits {\n  node [fontname=\"monospace\" shape=box];\n  edge [fontname=\"monospace\" fontsize=11];\n",
    );
    for (index, hang) in report.hangs.iter().enumerate() {
        let name = match &hang.bucket {
            Some(bucket) => line(bucket),
            None => format!("{}, {}", hang.class, hang.signature),
        };
        cluster(&mut text, index, &name, &hang.into());
    }
    if report.hangs.is_empty()
        && let Some(waits) = report.backtraces.iter().rev().find_map(waits)
    {
        cluster(&mut text, 0, "waits", &waits);
    }
    text.push_str("}\n");
    text
}

fn waits(backtrace: &Backtrace) -> Option<Waits<'_>> {
    backtrace.waits.as_ref().map(Waits::from)
}

fn cluster(text: &mut String, index: usize, name: &str, waits: &Waits<'_>) {
    let graph = model::unfolded(waits);
    let _ = writeln!(text, "  subgraph cluster_{index} {{\n    label={};", quoted(name));
    for (number, party) in graph.parties.iter().enumerate() {
        let _ = writeln!(text, "    h{index}_n{number} [{}];", node_attributes(party));
    }
    for arrow in &graph.arrows {
        let Arrow { from, to, .. } = arrow;
        let _ =
            writeln!(text, "    h{index}_n{from} -> h{index}_n{to} [{}];", edge_attributes(arrow));
    }
    text.push_str(&dangling(&graph));
    text.push_str("  }\n");
}

/// Returns a comment on waits that are left out.
fn dangling(graph: &Graph<'_>) -> String {
    match graph.dangling {
        0 => String::new(),
        count => format!("    // {count} left out: the report does not have the party\n"),
    }
}

fn node_attributes(party: &PartyBox<'_>) -> String {
    let node = party.members[0];
    let shape = match node.kind {
        NodeKind::Cpu { .. } => "shape=box",
        NodeKind::Task { .. } => "shape=box style=rounded",
        NodeKind::Lock { .. } => "shape=hexagon color=blue",
        NodeKind::Queue { .. } => "shape=cylinder color=blue",
    };
    let text = words::text(party);
    let mut lines = vec![line(&node.id)];
    lines.extend(text.lines);
    lines.extend((!text.part.is_empty()).then(|| text.part.to_owned()));
    let mark = match party.mark {
        Mark::Blamed => " color=red penwidth=3",
        Mark::Victim => " color=orange penwidth=2",
        Mark::None => "",
    };
    let cycle = if party.in_cycle { " peripheries=2" } else { "" };
    let lines: Vec<_> = lines.iter().map(|line| escaped(line)).collect();
    format!("label=\"{}\" {shape}{mark}{cycle}", lines.join("\\n"))
}

fn edge_attributes(arrow: &Arrow<'_>) -> String {
    let style = match arrow.kind() {
        WaitKind::HeldBy => " style=dashed arrowhead=empty",
        WaitKind::RunsOn => " style=dotted",
        WaitKind::WaitsFor | WaitKind::CallsFunction | WaitKind::BringsUp | WaitKind::SleepsOn => {
            ""
        }
    };
    // Two colours with a colon between them are two lines.
    let cycle = if arrow.in_cycle { " color=\"red:invis:red\"" } else { "" };
    format!("label={}{style}{cycle}", quoted(&words::label(arrow)))
}

/// Returns a text as a quoted string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Returns a text for the inside of a quoted label. Graphviz reads escapes and HTML's entities in labels.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in line(text).chars() {
        match character {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '&' => escaped.push_str("&amp;"),
            other => escaped.push(other),
        }
    }
    escaped
}
