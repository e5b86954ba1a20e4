//! Hangs of one moment: those of a stopped guest, due or not, each with its certainty.
//!
//! Owns what is certain at once, and the age from which a hang is suspected; refuses to own the classes
//! (`class`) and the ages, which are the detector's or, for a guest that was seen once, the kernel's own
//! records. Called by the detector, for dumps, and on attaching.
//!
//! Three cases, by what time adds to them:
//!
//! - A cycle of waits that nothing inside it can end is certain. Records of a stopped guest are of one
//!   moment: a lock's holder is recorded while it holds the lock, and a wait from before its first try
//!   until it has what it waits for, so that of two parties that wait for each other neither can
//!   continue. A party that waits for a lock of its own may just have got it, unless the wait began after
//!   that.
//! - An online CPU in HLT with its interrupts off is likely a hang: only an NMI, an SMI or a reset ends
//!   that state (SDM vol. 2, HLT). A kernel that panics parks its CPUs so, and is left out; so is a CPU that
//!   waits for a paravirtual spinlock, which the hypervisor wakes.
//! - Everything else is suspected until it has lasted for its bound.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ages::Ages;
use super::bounds::Bounds;
use super::class::{self, boot_stall, cpu_lockup, deadlock, lock_wait};
use super::group::{WaiterGroup, groups};
use super::guest::{BootingGuest, KnownGuest, UnknownGuest, sleep_queue};
use super::known;
use super::observation::{Observation, VcpuSample};
use super::unknown;
use super::verdict::{DetectedHang, Detection, Doubt, HangCertainty};
use super::wait_graph::{Edge, EdgeKind, Node, Root, WaitChains};
use crate::kernel::{KernelState, Reading, Wait, WaitFor};

/// The age below which nothing is suspected: twice the interval between observations.
const MIN_SUSPICIOUS_AGE: Duration = Duration::from_millis(200);

/// Number by which a bound is divided for the age from which a hang is suspected.
const BOUND_DIVISOR: u32 = 10;

/// Judges a guest that was seen once: in a dump, or on attaching to it.
pub fn judge_snapshot(now: &Observation, bounds: &Bounds) -> Detection {
    let ages = Ages::from_records(now);
    let patience = now.kernel.known().and_then(|kernel| kernel.patience);
    let bounds =
        &patience.map_or(bounds.clone(), |patience| bounds.clone().with_patience(patience));
    let mut hangs = hangs(now, &ages, bounds, true);
    for hang in hangs.iter_mut().filter(|hang| takes_interrupts(now, hang)) {
        // The tick is late by the guest's clock, but can still come: the VM may have been stopped until
        // now.
        hang.certainty = Moment { now, bounds }.suspicion(hang);
    }
    if hangs.is_empty()
        && let Some(kernel) = now.kernel.known().filter(|kernel| is_undated(kernel))
    {
        let (vcpus, min_wait_age) = (now.vcpus.len(), Duration::ZERO);
        let guest = KnownGuest { bounds, ages: &ages, kernel, vcpus, min_wait_age };
        hangs.extend(undated_waits(&guest));
    }
    Detection { hangs, ages, samples: Vec::new() }
}

/// Returns true for a hang that rests on ticks, if a blamed CPU has interrupts on.
fn takes_interrupts(now: &Observation, hang: &DetectedHang) -> bool {
    class::rests_on_ticks(hang.class)
        && hang.blamed.iter().any(|node| match *node {
            Node::Cpu(cpu) => now
                .vcpus
                .get(cpu as usize)
                .is_some_and(|vcpu| vcpu.sample.is_some_and(|sample| sample.interrupts_on)),
            Node::Task(_) | Node::Lock(_) | Node::Queue(_) => false,
        })
}

/// Returns true for a kernel that records no times and does not panic.
fn is_undated(kernel: &KernelState) -> bool {
    kernel.now_ns.is_none() && kernel.panicking.is_none()
}

/// Returns the hangs of a stopped guest, due or not.
pub(super) fn hangs(
    now: &Observation,
    ages: &Ages,
    bounds: &Bounds,
    ready: bool,
) -> Vec<DetectedHang> {
    // With detection disabled, the default bounds apply.
    let default = Bounds::default();
    let bounds = if bounds.any() { bounds } else { &default };
    let tight = bounds.tightened(|bound| bound.min(MIN_SUSPICIOUS_AGE.max(bound / BOUND_DIVISOR)));
    let known = now.kernel.known().map(|kernel| KnownGuest {
        bounds: &tight,
        ages,
        kernel,
        vcpus: now.vcpus.len(),
        min_wait_age: MIN_SUSPICIOUS_AGE / 2,
    });
    let judge = Moment { now, bounds };
    match (&known, &now.kernel) {
        (Some(guest), _) if guest.kernel.panicking.is_some() || guest.kernel.is_in_debugger() => {
            Vec::new()
        }
        _ if !ready => {
            let guest = BootingGuest { bounds: &tight, ages, known };
            let stall = boot_stall::found(&guest, known::largest_group);
            stall.into_iter().map(|hang| judge.by_age(hang)).collect()
        }
        (Some(guest), _) => judge.known_hangs(guest),
        (None, Reading::Unknown) => {
            let guest = UnknownGuest { bounds: &tight, ages, vcpus: &now.vcpus };
            judge.unknown_hangs(&guest)
        }
        (None, _) => Vec::new(),
    }
}

