//! The detector: keeps the ages, and asks for a verdict when one may be due.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ages::Ages;
use super::bounds::{Bounds, Class};
use super::observation::Observation;
use super::verdict::{Evidence, Hang, Verdict};
use crate::kernel::{KernelState, Reading, TaskState, Wait, WaitFor};

/// What comes of looking at a guest that runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// It is worth to stop it for a closer look.
    pub suspicious: bool,
    /// Hangs that are over, each by how many had been told of before it.
    pub over: Vec<usize>,
}

/// Watches one guest.
#[derive(Debug)]
pub struct Detector {
    bounds: Bounds,
    /// The most that one interval between observations counts for.
    longest_interval: Duration,
    last: Option<Observation>,
    ages: Ages,
    ready: bool,
    /// The hangs that have been told of and go on, by how many were told of before them.
    told: BTreeMap<usize, Hang>,
    told_so_far: usize,
}

impl Detector {
    /// A detector that is going to be shown something every `interval`.
    pub fn new(bounds: Bounds, interval: Duration) -> Self {
        Self {
            bounds,
            longest_interval: interval * 2,
            last: None,
            ages: Ages::default(),
            ready: false,
            told: BTreeMap::new(),
            told_so_far: 0,
        }
    }

    /// The guest has become ready, or is one that need not say so: from now on its CPUs have to get
    /// on.
    pub fn set_ready(&mut self) {
        self.ready = true;
        self.last = None;
        self.ages = Ages::default();
    }

    /// The guest goes on after it was stopped, at that time by the clock of the observations: how long
    /// it was stopped does not count.
    pub fn resumed(&mut self, at: Duration) {
        if let Some(last) = &mut self.last {
            last.at = at;
        }
    }

    /// Takes an observation of a guest that runs.
    pub fn observe(&mut self, now: Observation) -> Noticed {
        if self.is_unreadable(&now) {
            return Noticed::default();
        }
        self.advance(now);
        let Some(evidence) = self.evidence() else { return Noticed::default() };
        let over = self.told.iter().filter(|(_, hang)| !evidence.lasts(hang));
        let over: Vec<usize> = over.map(|(&number, _)| number).collect();
        let suspicious = evidence.verdict().is_some();
        for number in &over {
            self.told.remove(number);
        }
        Noticed { suspicious, over }
    }

    /// Takes an observation of a stopped guest, with the states of its vCPUs, and says what is wrong
    /// with it that it has not said before, if anything still is.
    pub fn judge(&mut self, now: Observation) -> Option<Verdict> {
        if self.is_unreadable(&now) {
            // A host that does not run the guest may be why.
            return self.evidence()?.starved().map(Verdict::Starved);
        }
        self.advance(now);
        let verdict = self.evidence()?.verdict()?;
        if let Verdict::Hangs(found) = &verdict {
            let numbers = self.told_so_far..;
            self.told.extend(numbers.zip(found.hangs.iter().cloned()));
            self.told_so_far += found.hangs.len();
        }
        Some(verdict)
    }

    /// Takes an observation of a stopped guest: which of the hangs that were told of still go on.
    pub fn lasting(&mut self, now: Observation) -> Vec<Hang> {
        if self.is_unreadable(&now) {
            return Vec::new();
        }
        self.advance(now);
        let Some(evidence) = self.evidence() else { return Vec::new() };
        self.told.values().filter(|hang| evidence.lasts(hang)).cloned().collect()
    }

    /// Whether an observation says nothing of a kernel that is known and ready. It is left out, so that
    /// what is older keeps its age, and a known kernel is not judged as an unknown one.
    fn is_unreadable(&self, now: &Observation) -> bool {
        self.ready && matches!(now.kernel, Reading::Unreadable { .. })
    }

    /// In how much of its own time the first of all that stands still now is due, if it is going to be.
    /// What is over its bound has been judged, and is not looked at more often for it.
    pub fn due_in(&self) -> Option<Duration> {
        let Self { ages, last, ready, .. } = self;
        match &last.as_ref()?.kernel {
            Reading::Known(KernelState { panicking: Some(_), .. }) => {
                self.first_due([(Class::HardLockup, ages.console.own())])
            }
            _ if !ready => self.first_due([(Class::BootStall, ages.cpu(0).watched.own)]),
            Reading::Known(kernel) => self.first_due(ages_of_known(ages, kernel)),
            Reading::Unknown => self.first_due(ages_of_unknown(ages)),
            Reading::Unreadable { .. } => None,
        }
    }

    fn first_due(&self, ages: impl IntoIterator<Item = (Class, Duration)>) -> Option<Duration> {
        let remaining = |(class, age): (Class, Duration)| {
            let bound = self.bounds.of(class).filter(|_| !age.is_zero())?;
            bound.checked_sub(age).filter(|remaining| !remaining.is_zero())
        };
        ages.into_iter().filter_map(remaining).min()
    }

    fn advance(&mut self, now: Observation) {
        // The first one is compared with itself: from then on things are known to stand still.
        self.ages.advance(self.last.as_ref().unwrap_or(&now), &now, self.longest_interval);
        self.last = Some(now);
    }

    fn evidence(&self) -> Option<Evidence<'_>> {
        let Self { bounds, ages, ready, told, .. } = self;
        Some(Evidence { bounds, ages, now: self.last.as_ref()?, ready: *ready, told })
    }
}

/// What can make a hang of a kernel that is known, by each class that it may come to be of. What sleeps
/// on a queue waits for nobody, and work that is done waits for nothing.
fn ages_of_known(ages: &Ages, kernel: &KernelState) -> impl Iterator<Item = (Class, Duration)> {
    let cpus = ages.cpus.iter().flat_map(|cpu| {
        let undone = cpu.work.own().max(cpu.ready.own());
        [
            (Class::HardLockup, cpu.nothing.own),
            (Class::DeadHalt, cpu.nothing.own),
            (Class::SoftLockup, cpu.main_loop.own()),
            (Class::Deadlock, cpu.wait.own()),
            (Class::LockWait, cpu.wait.own()),
            (Class::Livelock, undone),
            (Class::LostWakeup, undone),
        ]
    });
    let waits = |wait: &Wait| !matches!(wait.what, WaitFor::Queue(_));
    let tasks = ages.tasks.iter().zip(kernel.tasks.iter().map(Option::as_ref));
    let tasks = tasks.filter(move |(_, task)| {
        task.is_some_and(|task| {
            task.state == TaskState::Blocked && task.wait.as_ref().is_some_and(waits)
        })
    });
    let tasks =
        tasks.flat_map(|(age, _)| [(Class::Deadlock, age.own()), (Class::LockWait, age.own())]);
    let answers = ages.cpus.iter().map(|cpu| &cpu.answer).chain(&ages.answers);
    let answers = answers.map(|answer| (Class::LockWait, answer.own()));
    // Its holder may have got it after those who wait had begun to.
    let locks = ages.locks.values().map(|lock| (Class::LockWait, lock.own()));
    cpus.chain(tasks).chain(answers).chain(locks)
}

/// The same of one that is not known. A console at rest is nothing by itself.
fn ages_of_unknown(ages: &Ages) -> impl Iterator<Item = (Class, Duration)> {
    let silent = ages.console.own();
    ages.cpus.iter().flat_map(move |cpu| {
        let off = cpu.interrupts_off.own().min(silent);
        [
            (Class::HardLockup, off),
            (Class::DeadHalt, off),
            (Class::Silent, cpu.awake.own().min(silent)),
        ]
    })
}
