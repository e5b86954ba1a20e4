//! Layout: a drawing for each connected part, and all parts in rows.
//!
//! Owns sizes in pixels, the vertical places, and the order of the parts: cycles first, then what is blamed.
//! Called by the module's interface.

use super::coordinates::{Coordinates, PORT_DISTANCE, PORT_MARGIN, coordinates};
use super::layers::{self, Layers, VertexKind};
use super::model::{Graph, Mark};
use super::order::order;
use super::ranks::ranks;
use super::words::BoxText;
use crate::NodeKind;

/// Width of a character of a name: a monospaced font's advance is 0.6 em, or very little more.
pub const NAME_ADVANCE: f64 = 13.0 * 0.61;
/// Width of a character of the other texts.
pub const SMALL_ADVANCE: f64 = 11.0 * 0.61;
/// Height of an arrow's label, in pixels.
pub const LABEL_HEIGHT: f64 = 18.0;
/// Height of a box with a name alone, and of each other line.
const NAME_HEIGHT: f64 = 30.0;
pub const LINE_HEIGHT: f64 = 16.0;
/// Space above and below a box, in which arrows are vertical and have their heads.
const STUB: f64 = 10.0;
/// Width of the rows that parts are put in, unless one is wider.
const ROW_WIDTH: f64 = 1060.0;
/// Space between parts, and around the picture.
const PART_GAP: f64 = 36.0;
const MARGIN: f64 = 10.0;
/// Width beside a box that has an arrow to itself, without the label.
pub const LOOP_WIDTH: f64 = 30.0;
/// Height of an arrow that a box has to itself, beside the box.
const LOOP_HEIGHT: f64 = 24.0;

/// A box with its place.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rectangle {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// The line of an arrow.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// Vertical pieces from the top, each with its place and both its ends. Curves connect them.
    pub pieces: Vec<(f64, f64, f64)>,
    /// True if the arrow's head is at the top.
    pub is_upward: bool,
    /// True for an arrow that ends where it begins: its line is beside the box.
    pub is_loop: bool,
    pub label: Rectangle,
}

/// A picture's places, in pixels.
#[derive(Debug)]
pub struct Layout {
    pub boxes: Vec<Rectangle>,
    pub routes: Vec<Route>,
    pub width: f64,
    pub height: f64,
}

/// A connected part of the graph, by the numbers of its boxes and arrows.
#[derive(Debug, Default)]
struct Part {
    boxes: Vec<usize>,
    arrows: Vec<usize>,
    loops: Vec<usize>,
}

/// The size of a box.
#[derive(Debug, Clone, Copy)]
struct Size {
    width: f64,
    height: f64,
    /// Width on both sides that nothing else may use.
    beside: f64,
}

/// Returns the places of all boxes and arrows; `None` if the arrows pass too many layers.
pub fn layout(graph: &Graph<'_>, texts: &[BoxText], labels: &[String]) -> Option<Layout> {
    let sizes = sizes(graph, texts, labels);
    let mut layout = Layout {
        boxes: vec![Rectangle::default(); graph.parties.len()],
        routes: vec![Route::default(); graph.arrows.len()],
        width: 0.0,
        height: 0.0,
    };
    let mut budget = layers::MAX_VERTICES;
    let mut drawings = Vec::new();
    for part in parts(graph) {
        let drawing = Drawing::new(graph, &part, &sizes, labels, budget)?;
        budget -= drawing.layers.vertices.len().min(budget);
        drawings.push((part, drawing));
    }
    let widest = drawings.iter().map(|(_, drawing)| drawing.places.width);
    let mut rows = Rows::new(widest.fold(ROW_WIDTH, f64::max));
    for (part, drawing) in &drawings {
        let (x, y) = rows.place(drawing.places.width, drawing.height);
        drawing.put(part, &sizes, (x, y), &mut layout);
        put_loops(graph, part, labels, &mut layout);
        layout.width = layout.width.max(x + drawing.places.width + MARGIN);
        layout.height = layout.height.max(y + drawing.height + MARGIN);
    }
    Some(layout)
}

/// Rows of parts, like words in a paragraph.
struct Rows {
    x: f64,
    y: f64,
    height: f64,
    width: f64,
}

impl Rows {
    fn new(width: f64) -> Self {
        Self { x: MARGIN, y: MARGIN, height: 0.0, width }
    }

    fn place(&mut self, width: f64, height: f64) -> (f64, f64) {
        if self.x > MARGIN && self.x + width > MARGIN + self.width {
            (self.x, self.y) = (MARGIN, self.y + self.height + PART_GAP);
            self.height = 0.0;
        }
        let place = (self.x, self.y);
        self.x += width + PART_GAP;
        self.height = self.height.max(height);
        place
    }
}

/// Returns the width of a text. In monospaced fonts, characters of East Asia and pictographs take two columns.
pub fn text_width(text: &str, advance: f64) -> f64 {
    const FIRST_WIDE: char = '\u{1100}';
    let columns = |character| if character < FIRST_WIDE { 1.0 } else { 2.0 };
    text.chars().map(columns).sum::<f64>() * advance
}

