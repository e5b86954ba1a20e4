//! Folding: equal parties in one box, so that a picture of many is readable.
//!
//! Owns which parties are equal: those without waits that do the same, and those that only wait for the same
//! thing. Called by `model`.

use std::collections::BTreeMap;

use super::model::{Arrow, Graph, Mark, PartyBox};
use super::words;

/// The most equal waiters that have a box each, and fewer where there are still more than [`MANY`] boxes.
const MAX_WAITERS: [usize; 3] = [8, 3, 1];
/// The number of boxes from which more of them are folded.
const MANY: usize = 60;

/// The property that the parties of a box share.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// A party without arrows: its kind and its state.
    Apart(&'static str, &'static str, Mark),
    /// A party at which one arrow begins and none ends: its kind, the index of its target and the kind of wait.
    Waiter(&'static str, usize, u8, Mark),
}

/// Returns the graph with its equal parties folded.
pub fn fold(graph: Graph<'_>) -> Graph<'_> {
    let groups = groups(&graph);
    let boxes = |most: usize| {
        let folded = groups.iter().filter(|(likeness, group)| group.len() > alone(likeness, most));
        graph.parties.len() - folded.map(|(_, group)| group.len() - 1).sum::<usize>()
    };
    let few = MAX_WAITERS.into_iter().find(|&most| boxes(most) <= MANY);
    let most = few.unwrap_or(MAX_WAITERS[MAX_WAITERS.len() - 1]);
    let mut leader: Vec<usize> = (0..graph.parties.len()).collect();
    for (likeness, group) in &groups {
        if group.len() > alone(likeness, most) {
            for &member in group {
                leader[member] = group[0];
            }
        }
    }
    merge(graph, &leader)
}

/// Returns the most equal parties that have a box each; `most` for those that have a part in the hang.
fn alone(likeness: &Likeness, most: usize) -> usize {
    match likeness {
        Likeness::Apart(_, _, Mark::None) => 1,
        Likeness::Apart(..) | Likeness::Waiter(..) => most,
    }
}

fn groups(graph: &Graph<'_>) -> BTreeMap<Likeness, Vec<usize>> {
    let mut incoming = vec![0_usize; graph.parties.len()];
    let mut outgoing: Vec<Vec<&Arrow<'_>>> = vec![Vec::new(); graph.parties.len()];
    for arrow in &graph.arrows {
        incoming[arrow.to] += 1;
        outgoing[arrow.from].push(arrow);
    }
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, party) in graph.parties.iter().enumerate() {
        let kind = &party.members[0].kind;
        let likeness = match (incoming[index], outgoing[index].as_slice()) {
            (0, []) => Likeness::Apart(words::noun(kind), words::state(kind), party.mark),
            (0, [arrow]) => {
                Likeness::Waiter(words::noun(kind), arrow.to, arrow.kind() as u8, party.mark)
            }
            _ => continue,
        };
        groups.entry(likeness).or_default().push(index);
    }
    groups
}

/// Returns the graph in which each party is in the box of its leader, which is the first of them.
fn merge<'a>(graph: Graph<'a>, leader: &[usize]) -> Graph<'a> {
    let mut place = vec![0; leader.len()];
    let mut parties: Vec<PartyBox<'a>> = Vec::new();
    for (index, party) in graph.parties.into_iter().enumerate() {
        if leader[index] == index {
            place[index] = parties.len();
            parties.push(party);
        } else {
            place[index] = place[leader[index]];
            parties[place[index]].members.extend(party.members);
        }
    }
    let mut arrows: Vec<Arrow<'a>> = Vec::new();
    let mut of_leader: BTreeMap<usize, usize> = BTreeMap::new();
    for arrow in graph.arrows {
        let (from, to) = (place[arrow.from], place[arrow.to]);
        // A folded party has one arrow.
        let is_folded = parties[from].members.len() > 1;
        match of_leader.get(&from).filter(|_| is_folded) {
            Some(&first) => arrows[first].edges.extend(arrow.edges),
            None => {
                of_leader.insert(from, arrows.len());
                arrows.push(Arrow { from, to, ..arrow });
            }
        }
    }
    Graph { parties, arrows, dangling: graph.dangling }
}