/// Returns all waits of a moment, however young: of CPUs and of blocked tasks, with the holders of the
/// locks.
pub fn all_waits(kernel: &KernelState, ages: &Ages) -> Vec<Edge> {
    let chains = WaitChains::new(kernel, ages, Duration::ZERO);
    let mut edges = BTreeSet::new();
    for node in chains.waiters() {
        let wait = chains.next(node);
        let holder = wait.filter(|wait| matches!(wait.to, Node::Lock(_)));
        edges.extend(holder.and_then(|wait| chains.next(wait.to)));
        edges.extend(wait);
    }
    for (number, task) in (0..).zip(&kernel.tasks) {
        let queue = task.as_ref().and_then(sleep_queue).map(Node::Queue);
        let edge = |to| Edge { from: Node::Task(number), to, kind: EdgeKind::SleepsOn };
        edges.extend(queue.map(edge));
    }
    edges.into_iter().collect()
}

/// Returns the certainty of a hang that has lasted for its bound, or is reported with one that has.
pub(super) fn certainty_of_due(now: &Observation, hang: &DetectedHang) -> HangCertainty {
    match now.kernel.known() {
        Some(kernel) if is_endless(kernel, hang) => HangCertainty::Certain,
        _ => hang.certainty.clone(),
    }
}

struct Moment<'a> {
    now: &'a Observation,
    /// The bounds that make a hang due.
    bounds: &'a Bounds,
}

impl Moment<'_> {
    fn known_hangs(&self, guest: &KnownGuest<'_>) -> Vec<DetectedHang> {
        let mut hangs = self.cycles(guest);
        hangs.extend(self.dead_halts(guest));
        let found_at_once: BTreeSet<Node> = hangs.iter().flat_map(parties_of).collect();
        let is_found =
            |hang: &DetectedHang| hang.blamed.iter().all(|node| found_at_once.contains(node));
        let aged = known::due(guest).into_iter().filter(|hang| !is_found(hang));
        hangs.extend(aged.map(|hang| self.by_age(hang)));
        hangs.sort_by_key(|hang| hang.class);
        hangs
    }

    fn unknown_hangs(&self, guest: &UnknownGuest<'_>) -> Vec<DetectedHang> {
        let due = UnknownGuest { bounds: self.bounds, ..*guest };
        // Suspected at first: a vCPU that was taken offline is in HLT with interrupts off too.
        let by_age = |hang: DetectedHang| {
            let bound = unknown::bound(&due, &hang);
            by_bound(hang, bound)
        };
        unknown::hang(guest).into_iter().map(by_age).collect()
    }

    /// Returns the cycles of waits that are certain, however young.
    fn cycles(&self, guest: &KnownGuest<'_>) -> Vec<DetectedHang> {
        let chains = WaitChains::new(guest.kernel, guest.ages, Duration::ZERO);
        let all = groups(guest, &chains, |_| false).into_iter();
        let hang = |(root, group): (Root, WaiterGroup)| {
            let Root::Cycle(nodes) = &root else { return None };
            let (class, age) = deadlock::found(guest, nodes)?;
            let blamed = class::rule(class).blames(guest, &root, &group.edges);
            let hang = group.into_hang(guest, (class, age), &root, blamed);
            match is_endless(guest.kernel, &hang) {
                true => Some(DetectedHang { certainty: HangCertainty::Certain, ..hang }),
                // A cycle that can end is found with the other hangs, once it is old enough.
                false => None,
            }
        };
        all.filter_map(hang).collect()
    }

    /// Returns the hang of all CPUs that are halted for good, with the parties that wait for them.
    fn dead_halts(&self, guest: &KnownGuest<'_>) -> Option<DetectedHang> {
        let chains = WaitChains::new(guest.kernel, guest.ages, Duration::ZERO);
        let is_dead = |cpu: u32| {
            let is_halted = |sample: VcpuSample| sample.halted && !sample.interrupts_on;
            let activity = guest.kernel.cpu(cpu);
            let online =
                activity.is_some_and(|activity| activity.online && !activity.waits_in_halt);
            online && self.sample(cpu).is_some_and(is_halted)
        };
        let all = groups(guest, &chains, is_dead).into_iter();
        let hangs = all.filter_map(|(root, group)| match root {
            Root::One(Node::Cpu(cpu)) if is_dead(cpu) => {
                let age = guest.ages.cpu(cpu).no_progress.own;
                let class = cpu_lockup::DEAD_HALT;
                let hang = group.into_hang(guest, (class, age), &root, vec![Node::Cpu(cpu)]);
                // A byte like HLT's before RIP may be the end of another instruction.
                let is_derived = self.sample(cpu).is_some_and(|sample| sample.halt_is_derived);
                Some(if is_derived { self.by_age(hang) } else { hang })
            }
            _ => None,
        });
        hangs.reduce(|mut first, other| {
            first.absorb(other);
            first
        })
    }

    fn sample(&self, cpu: u32) -> Option<VcpuSample> {
        self.now.vcpus.get(cpu as usize)?.sample
    }

    /// Sets a hang's certainty by its age and the bound of its class.
    fn by_age(&self, hang: DetectedHang) -> DetectedHang {
        let bound = hang.bound(self.bounds);
        by_bound(hang, bound)
    }

    fn suspicion(&self, hang: &DetectedHang) -> HangCertainty {
        suspicion(hang, hang.bound(self.bounds))
    }
}

