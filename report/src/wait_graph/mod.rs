//! Wait graph of a hang as a picture, as dot, and in words.
//!
//! Owns the picture: what is folded, where boxes and arrows are, and how they look (`style.css`). Refuses to
//! own facts: everything is in the types. Called by pages and by `--format dot`.
//!
//! The picture is a layered drawing (Sugiyama, Tagawa and Toda, 1981), top to bottom: who waits is above what
//! it waits for. The steps, in their order:
//!
//! | module | step |
//! |---|---|
//! | `model`, `fold`, `cycle` | parties and waits; equal parties in one box; the cycle |
//! | `words` | the text of boxes and arrows |
//! | `ranks` | cycles broken, and a rank for each box |
//! | `layers`, `order` | bends of arrows, and the order in each layer with few crossings |
//! | `coordinates` | the horizontal places in a layer |
//! | `layout` | one drawing for each connected part, and all of them beside each other |
//! | `shapes`, `svg` | the drawing as SVG |
//! | `dot` | the graph for graphviz, which makes its own drawing |
//!
//! In the reports of this tool every party waits for one other at most. Such a graph is drawn without crossings,
//! whatever its size (`order`).

mod coordinates;
mod cycle;
mod dot;
mod fold;
mod layers;
mod layout;
mod model;
mod order;
mod ranks;
mod sentences;
mod shapes;
mod svg;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashMap;

use crate::{Hang, WaitEdge, WaitGraph, WaitNode};
use layout::Layout;
use model::Graph;

pub use dot::dot;
pub use sentences::sentences;

/// Style sheet of the picture. Its colours are the custom properties of the page that the picture is in.
pub const STYLE: &str = include_str!("style.css");

/// The most boxes of a picture, after folding.
const MAX_BOXES: usize = 400;
/// The most arrows of a picture.
const MAX_ARROWS: usize = 800;

/// Parties and their waits, with those that a hang blames and their victims.
#[derive(Debug, Clone, Copy)]
pub struct Waits<'a> {
    /// Parties: CPUs, tasks, locks and queues.
    pub nodes: &'a [WaitNode],
    /// Waits between the parties, and the holders of locks.
    pub edges: &'a [WaitEdge],
    /// Names of the parties that cause the hang.
    pub blamed: &'a [String],
    /// Names of the parties that wait for the blamed ones.
    pub victims: &'a [String],
}

impl<'a> From<&'a Hang> for Waits<'a> {
    fn from(hang: &'a Hang) -> Self {
        let Hang { nodes, edges, blamed, victims, .. } = hang;
        Self { nodes, edges, blamed, victims }
    }
}

impl<'a> From<&'a WaitGraph> for Waits<'a> {
    fn from(graph: &'a WaitGraph) -> Self {
        Self { nodes: &graph.nodes, edges: &graph.edges, blamed: &[], victims: &[] }
    }
}

/// The reason why there is no picture of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPicture {
    /// The graph has no parties.
    #[error("no party is known")]
    Empty,
    /// The graph is too large to be read as a picture.
    #[error(
        "too large for a picture: {boxes} boxes and {arrows} arrows, of {MAX_BOXES} and {MAX_ARROWS} at most"
    )]
    TooLarge {
        /// Number of boxes, after equal parties are folded.
        boxes: usize,
        /// Number of arrows, after equal waits are folded.
        arrows: usize,
    },
    /// The arrows pass too many layers.
    #[error(
        "too entangled for a picture: its arrows have more than {} bends",
        layers::MAX_VERTICES
    )]
    Entangled,
}

/// A picture of a wait graph: its boxes and arrows with their places.
#[derive(Debug)]
pub struct Picture<'a> {
    graph: Graph<'a>,
    texts: Vec<words::BoxText>,
    labels: Vec<String>,
    layout: Layout,
    /// The box of each party.
    boxes: HashMap<&'a str, usize>,
}

impl<'a> Picture<'a> {
    /// Draws a graph.
    ///
    /// # Errors
    /// [`NoPicture`] if the graph has no parties, or too many to be read.
    pub fn new(waits: impl Into<Waits<'a>>) -> Result<Self, NoPicture> {
        let graph = model::graph(&waits.into());
        let (boxes, arrows) = (graph.parties.len(), graph.arrows.len());
        if boxes == 0 {
            return Err(NoPicture::Empty);
        }
        if boxes > MAX_BOXES || arrows > MAX_ARROWS {
            return Err(NoPicture::TooLarge { boxes, arrows });
        }
        let texts: Vec<_> = graph.parties.iter().map(words::text).collect();
        let labels: Vec<_> = graph.arrows.iter().map(words::label).collect();
        let layout = layout::layout(&graph, &texts, &labels).ok_or(NoPicture::Entangled)?;
        let ids = (0..).zip(&graph.parties).flat_map(|(index, party)| {
            party.members.iter().map(move |member| (member.id.as_str(), index))
        });
        let boxes = ids.collect();
        Ok(Self { graph, texts, labels, layout, boxes })
    }

    /// Returns the index of a party's box, which is that of its element's id; `None` if it has none. Folded
    /// parties share a box.
    pub fn box_of(&self, party: &str) -> Option<usize> {
        self.boxes.get(party).copied()
    }

    /// Returns the picture as an SVG element. Ids begin with `prefix`: `{prefix}-node-{index}` is a box. `anchor`
    /// returns the id of the element that a party's box leads to; a box of several leads to that of the first.
    pub fn svg(&self, prefix: &str, anchor: &dyn Fn(&str) -> Option<String>) -> String {
        svg::render(self, prefix, anchor)
    }
}
