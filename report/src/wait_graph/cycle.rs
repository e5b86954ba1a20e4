//! Strongly connected components: the parties that wait, through others, for themselves.
//!
//! Owns Tarjan's algorithm (1972), without recursion: a report may have any number of parties. Called by
//! `model` and `ranks`.

/// The mark of a node that has not been visited.
const UNSEEN: usize = usize::MAX;

/// Returns the number of the strongly connected component of each of `nodes` nodes.
///
/// `ends`: the nodes that each arrow begins and ends at.
pub fn components(nodes: usize, ends: &[(usize, usize)]) -> Vec<usize> {
    Search::new(nodes, ends).run()
}

/// The nodes that arrows lead to, by the nodes that they begin at.
struct Search {
    targets: Vec<Vec<usize>>,
    /// Order of the first visit.
    visits: Vec<usize>,
    /// Earliest visit that is reached from the node.
    lowest: Vec<usize>,
    component: Vec<usize>,
    open: Vec<usize>,
    count: usize,
    found: usize,
}

impl Search {
    fn new(nodes: usize, ends: &[(usize, usize)]) -> Self {
        let mut targets = vec![Vec::new(); nodes];
        for &(from, to) in ends {
            targets[from].push(to);
        }
        Self {
            targets,
            visits: vec![UNSEEN; nodes],
            lowest: vec![0; nodes],
            component: vec![UNSEEN; nodes],
            open: Vec::new(),
            count: 0,
            found: 0,
        }
    }

    fn run(mut self) -> Vec<usize> {
        for node in 0..self.targets.len() {
            if self.visits[node] == UNSEEN {
                self.visit(node);
            }
        }
        self.component
    }

    fn enter(&mut self, node: usize) {
        (self.visits[node], self.lowest[node]) = (self.count, self.count);
        self.count += 1;
        self.open.push(node);
    }

    fn visit(&mut self, start: usize) {
        self.enter(start);
        // Each node of the path with the number of its arrows that have been followed.
        let mut path = vec![(start, 0)];
        while let Some((node, followed)) = path.last_mut() {
            let node = *node;
            let Some(&target) = self.targets[node].get(*followed) else {
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    self.lowest[parent] = self.lowest[parent].min(self.lowest[node]);
                }
                self.leave(node);
                continue;
            };
            *followed += 1;
            if self.visits[target] == UNSEEN {
                self.enter(target);
                path.push((target, 0));
            } else if self.component[target] == UNSEEN {
                self.lowest[node] = self.lowest[node].min(self.visits[target]);
            }
        }
    }

    /// Closes the component whose first node this is.
    fn leave(&mut self, node: usize) {
        if self.lowest[node] != self.visits[node] {
            return;
        }
        while let Some(member) = self.open.pop() {
            self.component[member] = self.found;
            if member == node {
                break;
            }
        }
        self.found += 1;
    }
}
