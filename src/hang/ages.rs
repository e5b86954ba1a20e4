//! For how long things have not changed, in the own time of whoever should have changed them.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes};
use serde::{Deserialize, Serialize};

use super::observation::{Observation, ObservedVcpu, VcpuSample};
use crate::kernel::{CpuActivity, KernelState, Lock, LockKind, Reading, Wait, WaitFor};

/// A stretch of time, measured in three ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Age {
    /// In the own time of a vCPU: it ran, or had nothing to run for.
    pub own: Duration,
    /// In the time that it ran.
    pub ran: Duration,
    /// By the wall clock, while somebody watched.
    pub wall: Duration,
}

impl Age {
    fn plus(self, passed: Self) -> Self {
        Self {
            own: self.own + passed.own,
            ran: self.ran + passed.ran,
            wall: self.wall + passed.wall,
        }
    }
}

/// Something that stands still for as long as its key is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchanged<K> {
    key: Option<K>,
    /// Since it changed.
    pub age: Age,
    /// How often it was seen to have changed.
    pub changes: u32,
}

impl<K> Default for Unchanged<K> {
    fn default() -> Self {
        Self { key: None, age: Age::default(), changes: 0 }
    }
}

impl<K: PartialEq> Unchanged<K> {
    /// `None` is for a thing that does not exist, and so cannot stand still.
    fn observe(&mut self, key: Option<K>, passed: Age) {
        if key.is_some() && key == self.key {
            self.age = self.age.plus(passed);
        } else {
            let changes = self.changes.saturating_add(u32::from(self.key.is_some()));
            *self = Self { key, age: Age::default(), changes };
        }
    }

    /// A thing that is known to have stood still for so long.
    pub(super) fn with_age(key: K, age: Age) -> Self {
        Self { key: Some(key), age, changes: 0 }
    }

    /// For how long it has been there; `None` if there is no such thing.
    pub(super) fn age_if_present(&self) -> Option<Age> {
        self.key.as_ref().map(|_| self.age)
    }

    /// Since it changed, in own time.
    pub fn own(&self) -> Duration {
        self.age.own
    }
}

/// Who waits, for what, and since when by the guest's clock.
pub(super) type WaitKey = (WaitFor, u64);

/// What stands still on a CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuAges {
    /// Its timer tick.
    pub tick: Unchanged<u64>,
    /// Its main loop.
    pub main_loop: Unchanged<u64>,
    /// The same spinning wait.
    pub wait: Unchanged<WaitKey>,
    /// The same, if it is for another CPU to do something, in the own time of that one.
    #[serde(default)]
    pub answer: Unchanged<WaitKey>,
    /// Work that it has and does not finish: the number of items that it has.
    pub work: Unchanged<u64>,
    /// Tasks that could run there, while none is switched to.
    pub ready: Unchanged<u64>,
    /// Its tasks: none is switched to.
    pub switches: Unchanged<u64>,
    /// The longest wait that has ended since its main loop moved: it was not its own fault.
    #[serde(default)]
    pub waited: Age,
    /// Seen with interrupts off each time, running or halted, and given none in between.
    pub interrupts_off: Unchanged<bool>,
    /// Seen out of HLT each time, and not gone into it in between.
    #[serde(default)]
    pub awake: Unchanged<()>,
    /// The interrupts that it had taken when its main loop moved last.
    pub interrupts_before: u64,
    /// Since its main loop or its tick moved last, whichever did.
    #[serde(rename = "nothing")]
    pub no_progress: Age,
    /// How it was seen, if it was, since then.
    #[serde(default)]
    pub seen: Option<VcpuSample>,
    /// For how long it has been watched.
    #[serde(default)]
    pub watched: Age,
}

