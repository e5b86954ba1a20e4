//! Hangs as reports have them: parties with names, places with lines, and the evidence for the verdict.
//!
//! Owns that form; refuses to own the verdict itself, which `hang` has made. Called by the parent module.

use std::collections::BTreeSet;

use nmiscope_report::{
    ActivityState, Certainty, Cpu, CpuState, Evidence, Fact, Hang, NodeKind, OfflineState,
    SourceLine, Spin, Task, WaitNode, bucket,
};

use super::own_part::{OwnStack, Party, own_part};
use super::signature::{self, Moments};
use super::spin::{self, PartyStack};
use super::stable::Samples;
use super::waits::{Names, Parties, lock_object};
use super::{Resolver, milliseconds};
use crate::capture::CpuCapture;
use crate::capture::host_stack::UnwoundStack;
use crate::hang::{self, Ages, Node};
use crate::kernel::{KernelState, Wait};

/// Context of the hangs of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The kernel's state; `None` if it is unknown or unreadable.
    pub kernel: Option<&'a KernelState>,
    /// The ages of all observed values.
    pub ages: &'a Ages,
    /// The samples of blamed CPUs that kept executing, taken shortly afterwards.
    pub samples: &'a Samples,
    /// The vCPUs, as in the report.
    pub cpus: &'a [Cpu],
    /// The tasks that did not run, as in the report.
    pub tasks: &'a [Task],
    /// The vCPUs as the capture has them, with unwound frames.
    pub captured: &'a [CpuCapture],
    /// The stacks of tasks that did not run, as captured, by task number.
    pub task_stacks: &'a [Option<UnwoundStack>],
    /// The time of the moment, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// The index of that moment's backtrace in the report; `None` if the report has none.
    pub backtrace: Option<u32>,
}

/// Makes the report's hangs from detected ones.
pub fn hangs(
    found: &[hang::DetectedHang],
    context: Context<'_>,
    resolver: &Resolver<'_>,
) -> Vec<Hang> {
    let edges = found.iter().flat_map(|hang| &hang.edges);
    let locks = found.iter().flat_map(|hang| hang.locks.iter().copied());
    let names = Names::assign(edges, locks, context.kernel, resolver);
    let Context { kernel, ages, cpus, .. } = context;
    let parties = Parties { kernel, ages, cpus, resolver, names: &names };
    found.iter().map(|hang| HangDescriber { hang, context, resolver, parties }.describe()).collect()
}

/// Builder of a hang's report.
struct HangDescriber<'a> {
    hang: &'a hang::DetectedHang,
    context: Context<'a>,
    resolver: &'a Resolver<'a>,
    parties: Parties<'a>,
}

