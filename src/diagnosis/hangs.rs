//! Hangs as reports have them: parties with names, places with lines, and what the verdict rests on.
//! What the verdict is has been decided in `hang`.

use std::collections::BTreeSet;

use nmiscope_report::{
    Certainty, Cpu, CpuState, Evidence, Fact, Hang, SourceLine, Task, WaitNode, bucket,
};

use super::signature::{self, Moments};
use super::stable::Samples;
use super::waits::{Names, Parties};
use super::{Resolver, milliseconds};
use crate::hang::{self, Ages, Node};
use crate::kernel::KernelState;

/// What the verdicts of one moment rest on.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// What the kernel said of itself.
    pub kernel: Option<&'a KernelState>,
    /// For how long things had not changed.
    pub ages: &'a Ages,
    /// The stacks of those to blame who run on, shortly afterwards.
    pub samples: &'a Samples,
    /// The vCPUs, as the report has them.
    pub cpus: &'a [Cpu],
    /// The tasks that did not run, as the report has them.
    pub tasks: &'a [Task],
    /// When it was, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// Which of the report's backtraces is of that moment.
    pub backtrace: Option<u32>,
}

/// Makes the report's hangs of those that were found.
pub fn hangs(found: &[hang::Hang], grounds: Grounds<'_>, resolver: &Resolver<'_>) -> Vec<Hang> {
    let edges = found.iter().flat_map(|hang| &hang.edges);
    let locks = found.iter().flat_map(|hang| hang.locks.iter().copied());
    let names = Names::of(edges, locks, grounds.kernel, resolver);
    let Grounds { kernel, ages, cpus, .. } = grounds;
    let parties = Parties { kernel, ages, cpus, resolver, names: &names };
    found.iter().map(|hang| Teller { hang, grounds, resolver, parties }.tell()).collect()
}

/// Tells of one hang.
struct Teller<'a> {
    hang: &'a hang::Hang,
    grounds: Grounds<'a>,
    resolver: &'a Resolver<'a>,
    parties: Parties<'a>,
}