/// What stands still in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ages {
    /// By CPU number.
    pub cpus: Vec<CpuAges>,
    /// The same wait, by task number, in the own time of the task's CPU.
    pub tasks: Vec<Unchanged<WaitKey>>,
    /// The same, if it is for a CPU to do something, in the own time of that one.
    #[serde(default)]
    pub answers: Vec<Unchanged<WaitKey>>,
    /// The same holder, or none, by the lock's address, in the own time of the holder's CPU.
    pub locks: BTreeMap<u64, Unchanged<(Option<u32>, u64)>>,
    /// The console.
    pub console: Unchanged<u64>,
    /// The same CPU panics.
    #[serde(default)]
    pub panicking: Unchanged<u32>,
    /// Some CPU has been seen that takes interrupts, or was counted to.
    #[serde(default)]
    pub took_interrupts: bool,
}

impl Ages {
    /// Adds what happened, or did not, between two observations. An interval longer than `longest`
    /// means that the observer itself was not running: nothing more is known of it.
    pub(super) fn advance(&mut self, last: &Observation, now: &Observation, longest: Duration) {
        let wall = now.at.saturating_sub(last.at).min(longest);
        let passed: Vec<Age> = (0..now.vcpus.len())
            .map(|cpu| {
                let times = |vcpus: &[ObservedVcpu]| vcpus.get(cpu).and_then(|vcpu| vcpu.times);
                passed_for(times(&last.vcpus), times(&now.vcpus), wall)
            })
            .collect();
        // Of a CPU that does not exist, as little as of any: where there is doubt, time does not count.
        let least = passed.iter().copied().min_by_key(|passed| passed.own);
        let least = least.unwrap_or_else(|| passed_for(None, None, wall));
        let passed_on = |cpu: u32| -> Age { passed.get(cpu as usize).copied().unwrap_or(least) };
        self.cpus.resize_with(now.vcpus.len(), CpuAges::default);
        for (cpu, (ages, vcpu)) in self.cpus.iter_mut().zip(&now.vcpus).enumerate() {
            let before = last.vcpus.get(cpu).map_or_else(HostCounts::default, |vcpu| vcpu.counts);
            self.took_interrupts |= ages.advance_vcpu(vcpu, before, passed[cpu]);
            ages.watched = ages.watched.plus(passed[cpu]);
        }
        self.console.observe(Some(now.console_bytes), passed_on(0));
        match &now.kernel {
            Reading::Known(kernel) => self.advance_kernel(kernel, passed_on),
            Reading::Unreadable { .. } | Reading::Unknown => self.forget_kernel(),
        }
    }

    fn advance_kernel(&mut self, kernel: &KernelState, passed_on: impl Fn(u32) -> Age) {
        self.panicking.observe(kernel.panicking, passed_on(kernel.panicking.unwrap_or(u32::MAX)));
        // The CPU that is to answer somebody who waits, and the time that it had for it.
        let vcpus = self.cpus.len();
        let time_of_asked = |wait: Option<&Wait>| match wait.map(|wait| wait.what)? {
            WaitFor::Call(cpu) | WaitFor::Online(cpu) => {
                Some(passed_on(cpu)).filter(|_| (cpu as usize) < vcpus)
            }
            WaitFor::Lock(_) | WaitFor::Queue(_) => None,
        };
        let observe_answer = |answer: &mut Unchanged<WaitKey>, wait: Option<&Wait>| {
            let passed = time_of_asked(wait);
            answer.observe(passed.and(wait).map(Wait::key), passed.unwrap_or_default());
        };
        for (cpu, (ages, activity)) in (0..).zip(self.cpus.iter_mut().zip(&kernel.cpus)) {
            let online = activity.as_ref().filter(|activity| activity.online);
            ages.advance(online, kernel.switches_on(cpu), passed_on(cpu));
            let wait = online.and_then(|activity| activity.wait.as_ref());
            observe_answer(&mut ages.answer, wait);
        }
        self.tasks.resize_with(kernel.tasks.len(), Unchanged::default);
        self.answers.resize_with(kernel.tasks.len(), Unchanged::default);
        let tasks = self.tasks.iter_mut().zip(&mut self.answers).zip(&kernel.tasks);
        for ((age, answer), task) in tasks {
            let task = task.as_ref();
            let wait = task.and_then(|task| task.wait.as_ref());
            age.observe(wait.map(Wait::key), passed_on(task.map_or(0, |task| task.cpu)));
            observe_answer(answer, wait);
        }
        self.locks.retain(|address, _| kernel.locks.contains_key(address));
        for (&address, lock) in &kernel.locks {
            let cpu = kernel.holder_cpu(lock);
            // Nobody has it: then it is the waiters' time that counts, and they have their own.
            let passed = passed_on(cpu.unwrap_or(u32::MAX));
            self.locks
                .entry(address)
                .or_default()
                .observe(Some((lock.holder, lock.taken_ns)), passed);
        }
    }

