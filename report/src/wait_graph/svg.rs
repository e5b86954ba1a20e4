//! SVG of a picture: its view for the template, with places as text.
//!
//! Owns ids and classes; the template has the elements, and escapes every text. Called by the module's interface.

use askama::Template;

use super::layout::{LINE_HEIGHT, NAME_ADVANCE, Rectangle, Route, SMALL_ADVANCE, text_width};
use super::model::{Arrow, Graph, Mark, PartyBox};
use super::words::{BoxText, arrow_title};
use super::{Picture, shapes};
use crate::units::plural;
use crate::{NodeKind, WaitKind};

/// The most parties that the description of a cycle names.
const MAX_NAMED: usize = 20;

#[derive(Template)]
#[template(path = "wait_graph.svg")]
struct View<'a> {
    prefix: &'a str,
    width: String,
    height: String,
    description: String,
    arrows: Vec<ArrowView<'a>>,
    boxes: Vec<BoxView<'a>>,
}

struct ArrowView<'a> {
    class: String,
    title: String,
    line: String,
    is_double: bool,
    head: String,
    label: LabelView,
    text: TextView<'a>,
}

struct LabelView {
    x: String,
    y: String,
    width: String,
    height: String,
}

struct BoxView<'a> {
    index: usize,
    class: String,
    title: &'a str,
    anchor: Option<String>,
    /// Outline of the box behind that of several parties.
    behind: Option<String>,
    outline: String,
    ring: Option<String>,
    end: Option<String>,
    texts: Vec<TextView<'a>>,
}

struct TextView<'a> {
    class: &'static str,
    x: String,
    y: String,
    /// Width that the text is made to have; `None` where a monospaced font has it anyhow.
    length: Option<String>,
    text: &'a str,
}

/// Returns the picture as SVG.
pub fn render(
    picture: &Picture<'_>,
    prefix: &str,
    anchor: &dyn Fn(&str) -> Option<String>,
) -> String {
    let Picture { graph, texts, labels, layout, .. } = picture;
    let arrows = graph.arrows.iter().zip(&layout.routes).zip(labels);
    let arrows = arrows.map(|((arrow, route), label)| arrow_view(arrow, route, label));
    // From the top, as one reads.
    let mut order: Vec<usize> = (0..graph.parties.len()).collect();
    order.sort_by(|&one, &other| {
        let (one, other) = (layout.boxes[one], layout.boxes[other]);
        one.y.total_cmp(&other.y).then(one.x.total_cmp(&other.x))
    });
    let boxes = order.into_iter().map(|index| {
        let (party, text) = (&graph.parties[index], &texts[index]);
        box_view(index, party, text, layout.boxes[index], anchor)
    });
    let view = View {
        prefix,
        width: shapes::number(layout.width.ceil()),
        height: shapes::number(layout.height.ceil()),
        description: description(graph, texts),
        arrows: arrows.collect(),
        boxes: boxes.collect(),
    };
    // Writing to a string does not fail.
    view.render().unwrap_or_default()
}

fn description(graph: &Graph<'_>, texts: &[BoxText]) -> String {
    let parties: usize = graph.parties.iter().map(|party| party.members.len()).sum();
    let waits = |arrow: &&Arrow<'_>| arrow.kind() != WaitKind::HeldBy;
    let waits: usize = graph.arrows.iter().filter(waits).map(|arrow| arrow.edges.len()).sum();
    let holds = graph.arrows.iter().map(|arrow| arrow.edges.len()).sum::<usize>() - waits;
    let held = if holds == 1 { "1 lock held".into() } else { format!("{holds} locks held") };
    let mut parts = vec![
        format!("Who waits for whom: {}", parties_in_words(parties)),
        plural(waits as u64, "wait"),
        held,
    ];
    let cycle: Vec<&str> = graph
        .parties
        .iter()
        .zip(texts)
        .filter(|(party, _)| party.in_cycle)
        .map(|(_, text)| text.name.as_str())
        .collect();
    if !cycle.is_empty() {
        let named = cycle.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = match cycle.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("in the cycle: {named}{more}"));
    }
    if graph.dangling > 0 {
        let waits = plural(graph.dangling as u64, "wait");
        parts.push(format!("{waits} left out: the report does not have the party"));
    }
    parts.join("; ")
}

