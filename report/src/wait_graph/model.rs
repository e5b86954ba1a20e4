//! Model of the picture: boxes of one party or of several equal ones, and arrows between them.
//!
//! Owns which parties and waits of a report are in a picture, and their marks. Called by the module's interface
//! and by `dot`.

use std::collections::{HashMap, HashSet};

use super::{Waits, cycle, fold};
use crate::{WaitEdge, WaitKind, WaitNode};

/// The part of a box in the hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The parties cause the hang.
    Blamed,
    /// The parties wait for the blamed ones.
    Victim,
    /// The parties are neither blamed nor victims.
    None,
}

/// A box: one party, or several equal ones.
#[derive(Debug)]
pub struct PartyBox<'a> {
    /// The parties of the box, in the report's order; never empty.
    pub members: Vec<&'a WaitNode>,
    pub mark: Mark,
    /// True for a party that waits, through others, for itself.
    pub in_cycle: bool,
    /// The kind of wait that begins here; `None` where none does.
    pub waits: Option<WaitKind>,
    /// True if another party waits for this one, or is held by it.
    pub is_target: bool,
}

/// An arrow: one wait or hold, or the equal ones of the parties of a box.
#[derive(Debug)]
pub struct Arrow<'a> {
    /// Index of the box that the arrow begins at.
    pub from: usize,
    /// Index of the box that the arrow ends at.
    pub to: usize,
    /// The waits, in the report's order; never empty. All have the same kind.
    pub edges: Vec<&'a WaitEdge>,
    /// True between parties of one cycle.
    pub in_cycle: bool,
}

impl Arrow<'_> {
    /// Returns the kind of wait.
    pub fn kind(&self) -> WaitKind {
        self.edges[0].kind
    }
}

/// The boxes and arrows of a picture.
#[derive(Debug)]
pub struct Graph<'a> {
    pub parties: Vec<PartyBox<'a>>,
    pub arrows: Vec<Arrow<'a>>,
    /// Number of waits that are left out, because they name a party that the report does not have.
    pub dangling: usize,
}

/// Returns a graph with a box for each party.
pub fn unfolded<'a>(waits: &Waits<'a>) -> Graph<'a> {
    let mut indices = HashMap::new();
    let mut nodes: Vec<&WaitNode> = Vec::new();
    for node in waits.nodes {
        indices.entry(node.id.as_str()).or_insert_with(|| {
            nodes.push(node);
            nodes.len() - 1
        });
    }
    let mut seen = HashSet::new();
    let (mut arrows, mut dangling) = (Vec::new(), 0);
    for edge in waits.edges {
        let index = |id: &String| indices.get(id.as_str()).copied();
        let (Some(from), Some(to)) = (index(&edge.from), index(&edge.to)) else {
            dangling += 1;
            continue;
        };
        if seen.insert((from, to, edge.kind as u8)) {
            arrows.push(Arrow { from, to, edges: vec![edge], in_cycle: false });
        }
    }
    let ends: Vec<_> = arrows.iter().map(|arrow| (arrow.from, arrow.to)).collect();
    let components = cycle::components(nodes.len(), &ends);
    let mut is_loop = vec![false; nodes.len()];
    for arrow in &mut arrows {
        arrow.in_cycle = components[arrow.from] == components[arrow.to];
        is_loop[arrow.from] |= arrow.in_cycle;
    }
    let blamed: HashSet<&str> = waits.blamed.iter().map(String::as_str).collect();
    let victims: HashSet<&str> = waits.victims.iter().map(String::as_str).collect();
    let mark = |id: &str| match (blamed.contains(id), victims.contains(id)) {
        (true, _) => Mark::Blamed,
        (false, true) => Mark::Victim,
        (false, false) => Mark::None,
    };
    let mut parties: Vec<PartyBox<'_>> = nodes
        .iter()
        .zip(is_loop)
        .map(|(&node, in_cycle)| PartyBox {
            members: vec![node],
            mark: mark(&node.id),
            in_cycle,
            waits: None,
            is_target: false,
        })
        .collect();
    for arrow in &arrows {
        parties[arrow.from].waits.get_or_insert(arrow.kind());
        parties[arrow.to].is_target = true;
    }
    Graph { parties, arrows, dangling }
}

/// Returns the graph of a picture: equal parties share a box.
pub fn graph<'a>(waits: &Waits<'a>) -> Graph<'a> {
    fold::fold(unfolded(waits))
}