    fn forget_kernel(&mut self) {
        self.tasks.clear();
        self.answers.clear();
        self.locks.clear();
        self.panicking = Unchanged::default();
        for cpu in &mut self.cpus {
            let interrupts_off = std::mem::take(&mut cpu.interrupts_off);
            let awake = std::mem::take(&mut cpu.awake);
            *cpu = CpuAges { interrupts_off, awake, watched: cpu.watched, ..CpuAges::default() };
        }
    }

    /// Of one CPU; of one that is not there, nothing stands still.
    pub(super) fn cpu(&self, cpu: u32) -> &CpuAges {
        static NOTHING: LazyLock<CpuAges> = LazyLock::new(CpuAges::default);
        self.cpus.get(cpu as usize).unwrap_or(&NOTHING)
    }

    /// How long a task has waited for the same.
    pub(super) fn task(&self, task: u32) -> Age {
        self.tasks.get(task as usize).map_or_else(Age::default, |task| task.age)
    }

    /// How long the CPU that a task waits for has had to answer it, if it waits for one.
    pub(super) fn answer(&self, task: u32) -> Option<Age> {
        self.answers.get(task as usize).and_then(Unchanged::age_if_present)
    }

    /// How long a lock has had the same holder, or none.
    pub(super) fn lock(&self, address: u64) -> Age {
        self.locks.get(&address).map_or_else(Age::default, |lock| lock.age)
    }

    /// Whether a lock goes from hand to hand past somebody who has waited for so long, by the clock.
    /// One that did so once and now stays with a holder does not: the host may not run that one.
    pub(super) fn passes_by(&self, address: u64, waited: Duration) -> bool {
        const OFTEN: u32 = 8;
        let passes = |lock: &Unchanged<_>| lock.changes >= OFTEN && lock.age.wall <= waited / 4;
        self.locks.get(&address).is_some_and(passes)
    }
}

impl CpuAges {
    /// What shows from outside. `before` is what the host had counted at the last observation: ten
    /// looks a second may all miss what happens in between. Returns whether it takes interrupts.
    fn advance_vcpu(&mut self, vcpu: &ObservedVcpu, before: HostCounts, passed: Age) -> bool {
        let moved = |before: Option<u64>, now: Option<u64>| {
            before.zip(now).is_some_and(|(before, now)| before != now)
        };
        let took = moved(before.interrupts, vcpu.counts.interrupts);
        let slept = moved(before.halts, vcpu.counts.halts);
        if took {
            self.interrupts_off.observe(None, passed);
        }
        if slept {
            self.awake.observe(None, passed);
        }
        if let Some(VcpuSample { halted, interrupts_on, started, .. }) = vcpu.sample {
            let off = started && !interrupts_on && !took;
            self.interrupts_off.observe(off.then_some(halted), passed);
            let awake = started && !halted && !slept;
            self.awake.observe(awake.then_some(()), passed);
        }
        self.seen = vcpu.sample.or(self.seen);
        took || vcpu.sample.is_some_and(|sample| sample.started && sample.interrupts_on)
    }