fn parties_in_words(count: usize) -> String {
    if count == 1 { "1 party".into() } else { format!("{count} parties") }
}

fn arrow_view<'a>(arrow: &Arrow<'_>, route: &Route, label: &'a str) -> ArrowView<'a> {
    let kind = match arrow.kind() {
        WaitKind::WaitsFor | WaitKind::SleepsOn => "wg-waits",
        WaitKind::HeldBy => "wg-held",
        WaitKind::CallsFunction | WaitKind::BringsUp => "wg-calls",
        WaitKind::RunsOn => "wg-runs",
    };
    let cycle = if arrow.in_cycle { " wg-cycle" } else { "" };
    let Rectangle { x, y, width, height } = route.label;
    let text = text_view("wg-label", label, SMALL_ADVANCE, (x + width / 2.0, y + 13.0));
    let [x, y, width, height] = [x, y, width, height].map(shapes::number);
    ArrowView {
        class: format!("{kind}{cycle}"),
        title: arrow_title(arrow),
        line: shapes::line(route),
        is_double: arrow.in_cycle,
        head: shapes::head(route),
        label: LabelView { x, y, width, height },
        text,
    }
}

fn box_view<'a>(
    index: usize,
    party: &PartyBox<'_>,
    text: &'a BoxText,
    seen: Rectangle,
    anchor: &dyn Fn(&str) -> Option<String>,
) -> BoxView<'a> {
    let kind = &party.members[0].kind;
    let form = match kind {
        NodeKind::Cpu { .. } => "wg-cpu",
        NodeKind::Task { .. } => "wg-task",
        NodeKind::Lock { .. } => "wg-lock",
        NodeKind::Queue { .. } => "wg-queue",
    };
    let mark = match party.mark {
        Mark::Blamed => " wg-blamed",
        Mark::Victim => " wg-victim",
        Mark::None => "",
    };
    let cycle = if party.in_cycle { " wg-cycle" } else { "" };
    // Folded parties have equal stacks, or none: the first stack stands for them.
    let anchor = party.members.iter().take(MAX_NAMED).find_map(|node| anchor(&node.id));
    let is_folded = party.members.len() > 1;
    let behind = Rectangle { x: seen.x + 4.0, y: seen.y + 4.0, ..seen };
    let is_queue = matches!(kind, NodeKind::Queue { .. });
    BoxView {
        index,
        class: format!("{form}{mark}{cycle}"),
        title: &text.title,
        anchor,
        behind: is_folded.then(|| shapes::outline(kind, behind)),
        outline: shapes::outline(kind, seen),
        ring: party.in_cycle.then(|| shapes::outline(kind, shapes::inset(seen, 4.0))),
        end: is_queue.then(|| shapes::cylinder_end(seen)),
        texts: text_views(text, seen),
    }
}

fn text_views(text: &BoxText, seen: Rectangle) -> Vec<TextView<'_>> {
    let middle = seen.x + seen.width / 2.0;
    let name = text_view("wg-name", &text.name, NAME_ADVANCE, (middle, seen.y + 20.0));
    let mut views = vec![name];
    let small = text.lines.iter().map(|line| ("wg-state", line.as_str()));
    let part = (!text.part.is_empty()).then_some(("wg-part", text.part));
    for ((class, line), row) in small.chain(part).zip(0_u8..) {
        let y = seen.y + 36.0 + LINE_HEIGHT * f64::from(row);
        views.push(text_view(class, line, SMALL_ADVANCE, (middle, y)));
    }
    views
}

fn text_view<'a>(
    class: &'static str,
    text: &'a str,
    advance: f64,
    (x, y): (f64, f64),
) -> TextView<'a> {
    // Other characters may be wider than a monospaced font's.
    let length = (!text.is_ascii()).then(|| shapes::number(text_width(text, advance)));
    TextView { class, x: shapes::number(x), y: shapes::number(y), length, text }
}
