//! Order of the vertices in each layer, with few crossings.
//!
//! Owns the first order, which has no crossings where every party waits for one other at most: a tree grows from
//! what is waited for, or a ring with trees on its outer side. Others are improved by sweeps (barycentres and
//! exchanges of neighbours). Called by `layout`.

use super::layers::Layers;
use super::ranks::Ring;

/// The most sweeps, down or up.
const MAX_SWEEPS: usize = 16;
/// The most links of all sweeps together: a bound on their time.
const MAX_VISITED_LINKS: usize = 200_000;

/// The vertices of each layer, from the left.
pub type Order = Vec<Vec<usize>>;

/// Returns the order of the vertices in each layer.
pub fn order(layers: &Layers, ring: Option<&Ring>) -> Order {
    let mut order = Growth::new(layers).grow(ring);
    let mut crossings = self::crossings(layers, &order);
    let mut best = order.clone();
    let sweeps = MAX_SWEEPS.min(MAX_VISITED_LINKS / (4 * layers.links.len()).max(1));
    for sweep in 0..sweeps {
        if crossings == 0 {
            break;
        }
        sort(layers, &mut order, sweep % 2 == 0);
        exchange(layers, &mut order);
        let now = self::crossings(layers, &order);
        if now < crossings {
            (crossings, best) = (now, order.clone());
        }
    }
    best
}

/// The growth of the first order, vertex by vertex.
struct Growth<'a> {
    layers: &'a Layers,
    order: Order,
    is_placed: Vec<bool>,
}

impl<'a> Growth<'a> {
    fn new(layers: &'a Layers) -> Self {
        let order = vec![Vec::new(); layers.count];
        Self { layers, order, is_placed: vec![false; layers.vertices.len()] }
    }

    fn grow(mut self, ring: Option<&Ring>) -> Order {
        if let Some(ring) = ring {
            self.grow_ring(ring);
        }
        let boxes = 0..self.layers.vertices.len();
        let is_end = |&vertex: &usize| self.layers.vertices[vertex].below.is_empty();
        let (ends, others): (Vec<_>, Vec<_>) = boxes.partition(is_end);
        for vertex in ends.into_iter().chain(others) {
            self.grow_tree(vertex);
        }
        self.order
    }

    /// Places a ring with the trees that end in it: those of its left half on the left, the deepest one first.
    fn grow_ring(&mut self, ring: &Ring) {
        let left = self.half(ring.down.iter());
        let right = self.half(ring.up.iter().rev());
        // Both halves have the ends of the ring.
        let right = right.get(1..right.len().saturating_sub(1)).unwrap_or_default();
        for &vertex in left.iter().chain(right) {
            self.is_placed[vertex] = true;
        }
        for &vertex in left.iter().rev() {
            self.grow_neighbours(vertex);
        }
        for &vertex in left.iter().chain(right) {
            self.order[self.layers.vertices[vertex].layer].push(vertex);
        }
        for &vertex in right {
            self.grow_neighbours(vertex);
        }
    }

    /// Returns the vertices of a half of a ring from its top, with both ends. `arrows` are in the order from the top.
    fn half<'b>(&self, arrows: impl Iterator<Item = &'b usize>) -> Vec<usize> {
        let links = arrows.flat_map(|&arrow| &self.layers.chains[arrow]);
        let links: Vec<_> = links.map(|&link| self.layers.links[link]).collect();
        let mut vertices: Vec<usize> = links.iter().map(|link| link.upper).collect();
        vertices.extend(links.last().map(|link| link.lower));
        vertices
    }

    fn grow_neighbours(&mut self, vertex: usize) {
        let vertex = &self.layers.vertices[vertex];
        let links = &self.layers.links;
        let above = vertex.above.iter().map(|&link| links[link].upper);
        let below = vertex.below.iter().map(|&link| links[link].lower);
        for neighbour in above.chain(below) {
            self.grow_tree(neighbour);
        }
    }

    fn grow_tree(&mut self, root: usize) {
        let mut pending = vec![root];
        while let Some(vertex) = pending.pop() {
            if std::mem::replace(&mut self.is_placed[vertex], true) {
                continue;
            }
            let Self { layers, order, .. } = self;
            let seen = &layers.vertices[vertex];
            order[seen.layer].push(vertex);
            pending.extend(seen.below.iter().rev().map(|&link| layers.links[link].lower));
            pending.extend(seen.above.iter().rev().map(|&link| layers.links[link].upper));
        }
    }
}

