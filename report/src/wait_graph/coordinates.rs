//! Horizontal places: arrows as straight as the widths allow.
//!
//! Owns the places of vertices in their layers, in the given order, and the ports where links begin and end.
//! Every vertex is moved to the mean of its neighbours, as near as those beside it allow: for a layer this is
//! an isotonic regression (Best and Chakravarti, 1990), exact and linear. Called by `layout`.

use super::layers::{Layers, Vertex, VertexKind};
use super::order::{Order, places};

/// Space between boxes beside each other.
const BOX_GAP: f64 = 28.0;
/// Space beside labels and bends.
const LINE_GAP: f64 = 14.0;
/// The least distance between the ports of a box.
pub const PORT_DISTANCE: f64 = 9.0;
/// The greatest distance between two ports of a box, and between more.
const MAX_PAIR_DISTANCE: f64 = 72.0;
const MAX_PORT_DISTANCE: f64 = 36.0;
/// Width at each end of a box's edge that has no ports.
pub const PORT_MARGIN: f64 = 22.0;
/// Number of sweeps, down and up.
const SWEEPS: usize = 12;

/// The horizontal places of a part.
#[derive(Debug)]
pub struct Coordinates {
    /// Centre of each vertex, in pixels from the left.
    pub x: Vec<f64>,
    /// Place of each link at its upper end.
    pub upper: Vec<f64>,
    /// Place of each link at its lower end.
    pub lower: Vec<f64>,
    /// Width of the part of the graph, in pixels.
    pub width: f64,
}

/// Ports of links, relative to the centre of their vertices.
struct Ports {
    upper: Vec<f64>,
    lower: Vec<f64>,
}

/// Returns the horizontal places, from 0 at the left.
pub fn coordinates(layers: &Layers, order: &Order) -> Coordinates {
    let ports = ports(layers, order);
    let mut x = vec![0.0; layers.vertices.len()];
    for layer in order {
        let mut right = 0.0;
        for (place, &vertex) in layer.iter().enumerate() {
            let before = place.checked_sub(1).map(|before| layer[before]);
            right += before.map_or(0.0, |before| distance(layers, before, vertex));
            x[vertex] = right;
        }
    }
    for sweep in 0..SWEEPS {
        let use_both = sweep >= SWEEPS - 3;
        let mut place = |layer: &Vec<usize>, is_down: bool| {
            align(layers, &ports, layer, &mut x, (is_down || use_both, !is_down || use_both));
        };
        if sweep % 2 == 0 {
            order.iter().for_each(|layer| place(layer, true));
        } else {
            order.iter().rev().for_each(|layer| place(layer, false));
        }
    }
    let left = |vertex: usize| x[vertex] - layers.vertices[vertex].width / 2.0;
    let start = (0..x.len()).map(left).fold(f64::INFINITY, f64::min);
    x.iter_mut().for_each(|x| *x -= start);
    let right = |vertex: usize| x[vertex] + layers.vertices[vertex].width / 2.0;
    let width = (0..x.len()).map(right).fold(0.0, f64::max);
    let links = || layers.links.iter().enumerate();
    let upper = links().map(|(link, ends)| x[ends.upper] + ports.upper[link]).collect();
    let lower = links().map(|(link, ends)| x[ends.lower] + ports.lower[link]).collect();
    Coordinates { x, upper, lower, width }
}

/// Returns the least distance between the centres of neighbours.
fn distance(layers: &Layers, left: usize, right: usize) -> f64 {
    let (left, right) = (&layers.vertices[left], &layers.vertices[right]);
    let is_box = |kind| matches!(kind, VertexKind::Box(_));
    let gap = if is_box(left.kind) && is_box(right.kind) { BOX_GAP } else { LINE_GAP };
    f64::midpoint(left.width, right.width) + gap
}

