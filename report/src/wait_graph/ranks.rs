//! Ranks: who waits is above what it waits for.
//!
//! Owns the direction in which each arrow is drawn, and the rank of each box. A cycle is drawn as a ring: one
//! half goes down, the other one up. Called by `layout`, for one connected part at a time.

use super::cycle;

/// The ranks of a part of the graph.
#[derive(Debug)]
pub struct Ranks {
    /// Rank of each node, from 0 at the top.
    pub rank: Vec<usize>,
    /// True for an arrow that points up.
    pub is_upward: Vec<bool>,
    /// The cycle that is drawn as a ring; `None` where there is none.
    pub ring: Option<Ring>,
}

/// A simple cycle, in two halves that begin at one node and end at another.
#[derive(Debug)]
pub struct Ring {
    /// Arrows of the half that goes down, from the top.
    pub down: Vec<usize>,
    /// Arrows of the half that goes up, from the bottom.
    pub up: Vec<usize>,
}

/// Returns the ranks of `nodes` nodes. `ends`: the nodes that each arrow begins and ends at, which are not the
/// same.
pub fn ranks(nodes: usize, ends: &[(usize, usize)]) -> Ranks {
    let ring = ring(nodes, ends);
    let mut is_upward = vec![false; ends.len()];
    for &arrow in ring.iter().flat_map(|ring| &ring.up) {
        is_upward[arrow] = true;
    }
    let order = break_cycles(nodes, ends, &mut is_upward);
    let below = |arrow: usize| {
        let (from, to) = ends[arrow];
        if is_upward[arrow] { (to, from) } else { (from, to) }
    };
    let mut pairs: Vec<_> = (0..ends.len()).map(below).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let rank = longest_paths(&order, &pairs);
    Ranks { rank, is_upward, ring }
}

/// Returns the ring of the first component with several nodes, if it is a simple cycle.
fn ring(nodes: usize, ends: &[(usize, usize)]) -> Option<Ring> {
    let components = cycle::components(nodes, ends);
    let inside = |&arrow: &usize| components[ends[arrow].0] == components[ends[arrow].1];
    let first = (0..ends.len()).find(inside)?;
    let component = components[ends[first].0];
    let mut next = vec![None; nodes];
    let mut incoming = vec![0_usize; nodes];
    for (arrow, &(from, to)) in ends.iter().enumerate() {
        incoming[to] += 1;
        if components[from] == component && inside(&arrow) && next[from].replace(arrow).is_some() {
            return None;
        }
    }
    let members = (0..nodes).filter(|&node| components[node] == component);
    // Many waiters fit above the top best.
    let top = members.max_by_key(|&node| (incoming[node], std::cmp::Reverse(node)))?;
    let mut down = Vec::new();
    let mut node = top;
    while let Some(arrow) = next[node] {
        down.push(arrow);
        node = ends[arrow].1;
        if node == top {
            break;
        }
    }
    let up = down.split_off(down.len().div_ceil(2));
    Some(Ring { down, up })
}

/// Turns arrows around until there is no cycle. Returns the nodes so that each is after those above it.
fn break_cycles(nodes: usize, ends: &[(usize, usize)], is_upward: &mut [bool]) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut leaving: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for (arrow, &(from, to)) in ends.iter().enumerate() {
        leaving[if is_upward[arrow] { to } else { from }].push(arrow);
    }
    let mut state = vec![State::New; nodes];
    let mut done = Vec::with_capacity(nodes);
    for start in 0..nodes {
        if state[start] != State::New {
            continue;
        }
        state[start] = State::Open;
        let mut path = vec![(start, 0)];
        while let Some((node, followed)) = path.last_mut() {
            let node = *node;
            let Some(&arrow) = leaving[node].get(*followed) else {
                state[node] = State::Done;
                done.push(node);
                path.pop();
                continue;
            };
            *followed += 1;
            let (from, to) = ends[arrow];
            let target = if from == node { to } else { from };
            match state[target] {
                State::New => {
                    state[target] = State::Open;
                    path.push((target, 0));
                }
                State::Open => is_upward[arrow] = !is_upward[arrow],
                State::Done => {}
            }
        }
    }
    done.reverse();
    done
}

/// Returns the ranks: each node is as near to those below it as they allow, and one with more above it than below
/// as near to those.
fn longest_paths(order: &[usize], pairs: &[(usize, usize)]) -> Vec<usize> {
    let mut above = vec![Vec::new(); order.len()];
    let mut below = vec![Vec::new(); order.len()];
    for &(upper, lower) in pairs {
        above[lower].push(upper);
        below[upper].push(lower);
    }
    let mut height = vec![0_usize; order.len()];
    for &node in order.iter().rev() {
        height[node] = below[node].iter().map(|&lower| height[lower] + 1).max().unwrap_or(0);
    }
    let highest = height.iter().copied().max().unwrap_or(0);
    let mut rank: Vec<usize> = height.iter().map(|height| highest - height).collect();
    for &node in order {
        if above[node].len() > below[node].len() {
            rank[node] = above[node].iter().map(|&upper| rank[upper] + 1).max().unwrap_or(0);
        }
    }
    rank
}
