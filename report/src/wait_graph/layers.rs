//! Layers: boxes, labels and bends, so that every link leads from one layer to the next.
//!
//! Owns the path of an arrow through the layers. Ranks are the even layers; the label of an arrow is in an odd
//! one, where no box is. Called by `layout`.

use super::ranks::Ranks;

/// The most vertices of a picture: boxes, labels and bends.
pub const MAX_VERTICES: usize = 20_000;

/// A vertex of a layer.
#[derive(Debug)]
pub struct Vertex {
    pub kind: VertexKind,
    pub layer: usize,
    /// Width, with nothing beside it.
    pub width: f64,
    /// Links to the layer above, by their number.
    pub above: Vec<usize>,
    /// Links to the layer below, by their number.
    pub below: Vec<usize>,
}

/// The kinds of vertices in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VertexKind {
    /// A box, by its number in the part.
    Box(usize),
    /// The label of an arrow.
    Label,
    /// A place that an arrow passes.
    Bend,
}

/// A link between vertices of neighbouring layers.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub upper: usize,
    pub lower: usize,
}

/// A part of the graph in layers.
#[derive(Debug)]
pub struct Layers {
    /// Vertices; the first ones are the boxes, in their order.
    pub vertices: Vec<Vertex>,
    pub links: Vec<Link>,
    /// Links of each arrow, from the top.
    pub chains: Vec<Vec<usize>>,
    pub count: usize,
}

impl Layers {
    /// Returns the layers of a part; `None` if there are too many vertices. `widths` are those of the boxes,
    /// `labels` those of the arrows' labels.
    pub fn new(
        widths: &[f64],
        ends: &[(usize, usize)],
        labels: &[f64],
        ranks: &Ranks,
        budget: usize,
    ) -> Option<Self> {
        let boxes = widths.iter().zip(&ranks.rank).enumerate();
        let vertices = boxes.map(|(index, (&width, &rank))| {
            let kind = VertexKind::Box(index);
            Vertex { kind, layer: 2 * rank, width, above: Vec::new(), below: Vec::new() }
        });
        let count = 2 * ranks.rank.iter().copied().max().unwrap_or(0) + 1;
        let vertices = vertices.collect();
        let mut layers = Self { vertices, links: Vec::new(), chains: Vec::new(), count };
        for (arrow, &(from, to)) in ends.iter().enumerate() {
            let (upper, lower) = if ranks.is_upward[arrow] { (to, from) } else { (from, to) };
            let passed = 2 * (ranks.rank[lower] - ranks.rank[upper]) - 1;
            if layers.vertices.len() + passed > budget {
                return None;
            }
            layers.add_chain(upper, lower, labels[arrow]);
        }
        Some(layers)
    }

    fn add_chain(&mut self, upper: usize, lower: usize, label: f64) {
        let (first, last) = (self.vertices[upper].layer, self.vertices[lower].layer);
        // The odd layer next to the middle.
        let middle = ((first + last) / 2 - 1) | 1;
        let mut chain = Vec::with_capacity(last - first);
        let mut previous = upper;
        for layer in first + 1..last {
            let (kind, width) =
                if layer == middle { (VertexKind::Label, label) } else { (VertexKind::Bend, 0.0) };
            self.vertices.push(Vertex { kind, layer, width, above: Vec::new(), below: Vec::new() });
            let vertex = self.vertices.len() - 1;
            chain.push(self.link(previous, vertex));
            previous = vertex;
        }
        chain.push(self.link(previous, lower));
        self.chains.push(chain);
    }

    fn link(&mut self, upper: usize, lower: usize) -> usize {
        let link = self.links.len();
        self.links.push(Link { upper, lower });
        self.vertices[upper].below.push(link);
        self.vertices[lower].above.push(link);
        link
    }
}
