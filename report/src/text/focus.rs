//! The parts of a backtrace that its hangs are about: which vCPUs and tasks come first, and which function
//! of their stacks.
//!
//! Owns that choice, from facts in the report alone; refuses to own what a frame looks like (`stack`).
//! Called by `parties`.

use crate::{
    Backtrace, Cpu, Fact, Function, Hang, NodeKind, SourceLine, Task, TaskState, WaitEdge,
    WaitKind, WaitNode,
};

/// The place of a vCPU or task in a text: blamed ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A party that is blamed for a hang.
    Blamed,
    /// A party that waits for a blamed one.
    Victim,
    /// A party that takes no part in a hang.
    Bystander,
}

/// The function that comes first in a stack.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// The function with the call that waits, by its source line.
    CallSite(&'a SourceLine),
    /// The function that the hang's evidence names.
    Function(&'a str),
    /// The function around the call that waits, where the stack has another line of it: the call has returned,
    /// and its caller waits in a loop of its own.
    NearCallSite(&'a SourceLine),
}

/// The most lines between a call that waits and another line of its function: functions are longer, but
/// another function that far away is as likely.
const NEAR_LINES: u32 = 40;

impl Place<'_> {
    /// Returns the index of the function at this place, in functions from the innermost on; `None` where none
    /// of them is. Frames without a function are `None` among them.
    pub(super) fn index_in(&self, functions: &[Option<&Function>]) -> Option<usize> {
        let position = |test: &dyn Fn(&Function) -> bool| {
            functions.iter().position(|function| function.is_some_and(test))
        };
        match self {
            Self::CallSite(site) => position(&|function| lines_away(function, site) == Some(0)),
            Self::Function(name) => position(&|function| function.name.as_deref() == Some(name)),
            Self::NearCallSite(site) => index_near(functions, site),
        }
    }
}

/// Returns the number of lines between a function's line and another one of its file; `None` for another
/// file, and for a function without a line.
fn lines_away(function: &Function, site: &SourceLine) -> Option<u32> {
    let line = function.line.filter(|_| function.file.as_deref() == Some(&site.file))?;
    Some(line.abs_diff(site.line))
}

/// Returns the index of the function whose line is the nearest; of a closure, that of the function with it.
fn index_near(functions: &[Option<&Function>], site: &SourceLine) -> Option<usize> {
    let near = functions.iter().enumerate().filter_map(|(index, function)| {
        let away = lines_away((*function)?, site)?;
        (away <= NEAR_LINES).then_some((away, index))
    });
    let (_, nearest) = near.min()?;
    let name = |index: usize| functions[index].and_then(|function| function.name.as_deref());
    let Some(outer) = name(nearest).and_then(|name| name.split("::{").next()) else {
        return Some(nearest);
    };
    (nearest..functions.len()).find(|&index| name(index) == Some(outer)).or(Some(nearest))
}

/// The hangs and waits of one backtrace.
pub(crate) struct Focus<'a> {
    backtrace: &'a Backtrace,
    hangs: Vec<&'a Hang>,
}

impl<'a> Focus<'a> {
    /// Makes the focus of a backtrace and the hangs that it was taken for.
    pub(crate) fn new(backtrace: &'a Backtrace, hangs: impl IntoIterator<Item = &'a Hang>) -> Self {
        Self { backtrace, hangs: hangs.into_iter().collect() }
    }

    /// Returns the rank of a vCPU, which is also that of the task that runs on it.
    pub(crate) fn rank_of_cpu(&self, cpu: &Cpu) -> Rank {
        self.rank(&self.ids_of_cpu(cpu))
    }

    /// Returns the rank of a task.
    pub(crate) fn rank_of_task(&self, task: &Task) -> Rank {
        self.rank(&self.ids_of_task(task))
    }

    /// Returns the functions that may come first in a vCPU's stack, best first.
    pub(super) fn places_of_cpu(&self, cpu: &Cpu) -> Vec<Place<'a>> {
        self.places(&self.ids_of_cpu(cpu))
    }

    /// Returns the functions that may come first in a task's stack, best first.
    pub(super) fn places_of_task(&self, task: &Task) -> Vec<Place<'a>> {
        self.places(&self.ids_of_task(task))
    }

    /// Returns the name of the task that a vCPU runs although it has ended; `None` for any other.
    pub(super) fn ended_task(&self, cpu: &Cpu) -> Option<&'a str> {
        let task = self.task_on(cpu)?;
        let ended = |node: &&WaitNode| {
            matches!(node.kind, NodeKind::Task { state: TaskState::Ended, .. }) && node.id == task
        };
        self.nodes().any(|node| ended(&node)).then_some(task)
    }

    fn rank(&self, ids: &[String]) -> Rank {
        let names = |parties: &[String]| parties.iter().any(|party| ids.contains(party));
        if self.hangs.iter().any(|hang| names(&hang.blamed)) {
            Rank::Blamed
        } else if self.hangs.iter().any(|hang| names(&hang.victims)) {
            Rank::Victim
        } else {
            Rank::Bystander
        }
    }

    fn places(&self, ids: &[String]) -> Vec<Place<'a>> {
        let is_wait = |edge: &&WaitEdge| {
            ids.contains(&edge.from) && !matches!(edge.kind, WaitKind::HeldBy | WaitKind::RunsOn)
        };
        let sites = || self.edges().filter(is_wait).filter_map(|edge| edge.call_site.as_ref());
        // The evidence of a victim has the innermost function that is its own, which may be how every stack
        // of its CPU begins.
        let facts = self.hangs.iter().flat_map(|hang| {
            hang.evidence.iter().filter(|evidence| hang.blamed.contains(&evidence.party))
        });
        let functions = facts.filter_map(|evidence| match &evidence.fact {
            Fact::StoppedAt { function, .. } if ids.contains(&evidence.party) => {
                function.as_deref()
            }
            _ => None,
        });
        let near = sites().map(Place::NearCallSite);
        sites().map(Place::CallSite).chain(functions.map(Place::Function)).chain(near).collect()
    }

    /// Returns the name of a vCPU, and that of the task that runs on it.
    pub(super) fn ids_of_cpu(&self, cpu: &Cpu) -> Vec<String> {
        let task = self.task_on(cpu).map(str::to_owned);
        [format!("cpu{}", cpu.cpu)].into_iter().chain(task).collect()
    }

    /// Returns the names of a task in the graphs of waits.
    pub(super) fn ids_of_task(&self, task: &Task) -> Vec<String> {
        let is_node = |node: &&WaitNode| match node.kind {
            NodeKind::Task { task: number, .. } => number == task.task,
            _ => false,
        };
        self.nodes().filter(is_node).map(|node| node.id.clone()).collect()
    }

    fn task_on(&self, cpu: &Cpu) -> Option<&'a str> {
        self.nodes().find_map(|node| match &node.kind {
            NodeKind::Cpu { cpu: number, task: Some(task), .. } if *number == cpu.cpu => {
                Some(task.as_str())
            }
            _ => None,
        })
    }

    fn nodes(&self) -> impl Iterator<Item = &'a WaitNode> {
        let waits = self.backtrace.waits.iter().flat_map(|graph| &graph.nodes);
        self.hangs.iter().flat_map(|hang| &hang.nodes).chain(waits)
    }

    fn edges(&self) -> impl Iterator<Item = &'a WaitEdge> {
        let waits = self.backtrace.waits.iter().flat_map(|graph| &graph.edges);
        self.hangs.iter().flat_map(|hang| &hang.edges).chain(waits)
    }
}