impl Teller<'_> {
    fn tell(&self) -> Hang {
        let hang = self.hang;
        let ids = |nodes: &[Node]| -> Vec<String> {
            nodes.iter().map(|&node| self.parties.names.id(node)).collect()
        };
        let (stacks, words) = (self.blamed_stacks(), self.resolver.words());
        let functions =
            stacks.iter().filter_map(|stack| signature::first_function(hang.class, stack, words));
        let locks: Vec<Node> = hang.locks.iter().copied().map(Node::Lock).collect();
        let locks = ids(&locks);
        Hang {
            class: hang.class,
            signature: signature::of(hang.class, &stacks, words),
            bucket: Some(bucket(hang.class, functions, &locks)),
            at_ms: self.grounds.at_ms,
            lasted_ms: milliseconds(hang.age),
            blamed: ids(&hang.blamed),
            locks,
            victims: ids(&hang.victims),
            nodes: self.nodes(),
            edges: hang.edges.iter().map(|edge| self.parties.edge(edge)).collect(),
            evidence: self.evidence(),
            certainty: certainty(&hang.certainty),
            backtrace: self.grounds.backtrace,
            resolved_after_ms: None,
        }
    }

    /// The stacks of everybody who is to blame.
    fn blamed_stacks(&self) -> Vec<Moments<'_>> {
        let stack = |node: &Node| match *node {
            Node::Cpu(cpu) => self.stack_of_cpu(cpu),
            Node::Task(number) => self.stack_of_task(number),
            Node::Lock(_) | Node::Queue(_) => None,
        };
        self.hang.blamed.iter().filter_map(stack).collect()
    }

    /// The host's look, and of a CPU that runs on the samples from after it.
    fn stack_of_cpu(&self, cpu: u32) -> Option<Moments<'_>> {
        let look = &self.cpu(cpu)?.host_stack.as_ref()?.frames[..];
        let samples =
            self.grounds.samples.of(cpu).filter(|_| hang::conduct(self.hang.class).runs_on);
        Some([look].into_iter().chain(samples).collect())
    }

    fn stack_of_task(&self, number: u32) -> Option<Moments<'_>> {
        match self.grounds.tasks.iter().find(|task| task.task == number) {
            Some(task) => Some(vec![&task.host_stack.as_ref()?.frames]),
            // One that runs has its CPU's stack.
            None => self.stack_of_cpu(self.grounds.kernel?.task(number)?.cpu),
        }
    }

    fn cpu(&self, number: u32) -> Option<&Cpu> {
        self.grounds.cpus.get(number as usize)
    }

    fn nodes(&self) -> Vec<WaitNode> {
        let hang = self.hang;
        let cpus = (0..self.grounds.cpus.len() as u32).map(Node::Cpu);
        let ends = hang.edges.iter().flat_map(|edge| [edge.from, edge.to]);
        let named = hang.blamed.iter().chain(&hang.victims).copied();
        let locks = hang.locks.iter().copied().map(Node::Lock);
        let mut nodes: Vec<Node> = cpus.chain(ends).chain(named).chain(locks).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.into_iter().map(|node| self.parties.node(node)).collect()
    }

    fn evidence(&self) -> Vec<Evidence> {
        let hang = self.hang;
        let parties = hang.blamed.iter().chain(&hang.victims).copied();
        let parties = parties.chain(self.cpus_of_sleepers());
        let mut evidence = Vec::new();
        for party in parties {
            let facts = match party {
                Node::Cpu(cpu) => self.facts_of_cpu(cpu),
                Node::Task(task) => self.facts_of_task(task),
                Node::Lock(_) | Node::Queue(_) => Vec::new(),
            };
            let party = self.parties.names.id(party);
            evidence.extend(facts.into_iter().map(|fact| Evidence { party: party.clone(), fact }));
        }
        evidence
    }

    /// The CPUs whose work those have who sleep and are to blame for that.
    fn cpus_of_sleepers(&self) -> BTreeSet<Node> {
        let cpu = |node: &Node| match *node {
            Node::Task(task) if hang::conduct(self.hang.class).has_work => {
                Some(Node::Cpu(self.grounds.kernel?.task(task)?.cpu))
            }
            _ => None,
        };
        self.hang.blamed.iter().filter_map(cpu).collect()
    }

    fn facts_of_cpu(&self, cpu: u32) -> Vec<Fact> {
        let mut facts = Vec::new();
        // Younger than half of the hang: it has nothing to do with it.
        let old = |age: std::time::Duration| (age >= self.hang.age / 2).then(|| milliseconds(age));
        let ages = self.grounds.ages.cpus.get(cpu as usize);
        let activity = self.grounds.kernel.and_then(|kernel| kernel.cpu(cpu));
        if let (Some(ages), Some(activity)) = (ages, activity) {
            let no_tick = old(ages.tick.own()).map(|ms| Fact::NoTick { ms });
            // Counters that go backwards count nothing.
            let interrupts = activity.interrupts.saturating_sub(ages.interrupts_before);
            let no_schedule =
                old(ages.main_loop.own()).map(|ms| Fact::NoSchedule { ms, interrupts });
            let waited = old(ages.wait.own()).map(|ms| Fact::Waited { ms });
            let items = activity.work_queued.saturating_sub(activity.work_done);
            let ran_ms = milliseconds(ages.work.age.ran);
            let undone = old(ages.work.own()).map(|ms| Fact::PendingWork { ms, items, ran_ms });
            let tasks = activity.ready_tasks;
            let not_run = old(ages.ready.own()).map(|ms| Fact::TasksNotRun { ms, tasks });
            facts.extend([no_tick, no_schedule, waited, undone, not_run].into_iter().flatten());
        }
        if activity.is_none()
            && let Some(ages) = ages
        {
            let off = old(ages.interrupts_off.own());
            facts.extend(off.map(|ms| Fact::SeenWithInterruptsOff { ms }));
            let ms = milliseconds(self.grounds.ages.console.own());
            facts.push(Fact::NoOutput { ms });
        }
        if self.hang.class.is_before_ready() {
            facts.push(Fact::NotReady { ms: milliseconds(self.hang.age) });
        }
        facts.extend(self.stood(cpu));
        facts
    }

    fn facts_of_task(&self, task: u32) -> Vec<Fact> {
        let age = self.grounds.ages.tasks.get(task as usize).map(hang::Still::own);
        let waited = age.filter(|age| !age.is_zero());
        waited.map(|age| Fact::Waited { ms: milliseconds(age) }).into_iter().collect()
    }

    /// Where a CPU was stopped.
    fn stood(&self, number: u32) -> Option<Fact> {
        let cpu = self.cpu(number)?;
        let frames = &cpu.host_stack.as_ref()?.frames;
        let frame = frames.first()?;
        let functions = || frames.iter().flat_map(|frame| &frame.functions);
        let name = self.stable_place(number);
        let words = self.resolver.words();
        let function = match name {
            Some(name) => functions().find(|function| function.name.as_deref() == Some(name)),
            // What tells more than that it spins, or halts.
            None => functions().find(|function| {
                function.name.as_deref().is_some_and(|name| !words.is_plumbing(name))
            }),
        };
        let function = function.or_else(|| frame.functions.first().filter(|_| name.is_none()));
        let line = function.and_then(|function| {
            Some(SourceLine { file: function.file.clone()?, line: function.line? })
        });
        let name = name.or_else(|| function?.name.as_deref());
        Some(Fact::StoppedAt {
            halted: matches!(cpu.state, CpuState::Halted | CpuState::ProbablyHalted),
            interrupts_enabled: cpu.interrupts_enabled?,
            nmi_masked: cpu.in_nmi == Some(true),
            address: frame.address.clone(),
            function: name.map(str::to_owned),
            line,
        })
    }

    /// The function that a CPU is in that runs on, whatever that one calls.
    fn stable_place(&self, cpu: u32) -> Option<&str> {
        let moments = self.stack_of_cpu(cpu).filter(|moments| moments.len() > 1)?;
        signature::stable_place(self.hang.class, &moments, self.resolver.words())
    }
}

fn certainty(certainty: &hang::Certainty) -> Certainty {
    match certainty {
        hang::Certainty::Certain => Certainty::Certain,
        hang::Certainty::Likely => Certainty::Likely,
        hang::Certainty::Suspected { lasted, bound } => Certainty::Suspected {
            lasted_ms: milliseconds(*lasted),
            bound_ms: milliseconds(*bound),
        },
        hang::Certainty::Unknown { why } => Certainty::Unknown { reason: why.to_string() },
    }
}