/// Returns true for a cycle of locks in which only another of its parties can end a wait. A single moment
/// cannot decide if a CPU will answer a call: one that spins with interrupts on is found inside its timer's
/// handler, with interrupts off, as likely as not.
pub(super) fn is_endless(kernel: &KernelState, hang: &DetectedHang) -> bool {
    if !hang.class.is_cycle() {
        return false;
    }
    let (blamed, edges) = (&hang.blamed, &hang.edges);
    let inside = |node: &Node| blamed.contains(node);
    let in_cycle = |edge: &&Edge| match edge.kind {
        EdgeKind::HeldBy => inside(&edge.to),
        _ => inside(&edge.from),
    };
    let mut waits = 0;
    let is_endless = edges.iter().filter(in_cycle).all(|edge| match edge.kind {
        EdgeKind::WaitsFor => {
            waits += 1;
            wait_of(kernel, edge.from).is_some_and(|wait| ends_by_holder_alone(kernel, edge, wait))
        }
        EdgeKind::HeldBy => true,
        // `RunsOn`: a kernel may preempt the task.
        EdgeKind::Calls | EdgeKind::BringsUp | EdgeKind::RunsOn | EdgeKind::SleepsOn => false,
    });
    waits > 0 && waits == blamed.len() && is_endless
}

/// Sets a hang's certainty: likely from the age `bound`, and suspected before.
fn by_bound(hang: DetectedHang, bound: Option<Duration>) -> DetectedHang {
    let is_due = bound.is_some_and(|bound| hang.age >= bound);
    let certainty = if is_due { HangCertainty::Likely } else { suspicion(&hang, bound) };
    DetectedHang { certainty, ..hang }
}

pub(super) fn suspicion(hang: &DetectedHang, bound: Option<Duration>) -> HangCertainty {
    HangCertainty::Suspected { lasted: hang.age, bound: bound.unwrap_or(Bounds::DEFAULT) }
}

/// Returns true for a wait for a lock that only the lock's holder can end.
fn ends_by_holder_alone(kernel: &KernelState, edge: &Edge, wait: &Wait) -> bool {
    let WaitFor::Lock(address) = wait.what else { return false };
    let is_held = kernel.locks.get(&address).is_some_and(|lock| match lock.holder() {
        None => false,
        // A party's wait for its own lock may be over already.
        Some(holder) => holder != edge.from || lock.taken_ns < wait.since_ns,
    });
    is_held && wait.ends_by.is_none()
}

fn wait_of(kernel: &KernelState, node: Node) -> Option<&Wait> {
    match node {
        Node::Cpu(cpu) => kernel.cpu(cpu)?.wait.as_ref(),
        Node::Task(task) => kernel.task(task)?.wait.as_ref(),
        Node::Lock(_) | Node::Queue(_) => None,
    }
}

fn parties_of(hang: &DetectedHang) -> impl Iterator<Item = Node> {
    hang.blamed.iter().chain(&hang.victims).copied()
}

/// Returns the waits of a kernel that records no times: their ages are unknown.
fn undated_waits(guest: &KnownGuest<'_>) -> Vec<DetectedHang> {
    let chains = WaitChains::new(guest.kernel, guest.ages, Duration::ZERO);
    let all = groups(guest, &chains, |_| false).into_iter();
    let hang = |(root, group): (Root, WaiterGroup)| {
        // An uncertain cycle may lie between two of the kernel's writes.
        let Root::One(_) = root else { return None };
        let (class, age) = lock_wait::found(guest, &group)?;
        let blamed = class::rule(class).blames(guest, &root, &group.edges);
        let hang = group.into_hang(guest, (class, age), &root, blamed);
        Some(DetectedHang { certainty: HangCertainty::Unknown { why: Doubt::NoPast }, ..hang })
    };
    all.filter_map(hang).collect()
}