/// Returns the ports: those of a box side by side, in the order of the other ends.
fn ports(layers: &Layers, order: &Order) -> Ports {
    let places = places(layers, order);
    let mut ports =
        Ports { upper: vec![0.0; layers.links.len()], lower: vec![0.0; layers.links.len()] };
    for vertex in &layers.vertices {
        let spread = |links: &[usize], other: &dyn Fn(usize) -> usize, offsets: &mut Vec<f64>| {
            let mut sorted = links.to_vec();
            sorted.sort_by_key(|&link| (places[other(link)], link));
            let usable = (vertex.width - 2.0 * PORT_MARGIN).max(0.0);
            let most = if links.len() == 2 { MAX_PAIR_DISTANCE } else { MAX_PORT_DISTANCE };
            let step = (usable / (links.len().max(2) - 1) as f64).min(most);
            let first = -step * (links.len().saturating_sub(1)) as f64 / 2.0;
            for (place, &link) in sorted.iter().enumerate() {
                offsets[link] = first + step * place as f64;
            }
        };
        spread(&vertex.below, &|link| layers.links[link].lower, &mut ports.upper);
        spread(&vertex.above, &|link| layers.links[link].upper, &mut ports.lower);
    }
    ports
}

/// Moves the vertices of a layer to the mean of their neighbours above, below, or both.
fn align(
    layers: &Layers,
    ports: &Ports,
    layer: &[usize],
    x: &mut [f64],
    (use_above, use_below): (bool, bool),
) {
    // The place of each vertex as it would be if all before it had no width.
    let mut shifts = Vec::with_capacity(layer.len());
    let mut blocks: Vec<Block> = Vec::with_capacity(layer.len());
    let mut shift = 0.0;
    for (place, &vertex) in layer.iter().enumerate() {
        if let Some(before) = place.checked_sub(1) {
            shift += distance(layers, layer[before], vertex);
        }
        shifts.push(shift);
        let (wanted, weight) = wanted(layers, ports, vertex, x, use_above, use_below);
        let mut block = Block { sum: (wanted - shift) * weight, weight, count: 1 };
        while let Some(last) = blocks.pop_if(|last| last.mean() > block.mean()) {
            block.sum += last.sum;
            block.weight += last.weight;
            block.count += last.count;
        }
        blocks.push(block);
    }
    let means = blocks.iter().flat_map(|block| std::iter::repeat_n(block.mean(), block.count));
    for ((&vertex, shift), mean) in layer.iter().zip(shifts).zip(means) {
        x[vertex] = mean + shift;
    }
}

/// Neighbours that touch each other.
struct Block {
    sum: f64,
    weight: f64,
    count: usize,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

/// Returns the mean place of a vertex's neighbours, less its ports, and the weight of its wish.
fn wanted(
    layers: &Layers,
    ports: &Ports,
    vertex: usize,
    x: &[f64],
    use_above: bool,
    use_below: bool,
) -> (f64, f64) {
    let seen = &layers.vertices[vertex];
    let (use_above, use_below) = match seen.kind {
        VertexKind::Label if use_above && use_below => straight_side(layers, seen),
        _ => (use_above, use_below),
    };
    let (mut sum, mut count) = (0.0, 0_u32);
    for &link in seen.above.iter().filter(|_| use_above) {
        sum += x[layers.links[link].upper] + ports.upper[link] - ports.lower[link];
        count += 1;
    }
    for &link in seen.below.iter().filter(|_| use_below) {
        sum += x[layers.links[link].lower] + ports.lower[link] - ports.upper[link];
        count += 1;
    }
    match (count, seen.kind) {
        // It goes where the others let it.
        (0, _) => (x[vertex], 0.1),
        (count, VertexKind::Bend) => (sum / f64::from(count), 4.0),
        (count, VertexKind::Box(_) | VertexKind::Label) => (sum / f64::from(count), 1.0),
    }
}

/// Returns the side, above or below, on which the line of a label is straight: that of the box which fewer links
/// share. Between bends it is both.
fn straight_side(layers: &Layers, label: &Vertex) -> (bool, bool) {
    let ends = |links: &[usize]| links.first().map(|&link| layers.links[link]);
    let above = ends(&label.above).map(|link| &layers.vertices[link.upper]);
    let below = ends(&label.below).map(|link| &layers.vertices[link.lower]);
    let is_box = |vertex: &&Vertex| matches!(vertex.kind, VertexKind::Box(_));
    match (above.filter(is_box), below.filter(is_box)) {
        (None, None) => (true, true),
        (Some(_), None) => (true, false),
        (None, Some(_)) => (false, true),
        (Some(above), Some(below)) => {
            let is_above = above.below.len() <= below.above.len();
            (is_above, !is_above)
        }
    }
}