/// Returns the width of an arrow's label.
fn label_width(label: &str) -> f64 {
    text_width(label, SMALL_ADVANCE) + 10.0
}

/// Returns the space between a box's edge and its text.
pub fn padding(kind: &NodeKind) -> f64 {
    match kind {
        NodeKind::Cpu { .. } | NodeKind::Task { .. } => 14.0,
        NodeKind::Lock { .. } | NodeKind::Queue { .. } => 22.0,
    }
}

fn sizes(graph: &Graph<'_>, texts: &[BoxText], labels: &[String]) -> Vec<Size> {
    let mut above = vec![0_usize; texts.len()];
    let mut below = vec![0_usize; texts.len()];
    let mut loops = vec![0_usize; texts.len()];
    let mut beside = vec![0.0_f64; texts.len()];
    for (arrow, label) in graph.arrows.iter().zip(labels) {
        if arrow.from == arrow.to {
            loops[arrow.from] += 1;
            let width = LOOP_WIDTH + label_width(label);
            beside[arrow.from] = beside[arrow.from].max(width);
        } else {
            below[arrow.from] += 1;
            above[arrow.to] += 1;
        }
    }
    let size = |index: usize| {
        let (text, party) = (&texts[index], &graph.parties[index]);
        let small = text.lines.iter().map(String::as_str).chain([text.part]);
        let small = small.map(|line| text_width(line, SMALL_ADVANCE));
        let widest = small.fold(text_width(&text.name, NAME_ADVANCE), f64::max);
        // In a ring, an arrow may begin where others end.
        let ports = above[index] + below[index];
        let for_ports = ports as f64 * PORT_DISTANCE + 2.0 * PORT_MARGIN;
        let width = (widest + 2.0 * padding(&party.members[0].kind)).max(for_ports).max(96.0);
        let rows = text.lines.len() + usize::from(!text.part.is_empty());
        let height = NAME_HEIGHT + LINE_HEIGHT * rows as f64;
        let height = height.max(LOOP_HEIGHT * loops[index] as f64 + LOOP_HEIGHT);
        Size { width: width.ceil(), height, beside: beside[index] }
    };
    (0..texts.len()).map(size).collect()
}

/// Returns the connected parts of a graph, the most important ones first.
fn parts(graph: &Graph<'_>) -> Vec<Part> {
    let mut neighbours = vec![Vec::new(); graph.parties.len()];
    for arrow in &graph.arrows {
        neighbours[arrow.from].push(arrow.to);
        neighbours[arrow.to].push(arrow.from);
    }
    let mut part_of = vec![usize::MAX; graph.parties.len()];
    let mut parts: Vec<Part> = Vec::new();
    for start in 0..graph.parties.len() {
        if part_of[start] != usize::MAX {
            continue;
        }
        part_of[start] = parts.len();
        let mut pending = vec![start];
        while let Some(index) = pending.pop() {
            for &other in &neighbours[index] {
                if part_of[other] == usize::MAX {
                    part_of[other] = parts.len();
                    pending.push(other);
                }
            }
        }
        parts.push(Part::default());
    }
    for (index, &part) in part_of.iter().enumerate() {
        parts[part].boxes.push(index);
    }
    for (index, arrow) in graph.arrows.iter().enumerate() {
        let part = &mut parts[part_of[arrow.from]];
        if arrow.from == arrow.to { &mut part.loops } else { &mut part.arrows }.push(index);
    }
    for part in &mut parts {
        part.loops.sort_by_key(|&arrow| graph.arrows[arrow].from);
    }
    let weight = |part: &Part| {
        let parties = || part.boxes.iter().map(|&index| &graph.parties[index]);
        let has_cycle = parties().any(|party| party.in_cycle);
        let mark = parties().map(|party| party.mark).min().unwrap_or(Mark::None);
        (!has_cycle, mark, part.arrows.is_empty())
    };
    parts.sort_by_key(weight);
    parts
}

/// The drawing of a part, from 0 at the left and the top.
struct Drawing {
    layers: Layers,
    places: Coordinates,
    /// Top and bottom of each layer.
    bands: Vec<(f64, f64)>,
    is_upward: Vec<bool>,
    height: f64,
}

impl Drawing {
    fn new(
        graph: &Graph<'_>,
        part: &Part,
        sizes: &[Size],
        labels: &[String],
        budget: usize,
    ) -> Option<Self> {
        let local = |index: usize| part.boxes.binary_search(&index).ok();
        let ends = part.arrows.iter().map(|&arrow| &graph.arrows[arrow]);
        let ends: Vec<_> =
            ends.filter_map(|arrow| local(arrow.from).zip(local(arrow.to))).collect();
        let widths = part.boxes.iter().map(|&index| sizes[index].width + 2.0 * sizes[index].beside);
        let widths: Vec<_> = widths.collect();
        let labels: Vec<_> = part.arrows.iter().map(|&arrow| label_width(&labels[arrow])).collect();
        let ranks = ranks(widths.len(), &ends);
        let layers = Layers::new(&widths, &ends, &labels, &ranks, budget)?;
        let order = order(&layers, ranks.ring.as_ref());
        let places = coordinates(&layers, &order);
        let heights: Vec<_> = part.boxes.iter().map(|&index| sizes[index].height).collect();
        let bands = bands(&layers, &places, &heights);
        let height = bands.last().map_or(0.0, |&(_, bottom)| bottom) - STUB;
        Some(Self { layers, places, bands, is_upward: ranks.is_upward, height })
    }