    fn advance(&mut self, activity: Option<&CpuActivity>, switches: u64, passed: Age) {
        let main_loop = activity.map(|activity| activity.main_loop);
        if self.main_loop.key != main_loop {
            self.interrupts_before = activity.map_or(0, |activity| activity.interrupts);
        }
        self.tick.observe(activity.map(|activity| activity.tick), passed);
        self.main_loop.observe(main_loop, passed);
        let wait = activity.and_then(|activity| activity.wait.as_ref());
        let (waited, waits) = (self.wait.age, self.wait.changes);
        self.wait.observe(wait.map(Wait::key), passed);
        if self.main_loop.age == Age::default() {
            self.waited = Age::default();
        } else if self.wait.changes != waits && waited.own > self.waited.own {
            self.waited = waited;
        }
        let ages = [self.tick.age, self.main_loop.age];
        self.no_progress = ages.into_iter().min_by_key(|age| age.wall).unwrap_or_default();
        if self.no_progress == Age::default() {
            self.seen = None;
        }
        let pending_work = activity.filter(|activity| activity.has_work());
        self.work.observe(pending_work.map(|activity| activity.work_done), passed);
        let ready = activity.filter(|activity| activity.ready_tasks > 0);
        self.ready.observe(ready.map(|_| switches), passed);
        self.switches.observe(activity.map(|_| switches), passed);
    }
}

impl Wait {
    pub(super) fn key(&self) -> WaitKey {
        (self.what, self.since_ns)
    }
}

impl KernelState {
    /// The CPU that a lock's holder runs on.
    fn holder_cpu(&self, lock: &Lock) -> Option<u32> {
        let holder = lock.holder?;
        match lock.kind {
            LockKind::Mutex => self.task(holder).map(|task| task.cpu),
            _ => Some(holder),
        }
    }

    /// How often the tasks of a CPU were switched to.
    fn switches_on(&self, cpu: u32) -> u64 {
        let tasks = self.tasks.iter().flatten().filter(|task| task.cpu == cpu);
        tasks.fold(0, |sum, task| sum.wrapping_add(task.switches))
    }
}

/// How much of an interval was a vCPU's own: it ran, or had nothing to run for. Where there is doubt,
/// less: a thread that waits for a CPU is not told from one that has one, and how long it has waited
/// is counted when the wait is over.
fn passed_for(before: Option<HostTimes>, now: Option<HostTimes>, wall: Duration) -> Age {
    let (Some(before), Some(now)) = (before, now) else {
        return Age { own: wall, ran: wall, wall };
    };
    let ran = now.run.saturating_sub(before.run).min(wall);
    let own = match (now.asleep, before.delay.zip(now.delay)) {
        (true, Some((before, now))) => wall.saturating_sub(now.saturating_sub(before)),
        (true, None) if before.asleep => wall,
        _ => ran,
    };
    Age { own, ran, wall }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn times(run: u64, delay: u64, asleep: bool) -> Option<HostTimes> {
        Some(HostTimes { run: ms(run), delay: Some(ms(delay)), asleep })
    }

    #[test]
    fn own_time_is_time_that_a_vcpu_ran_or_had_nothing_to_do() {
        let wall = ms(100);
        let rows = [
            // (before, now, own)
            (times(0, 0, false), times(100, 0, false), 100),
            (times(0, 0, false), times(40, 0, false), 40),
            (times(0, 0, false), times(0, 0, false), 0),
            (times(0, 0, true), times(1, 0, true), 100),
            (times(0, 0, true), times(1, 30, true), 70),
            (times(0, 0, false), times(40, 60, true), 40),
            (times(0, 0, false), times(0, 900, true), 0),
            (times(0, 0, false), times(900, 0, false), 100),
            (None, None, 100),
        ];
        for (before, now, own) in rows {
            assert_eq!(passed_for(before, now, wall).own, ms(own), "{before:?} to {now:?}");
        }
    }

    #[test]
    fn where_the_host_does_not_count_waiting_only_a_thread_that_slept_all_along_has_slept() {
        let slept = |asleep| Some(HostTimes { run: ms(7), delay: None, asleep });
        assert_eq!(passed_for(slept(true), slept(true), ms(100)).own, ms(100));
        assert_eq!(passed_for(slept(false), slept(true), ms(100)).own, ms(0));
    }
}