/// Returns the place of each vertex in its layer.
pub fn places(layers: &Layers, order: &Order) -> Vec<usize> {
    let mut places = vec![0; layers.vertices.len()];
    for layer in order {
        for (place, &vertex) in layer.iter().enumerate() {
            places[vertex] = place;
        }
    }
    places
}

/// Returns the number of pairs of links that cross.
pub fn crossings(layers: &Layers, order: &Order) -> usize {
    let places = places(layers, order);
    let mut all = 0;
    for layer in order {
        let mut lowers = Vec::new();
        for &vertex in layer {
            let below = layers.vertices[vertex].below.iter();
            let first = lowers.len();
            lowers.extend(below.map(|&link| places[layers.links[link].lower]));
            lowers[first..].sort_unstable();
        }
        all += inversions(&lowers);
    }
    all
}

/// Returns the number of pairs that are not in ascending order.
fn inversions(values: &[usize]) -> usize {
    // A Fenwick tree with the number of values so far, up to each value.
    let mut tree = vec![0_usize; values.iter().copied().max().unwrap_or(0) + 2];
    let mut count = 0;
    for (before, &value) in values.iter().enumerate() {
        let (mut at, mut not_above) = (value + 1, 0);
        while at > 0 {
            not_above += tree[at];
            at &= at - 1;
        }
        count += before - not_above;
        let mut at = value + 1;
        while at < tree.len() {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    count
}

/// Sorts each layer by the mean place of the neighbours in the layer before it.
fn sort(layers: &Layers, order: &mut Order, is_down: bool) {
    let mut places = places(layers, order);
    let all: Vec<usize> =
        if is_down { (0..order.len()).collect() } else { (0..order.len()).rev().collect() };
    for layer in all {
        let mean = |vertex: usize| {
            let seen = &layers.vertices[vertex];
            let links = if is_down { &seen.above } else { &seen.below };
            let neighbours = links.iter().map(|&link| {
                let link = layers.links[link];
                places[if is_down { link.upper } else { link.lower }] as f64
            });
            match links.len() {
                0 => places[vertex] as f64,
                count => neighbours.sum::<f64>() / count as f64,
            }
        };
        let mut keys: Vec<(f64, usize)> =
            order[layer].iter().map(|&vertex| (mean(vertex), vertex)).collect();
        keys.sort_by(|(key, _), (other, _)| key.total_cmp(other));
        for (place, &(_, vertex)) in keys.iter().enumerate() {
            places[vertex] = place;
            order[layer][place] = vertex;
        }
    }
}

/// Exchanges neighbours where that leaves fewer crossings.
fn exchange(layers: &Layers, order: &mut Order) {
    let mut places = places(layers, order);
    for _ in 0..4 {
        let mut is_better = false;
        for layer in order.iter_mut() {
            for left in 1..layer.len() {
                let (first, second) = (layer[left - 1], layer[left]);
                let now = pair_crossings(layers, &places, first, second);
                if now > pair_crossings(layers, &places, second, first) {
                    layer.swap(left - 1, left);
                    (places[first], places[second]) = (left, left - 1);
                    is_better = true;
                }
            }
        }
        if !is_better {
            break;
        }
    }
}

/// Returns the number of crossings between the links of two neighbours, `left` being on the left.
fn pair_crossings(layers: &Layers, places: &[usize], left: usize, right: usize) -> usize {
    let (left, right) = (&layers.vertices[left], &layers.vertices[right]);
    let links = &layers.links;
    let count = |ours: &[usize], others: &[usize], is_above: bool| {
        let end =
            |link: usize| places[if is_above { links[link].upper } else { links[link].lower }];
        ours.iter()
            .map(|&our| others.iter().filter(|&&other| end(our) > end(other)).count())
            .sum::<usize>()
    };
    count(&left.above, &right.above, true) + count(&left.below, &right.below, false)
}