    /// Puts the drawing into the picture, with its left upper corner at a place.
    fn put(&self, part: &Part, sizes: &[Size], (left, top): (f64, f64), layout: &mut Layout) {
        let top = top - STUB;
        let place = |vertex: usize| {
            let Size { width, height, .. } = sizes[part.boxes[vertex]];
            let (from, to) = self.bands[self.layers.vertices[vertex].layer];
            let x = left + self.places.x[vertex] - width / 2.0;
            Rectangle { x, y: top + f64::midpoint(from, to) - height / 2.0, width, height }
        };
        for (vertex, &index) in part.boxes.iter().enumerate() {
            layout.boxes[index] = place(vertex);
        }
        for (number, &arrow) in part.arrows.iter().enumerate() {
            let mut route = Route { is_upward: self.is_upward[number], ..Route::default() };
            let chain = &self.layers.chains[number];
            for (step, &link) in chain.iter().enumerate() {
                let ends = self.layers.links[link];
                let vertex = &self.layers.vertices[ends.upper];
                let (from, to) = self.bands[vertex.layer];
                let x = left + self.places.upper[link];
                let mut start = top + from;
                if step == 0 {
                    let upper = place(ends.upper);
                    start = upper.y + upper.height;
                }
                route.pieces.push((x, start, top + to));
                if vertex.kind == VertexKind::Label {
                    let y = top + f64::midpoint(from, to) - LABEL_HEIGHT / 2.0;
                    let width = vertex.width;
                    route.label = Rectangle { x: x - width / 2.0, y, width, height: LABEL_HEIGHT };
                }
            }
            if let Some(&link) = chain.last() {
                let ends = self.layers.links[link];
                let (from, _) = self.bands[self.layers.vertices[ends.lower].layer];
                let x = left + self.places.lower[link];
                route.pieces.push((x, top + from, place(ends.lower).y));
            }
            layout.routes[arrow] = route;
        }
    }
}

/// Puts the arrows that end where they begin: those of a box one below the other, at its middle.
fn put_loops(graph: &Graph<'_>, part: &Part, labels: &[String], layout: &mut Layout) {
    let is_same_box =
        |one: &usize, other: &usize| graph.arrows[*one].from == graph.arrows[*other].from;
    for loops in part.loops.chunk_by(is_same_box) {
        let seen = layout.boxes[graph.arrows[loops[0]].from];
        let middle = seen.y + seen.height / 2.0 - LOOP_HEIGHT * (loops.len() - 1) as f64 / 2.0;
        for (place, &arrow) in loops.iter().enumerate() {
            let middle = middle + LOOP_HEIGHT * place as f64;
            layout.routes[arrow] = loop_route(seen, middle, &labels[arrow]);
        }
    }
}

/// Returns the line of an arrow that ends where it begins, beside its box.
fn loop_route(seen: Rectangle, middle: f64, label: &str) -> Route {
    let right = seen.x + seen.width;
    let (x, y) = (right + LOOP_WIDTH, middle - LABEL_HEIGHT / 2.0);
    let label = Rectangle { x, y, width: label_width(label), height: LABEL_HEIGHT };
    let pieces = vec![(right, middle - 8.0, middle + 8.0)];
    Route { pieces, is_upward: false, is_loop: true, label }
}

/// Returns top and bottom of each layer. Between layers there is more space where links lead far to the side.
fn bands(layers: &Layers, places: &Coordinates, heights: &[f64]) -> Vec<(f64, f64)> {
    let mut tallest = vec![0.0_f64; layers.count];
    let mut widest = vec![0.0_f64; layers.count];
    for vertex in &layers.vertices {
        let height = match vertex.kind {
            VertexKind::Box(index) => heights[index] + 2.0 * STUB,
            VertexKind::Label => LABEL_HEIGHT,
            VertexKind::Bend => 0.0,
        };
        tallest[vertex.layer] = tallest[vertex.layer].max(height);
    }
    for (link, ends) in layers.links.iter().enumerate() {
        let side = (places.upper[link] - places.lower[link]).abs();
        let layer = layers.vertices[ends.upper].layer;
        widest[layer] = widest[layer].max(side);
    }
    let mut bands = Vec::with_capacity(layers.count);
    let mut top = 0.0;
    for (height, side) in tallest.into_iter().zip(widest) {
        bands.push((top, top + height));
        top += height + 6.0 + (side * 0.16).min(44.0);
    }
    bands
}