impl HangDescriber<'_> {
    fn describe(&self) -> Hang {
        let hang = self.hang;
        let ids = |nodes: &[Node]| -> Vec<String> {
            nodes.iter().map(|&node| self.parties.names.id(node)).collect()
        };
        let (stacks, vocabulary) = (self.blamed_stacks(), self.resolver.vocabulary());
        let functions = self.functions_of_bucket(&stacks);
        let objects = hang.locks.iter().filter_map(|&lock| lock_object(lock, self.resolver));
        let objects: BTreeSet<String> = objects.collect();
        let locks: Vec<Node> = hang.locks.iter().copied().map(Node::Lock).collect();
        let locks = ids(&locks);
        Hang {
            class: hang.class,
            signature: signature::compute(hang.class, &stacks, &objects, vocabulary),
            bucket: Some(bucket(hang.class, functions, &locks)),
            at_ms: self.context.at_ms,
            lasted_ms: milliseconds(hang.age),
            blamed: ids(&hang.blamed),
            locks,
            victims: ids(&hang.victims),
            nodes: self.nodes(),
            edges: hang.edges.iter().map(|edge| self.parties.edge(edge)).collect(),
            evidence: self.evidence(),
            spins: self.spins(),
            certainty: certainty(&hang.certainty),
            backtrace: self.context.backtrace,
            resolved_after_ms: None,
        }
    }

    /// Returns the stacks of all blamed parties.
    fn blamed_stacks(&self) -> Vec<Moments<'_>> {
        self.stacks_of(&self.hang.blamed)
    }

    fn stacks_of(&self, parties: &[Node]) -> Vec<Moments<'_>> {
        let stack = |node: &Node| match *node {
            Node::Cpu(cpu) => self.stack_of_cpu(cpu),
            Node::Task(number) => self.stack_of_task(number),
            Node::Lock(_) | Node::Queue(_) => None,
        };
        parties.iter().filter_map(stack).map(|stack| stack.moments).collect()
    }

    /// Returns the functions that the bucket names: the innermost ones of the blamed stacks. Where these only
    /// idle, as those of a CPU that has forgotten to free a lock, the functions that wait for the lock say more.
    fn functions_of_bucket<'s>(&'s self, blamed: &[Moments<'s>]) -> Vec<&'s str> {
        let hang = self.hang;
        let state = |node: &Node| match *node {
            Node::Cpu(cpu) => self.cpu(cpu).map(|cpu| (cpu.state, cpu.interrupts_enabled)),
            Node::Task(_) | Node::Lock(_) | Node::Queue(_) => None,
        };
        let all_are = |wanted: fn(CpuState, Option<bool>) -> bool| {
            let is_so = |node: &Node| state(node).is_some_and(|(state, on)| wanted(state, on));
            !hang.blamed.is_empty() && hang.blamed.iter().all(is_so)
        };
        if all_are(|state, _| matches!(state, CpuState::NotStarted | CpuState::InInit)) {
            return vec!["not-started"];
        }
        let idles = all_are(|state, interrupts_enabled| {
            matches!(state, CpuState::Halted | CpuState::ProbablyHalted)
                && interrupts_enabled == Some(true)
        });
        let first = |stack: &Moments<'s>| {
            signature::first_function(hang.class, stack, self.resolver.vocabulary())
        };
        let waiters: Vec<&str> = match idles {
            true => self.stacks_of(&self.lock_waiters()).iter().filter_map(first).collect(),
            false => Vec::new(),
        };
        if waiters.is_empty() { blamed.iter().filter_map(first).collect() } else { waiters }
    }

    /// Returns the parties that wait for one of the hang's locks.
    fn lock_waiters(&self) -> Vec<Node> {
        let hang = self.hang;
        let is_wait = |to: &Node| matches!(to, Node::Lock(lock) if hang.locks.contains(lock));
        hang.edges.iter().filter(|edge| is_wait(&edge.to)).map(|edge| edge.from).collect()
    }

    /// Returns a CPU's own part of its stack at the moment, and in the samples of one that kept executing.
    fn stack_of_cpu(&self, cpu: u32) -> Option<OwnStack<'_>> {
        let activity = self.context.kernel.and_then(|kernel| kernel.cpu(cpu));
        self.stack_on_cpu(cpu, activity.and_then(|cpu| cpu.wait.as_ref()).as_slice())
    }

    /// Returns the own part of the stack of a party that runs on a CPU and waits in these ways.
    fn stack_on_cpu(&self, number: u32, waits: &[&Wait]) -> Option<OwnStack<'_>> {
        let cpu = self.cpu(number)?;
        let look = &cpu.host_stack.as_ref()?.frames[..];
        let samples = self
            .context
            .samples
            .stacks_of(number)
            .filter(|_| hang::behaviour(self.hang.class).keeps_running);
        let moments = [look].into_iter().chain(samples).collect();
        let waits: Vec<SourceLine> =
            waits.iter().filter_map(|wait| self.parties.line(&wait.at)).collect();
        let party = Party {
            class: self.hang.class,
            interrupts_enabled: cpu.interrupts_enabled,
            waits: &waits,
        };
        Some(own_part(party, &moments, self.resolver.vocabulary()))
    }

    fn stack_of_task(&self, number: u32) -> Option<OwnStack<'_>> {
        let kernel = self.context.kernel?;
        let task = kernel.task(number)?;
        let cpu = kernel.cpu(task.cpu);
        let current = cpu.and_then(|cpu| cpu.task);
        let asleep = self.context.tasks.iter().find(|task| task.task == number);
        match asleep.filter(|_| current != Some(number)) {
            Some(asleep) => {
                let moments = vec![&asleep.host_stack.as_ref()?.frames[..]];
                Some(OwnStack { moments, handler: None })
            }
            // A running task has its CPU's stack, and so has one that is about to sleep: it is blocked, and
            // its CPU has not switched from it.
            None if current.is_none_or(|current| current == number) => {
                let waits = [cpu.and_then(|cpu| cpu.wait.as_ref()), task.wait.as_ref()];
                self.stack_on_cpu(task.cpu, &waits.into_iter().flatten().collect::<Vec<_>>())
            }
            None => None,
        }
    }

    fn cpu(&self, number: u32) -> Option<&Cpu> {
        self.context.cpus.get(number as usize)
    }

    fn nodes(&self) -> Vec<WaitNode> {
        let hang = self.hang;
        let cpus = (0..self.context.cpus.len() as u32).map(Node::Cpu);
        let ends = hang.edges.iter().flat_map(|edge| [edge.from, edge.to]);
        let named = hang.blamed.iter().chain(&hang.victims).copied();
        let locks = hang.locks.iter().copied().map(Node::Lock);
        let mut nodes: Vec<Node> = cpus.chain(ends).chain(named).chain(locks).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.into_iter().map(|node| self.node(node)).collect()
    }

    /// Returns a party. A CPU outside the hang that has made no progress since about the same time, which
    /// no record explains, is marked.
    fn node(&self, node: Node) -> WaitNode {
        let mut party = self.parties.node(node);
        let hang = self.hang;
        let is_outside = !hang.blamed.contains(&node) && !hang.victims.contains(&node);
        if let NodeKind::Cpu { cpu, activity, .. } = &mut party.kind
            && *activity == ActivityState::Running
            && is_outside
            && let Some(ages) = self.context.ages.cpus.get(*cpu as usize)
            && is_stuck(ages, hang.age)
        {
            *activity = ActivityState::Stuck;
        }
        party
    }

    /// Returns the words that blamed CPUs spin on, if they spin on anything.
    fn spins(&self) -> Vec<Spin> {
        let behaviour = hang::behaviour(self.hang.class);
        if !behaviour.keeps_running || behaviour.returns_to_main_loop {
            return Vec::new();
        }
        let cpus = (0..).map(Node::Cpu).zip(self.context.captured);
        let cpus = cpus.map(|(node, cpu)| (node, cpu.stack.as_ref()));
        let tasks = (0..).map(Node::Task).zip(self.context.task_stacks);
        let tasks = tasks.map(|(node, stack)| (node, stack.as_ref()));
        let (mut blamed, mut all) = (Vec::new(), Vec::new());
        for (node, stack) in cpus.chain(tasks) {
            let Some(UnwoundStack { frames, .. }) = stack else { continue };
            let party = self.parties.names.id(node);
            all.push(PartyStack { party: party.clone(), frames });
            if self.hang.blamed.contains(&node) {
                blamed.push(PartyStack { party, frames });
            }
        }
        spin::spins(&blamed, &all, self.resolver)
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

    /// Returns the CPUs whose pending work blamed sleeping tasks should do.
    fn cpus_of_sleepers(&self) -> BTreeSet<Node> {
        let cpu = |node: &Node| match *node {
            Node::Task(task) if hang::behaviour(self.hang.class).has_work => {
                Some(Node::Cpu(self.context.kernel?.task(task)?.cpu))
            }
            _ => None,
        };
        self.hang.blamed.iter().filter_map(cpu).collect()
    }

    fn facts_of_cpu(&self, cpu: u32) -> Vec<Fact> {
        let mut facts = Vec::new();
        // A value younger than half of the hang has nothing to do with it.
        let old = |age: std::time::Duration| (age >= self.hang.age / 2).then(|| milliseconds(age));
        let ages = self.context.ages.cpus.get(cpu as usize);
        let activity = self.context.kernel.and_then(|kernel| kernel.cpu(cpu));
        if let (Some(ages), Some(activity)) = (ages, activity) {
            let no_tick = old(ages.tick.own()).map(|ms| Fact::NoTick { ms });
            // A counter that goes backwards counts as zero.
            let interrupts = activity.interrupts.saturating_sub(ages.interrupts_before);
            let no_schedule =
                old(ages.main_loop.own()).map(|ms| Fact::NoSchedule { ms, interrupts });
            let waited = old(ages.wait.own()).map(|ms| Fact::Waited { ms });
            let items = activity.work_queued.saturating_sub(activity.work_done);
            let ran_ms = milliseconds(ages.work.age.ran);
            let pending_work =
                old(ages.work.own()).map(|ms| Fact::PendingWork { ms, items, ran_ms });
            let tasks = activity.ready_tasks;
            let not_run = old(ages.ready.own()).map(|ms| Fact::TasksNotRun { ms, tasks });
            facts.extend(
                [no_tick, no_schedule, waited, pending_work, not_run].into_iter().flatten(),
            );
        }
        if activity.is_none()
            && let Some(ages) = ages
        {
            let off = old(ages.interrupts_off.own());
            facts.extend(off.map(|ms| Fact::SeenWithInterruptsOff { ms }));
            let ms = milliseconds(self.context.ages.console.own());
            facts.push(Fact::NoOutput { ms });
        }
        if self.hang.class.is_before_ready() {
            facts.push(Fact::NotReady { ms: milliseconds(self.hang.age) });
        }
        facts.extend(self.offline(cpu));
        facts.extend(self.stop_position(cpu));
        facts
    }

    fn facts_of_task(&self, task: u32) -> Vec<Fact> {
        let own =
            |ages: Option<std::time::Duration>| ages.filter(|age| !age.is_zero()).map(milliseconds);
        let ages = self.context.ages;
        let waited = own(ages.tasks.get(task as usize).map(hang::Unchanged::own));
        let not_run = own(ages.not_run.get(task as usize).map(hang::Unchanged::own));
        let not_run = not_run.filter(|_| hang::behaviour(self.hang.class).has_work);
        let waited = waited.map(|ms| Fact::Waited { ms });
        let not_run = not_run.map(|ms| Fact::TasksNotRun { ms, tasks: 1 });
        waited.into_iter().chain(not_run).collect()
    }

    /// Returns the state of a CPU that does not run the kernel; `None` for one that does.
    fn offline(&self, number: u32) -> Option<Fact> {
        let by_kernel = || self.context.kernel?.cpu(number).map(|cpu| !cpu.online);
        let how = match self.cpu(number)?.state {
            CpuState::NotStarted => OfflineState::NotStarted,
            CpuState::InInit => OfflineState::InInit,
            CpuState::Reset => OfflineState::Reset,
            _ if by_kernel() != Some(true) => return None,
            CpuState::Halted | CpuState::ProbablyHalted => OfflineState::Halted,
            CpuState::Running => OfflineState::Running,
            CpuState::Unknown | CpuState::NotRecorded => return None,
        };
        Some(Fact::Offline { how })
    }

    /// Returns the place where a CPU was stopped.
    fn stop_position(&self, number: u32) -> Option<Fact> {
        let cpu = self.cpu(number)?;
        let frames = &cpu.host_stack.as_ref()?.frames;
        let frame = frames.first()?;
        let functions = || frames.iter().flat_map(|frame| &frame.functions);
        let name = self.stable_place(number);
        let vocabulary = self.resolver.vocabulary();
        let function = match name {
            Some(name) => functions().find(|function| function.name.as_deref() == Some(name)),
            // The innermost function that says more than that it spins or halts.
            None => functions().find(|function| {
                function.name.as_deref().is_some_and(|name| !vocabulary.is_plumbing(name))
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
            handler: self.stack_of_cpu(number).and_then(|stack| stack.handler),
            address: frame.address.clone(),
            function: name.map(str::to_owned),
            line,
        })
    }

    /// Returns the function that a CPU that kept executing stays in, whatever it calls.
    fn stable_place(&self, cpu: u32) -> Option<&str> {
        let moments = self.stack_of_cpu(cpu)?.moments;
        let moments = Some(moments).filter(|moments| moments.len() > 1)?;
        signature::stable_place(self.hang.class, &moments, self.resolver.vocabulary())
    }
}

/// Returns true for a CPU that has not gone through its main loop since about the time when a hang of this age
/// began, although the host has run it.
fn is_stuck(ages: &hang::CpuAges, age: std::time::Duration) -> bool {
    let stopped = ages.main_loop.age;
    !age.is_zero() && stopped.wall >= age.mul_f64(0.75) && stopped.own >= age / 4
}

fn certainty(certainty: &hang::HangCertainty) -> Certainty {
    match certainty {
        hang::HangCertainty::Certain => Certainty::Certain,
        hang::HangCertainty::Likely => Certainty::Likely,
        hang::HangCertainty::Suspected { lasted, bound } => Certainty::Suspected {
            lasted_ms: milliseconds(*lasted),
            bound_ms: milliseconds(*bound),
        },
        hang::HangCertainty::Unknown { why } => Certainty::Unknown { reason: why.to_string() },
    }
}
