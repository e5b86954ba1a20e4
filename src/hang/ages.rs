//! Ages: how long each observed value has not changed, in the own time of the vCPU that should change it.
//!
//! Owns how time is counted; refuses to own what an age means (`class`). Updated by the detector with
//! each observation, filled from a kernel's records by `records`. Stored in cores.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes};
use serde::{Deserialize, Serialize};

use super::observation::{Observation, ObservedVcpu, VcpuSample};
use crate::kernel::{CpuActivity, KernelState, Lock, LockKind, Reading, Wait, WaitFor};

/// A span of time, measured in three ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Age {
    /// The vCPU's own time: its thread ran, or was asleep because the vCPU had nothing to run.
    pub own: Duration,
    /// The time in which the vCPU's thread ran.
    pub ran: Duration,
    /// The wall-clock time during which the guest was observed.
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

/// An observed value and the time since it last changed. `K` is what is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchanged<K> {
    key: Option<K>,
    /// The time since the last change.
    pub age: Age,
    /// The number of changes observed.
    pub changes: u32,
}

impl<K> Default for Unchanged<K> {
    fn default() -> Self {
        Self { key: None, age: Age::default(), changes: 0 }
    }
}

impl<K: PartialEq> Unchanged<K> {
    /// Compares the value with the previous one and adds `passed` if they are equal. `None` is a value
    /// that does not exist, which has no age.
    fn observe(&mut self, key: Option<K>, passed: Age) {
        if key.is_some() && key == self.key {
            self.age = self.age.plus(passed);
        } else {
            let changes = self.changes.saturating_add(u32::from(self.key.is_some()));
            *self = Self { key, age: Age::default(), changes };
        }
    }

    /// Makes a value that is known to be unchanged for `age`.
    pub(super) fn with_age(key: K, age: Age) -> Self {
        Self { key: Some(key), age, changes: 0 }
    }

    /// Returns the time since the last change; `None` if the value does not exist.
    pub(super) fn age_if_present(&self) -> Option<Age> {
        self.key.as_ref().map(|_| self.age)
    }

    /// Returns the time since the last change, in own time.
    pub fn own(&self) -> Duration {
        self.age.own
    }
}

/// Key of a wait: the thing waited for, and the start of the wait in nanoseconds of the guest's clock.
pub(super) type WaitKey = (WaitFor, u64);

/// Ages of one CPU's values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuAges {
    /// The count of timer ticks.
    pub tick: Unchanged<u64>,
    /// The count of main loop iterations.
    pub main_loop: Unchanged<u64>,
    /// The spinning wait of the CPU.
    pub wait: Unchanged<WaitKey>,
    /// The spinning wait if it is for another CPU to act, in the own time of that CPU.
    #[serde(default)]
    pub answer: Unchanged<WaitKey>,
    /// The number of finished work items while unfinished ones are queued.
    pub work: Unchanged<u64>,
    /// The longest sleep that a task of the CPU has ended since then: time in which work waited for a sleeper.
    #[serde(default)]
    pub slept: Age,
    /// The number of task switches while a task of the CPU is ready to run.
    pub ready: Unchanged<u64>,
    /// The number of task switches on the CPU.
    pub switches: Unchanged<u64>,
    /// The longest wait that ended since the main loop last advanced: time that is not the CPU's own
    /// fault.
    #[serde(default)]
    pub waited: Age,
    /// The halt state while every sample had interrupts off and no interrupt was counted in between.
    pub interrupts_off: Unchanged<bool>,
    /// Set while every sample was outside HLT and no HLT was counted in between.
    #[serde(default)]
    pub awake: Unchanged<()>,
    /// The number of interrupts taken when the main loop last advanced.
    pub interrupts_before: u64,
    /// The time since the main loop or the tick advanced, whichever was later. Cores call it `nothing`.
    #[serde(rename = "nothing")]
    pub no_progress: Age,
    /// The last sample since then; `None` if there is none. Its timer is unknown once the vCPU has left
    /// the HLT of the sample.
    #[serde(default)]
    pub seen: Option<VcpuSample>,
    /// True once the CPU was sampled with interrupts on, or the host counted an interrupt.
    #[serde(default)]
    pub took_interrupts: bool,
    /// The time for which the CPU has been observed.
    #[serde(default)]
    pub watched: Age,
}

/// Ages of a whole guest's values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ages {
    /// Ages of the CPUs, by CPU number.
    pub cpus: Vec<CpuAges>,
    /// The wait of each task, by task number, in the own time of the task's CPU.
    pub tasks: Vec<Unchanged<WaitKey>>,
    /// The wait of each task that waits for a CPU, in the own time of that CPU.
    #[serde(default)]
    pub answers: Vec<Unchanged<WaitKey>>,
    /// The number of switches to each task while it could run and its CPU does not run it, by task number,
    /// in the own time of the task's CPU.
    #[serde(default)]
    pub not_run: Vec<Unchanged<u64>>,
    /// Flags by task number: true for a task that ran in an interval in which its CPU finished work.
    #[serde(default)]
    pub workers: Vec<bool>,
    /// The holder of each lock, by the lock's address, in the own time of the holder's CPU.
    pub locks: BTreeMap<u64, Unchanged<(Option<u32>, u64)>>,
    /// The number of bytes on the console.
    pub console: Unchanged<u64>,
    /// The number of the panicking CPU.
    #[serde(default)]
    pub panicking: Unchanged<u32>,
}

impl Ages {
    /// Adds the interval between two observations. An interval longer than `longest` counts as `longest`:
    /// the observer itself was not running for the rest. Time in which a debugger has stopped the kernel does
    /// not count.
    pub(super) fn advance(&mut self, last: &Observation, now: &Observation, longest: Duration) {
        if now.kernel.known().is_some_and(KernelState::is_in_debugger) {
            // No CPU could have made progress.
            return;
        }
        let wall = now.at.saturating_sub(last.at).min(longest);
        let passed: Vec<Age> = (0..now.vcpus.len())
            .map(|cpu| {
                let times = |vcpus: &[ObservedVcpu]| vcpus.get(cpu).and_then(|vcpu| vcpu.times);
                passed_for(times(&last.vcpus), times(&now.vcpus), wall)
            })
            .collect();
        // A CPU number that does not exist gets the least time of all: in doubt, time does not count.
        let least = passed.iter().copied().min_by_key(|passed| passed.own);
        let least = least.unwrap_or_else(|| passed_for(None, None, wall));
        let passed_on = |cpu: u32| -> Age { passed.get(cpu as usize).copied().unwrap_or(least) };
        self.cpus.resize_with(now.vcpus.len(), CpuAges::default);
        for (cpu, (ages, vcpu)) in self.cpus.iter_mut().zip(&now.vcpus).enumerate() {
            let before = last.vcpus.get(cpu).map_or_else(HostCounts::default, |vcpu| vcpu.counts);
            ages.advance_vcpu(vcpu, before, passed[cpu]);
            ages.watched = ages.watched.plus(passed[cpu]);
        }
        self.console.observe(Some(now.console_bytes), passed_on(0));
        match &now.kernel {
            Reading::Known(kernel) => {
                self.advance_tasks(last.kernel.known(), kernel, passed_on);
                self.advance_kernel(kernel, passed_on);
            }
            Reading::Unreadable { .. } | Reading::Unknown => self.forget_kernel(),
        }
    }

    /// Updates what is known of tasks beside their waits, from the kernel's state at the last observation
    /// and now.
    fn advance_tasks(
        &mut self,
        last: Option<&KernelState>,
        kernel: &KernelState,
        passed_on: impl Fn(u32) -> Age,
    ) {
        let work_done = |kernel: &KernelState, cpu| Some(kernel.cpu(cpu)?.work_done);
        self.not_run.resize_with(kernel.tasks.len(), Unchanged::default);
        self.workers.resize(kernel.tasks.len(), false);
        let ages = self.not_run.iter_mut().zip(&mut self.workers);
        for (number, (task, (not_run, worker))) in (0..).zip(kernel.tasks.iter().zip(ages)) {
            let waiting = task.as_ref().filter(|task| kernel.awaits_cpu(number, task));
            let passed = passed_on(task.as_ref().map_or(0, |task| task.cpu));
            not_run.observe(waiting.map(|task| task.switches), passed);
            let before = last.and_then(|last| Some((last, last.task(number)?)));
            if let (Some(task), Some((last, before))) = (task, before) {
                let ran = task.switches != before.switches;
                *worker |= ran && work_done(kernel, task.cpu) != work_done(last, task.cpu);
            }
        }
    }

    fn advance_kernel(&mut self, kernel: &KernelState, passed_on: impl Fn(u32) -> Age) {
        self.panicking.observe(kernel.panicking, passed_on(kernel.panicking.unwrap_or(u32::MAX)));
        // The time that passed on the CPU that a waiter waits for.
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
            let (slept, waits) = (age.age, age.changes);
            age.observe(wait.map(Wait::key), passed_on(task.map_or(0, |task| task.cpu)));
            if let Some(cpu) = task.and_then(|task| self.cpus.get_mut(task.cpu as usize))
                && age.changes != waits
            {
                cpu.end_sleep(slept);
            }
            observe_answer(answer, wait);
        }
        self.locks.retain(|address, _| kernel.locks.contains_key(address));
        for (&address, lock) in &kernel.locks {
            let cpu = kernel.holder_cpu(lock);
            // Without a holder the waiters' time counts, and their waits have ages of their own.
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
        self.not_run.clear();
        self.workers.clear();
        self.locks.clear();
        self.panicking = Unchanged::default();
        for cpu in &mut self.cpus {
            let interrupts_off = std::mem::take(&mut cpu.interrupts_off);
            let awake = std::mem::take(&mut cpu.awake);
            *cpu = CpuAges {
                interrupts_off,
                awake,
                watched: cpu.watched,
                took_interrupts: cpu.took_interrupts,
                ..CpuAges::default()
            };
        }
    }

    /// Returns the ages of a CPU; all zero for a CPU that does not exist.
    pub(super) fn cpu(&self, cpu: u32) -> &CpuAges {
        static NO_AGES: LazyLock<CpuAges> = LazyLock::new(CpuAges::default);
        self.cpus.get(cpu as usize).unwrap_or(&NO_AGES)
    }

    /// Returns how long a task has been in its current wait.
    pub(super) fn task(&self, task: u32) -> Age {
        self.tasks.get(task as usize).map_or_else(Age::default, |task| task.age)
    }

    /// Returns how long a task could have run and has not.
    pub(super) fn not_run(&self, task: u32) -> Age {
        self.not_run.get(task as usize).map_or_else(Age::default, |task| task.age)
    }

    /// Returns true for a task that ran in an interval in which its CPU finished work.
    pub(super) fn is_worker(&self, task: u32) -> bool {
        self.workers.get(task as usize).copied().unwrap_or(false)
    }

    /// Returns the time that the CPU awaited by a task has had to answer; `None` if the task waits for no
    /// CPU.
    pub(super) fn answer(&self, task: u32) -> Option<Age> {
        self.answers.get(task as usize).and_then(Unchanged::age_if_present)
    }

    /// Returns how long a lock has had its current holder, or none.
    pub(super) fn lock(&self, address: u64) -> Age {
        self.locks.get(&address).map_or_else(Age::default, |lock| lock.age)
    }

    /// Returns true if a lock changes hands again and again while a waiter has waited for `waited` of
    /// wall-clock time. A lock that has stayed with its present holder for longer does not count: the host
    /// may not be running that holder.
    pub(super) fn changes_hands(&self, address: u64, waited: Duration) -> bool {
        const OFTEN: u32 = 8;
        let passes = |lock: &Unchanged<_>| lock.changes >= OFTEN && lock.age.wall <= waited / 4;
        self.locks.get(&address).is_some_and(passes)
    }
}

impl CpuAges {
    /// Updates what is visible from outside. `before` are the host's counts at the last observation: ten
    /// samples a second can miss what happens in between.
    fn advance_vcpu(&mut self, vcpu: &ObservedVcpu, before: HostCounts, passed: Age) {
        let has_changed = |before: Option<u64>, now: Option<u64>| {
            before.zip(now).is_some_and(|(before, now)| before != now)
        };
        let took_interrupts = has_changed(before.interrupts, vcpu.counts.interrupts);
        let entered_hlt = has_changed(before.halts, vcpu.counts.halts);
        if took_interrupts {
            self.interrupts_off.observe(None, passed);
        }
        if entered_hlt {
            self.awake.observe(None, passed);
        }
        if let Some(VcpuSample { halted, interrupts_on, started, .. }) = vcpu.sample {
            let off = started && !interrupts_on && !took_interrupts;
            self.interrupts_off.observe(off.then_some(halted), passed);
            let awake = started && !halted && !entered_hlt;
            self.awake.observe(awake.then_some(()), passed);
        }
        let is_awake = vcpu.times.is_some_and(|times| !times.asleep);
        let has_left = is_awake || entered_hlt || took_interrupts;
        let earlier = self.seen.map(|seen| match has_left {
            true => VcpuSample { timer_armed: None, ..seen },
            false => seen,
        });
        self.seen = vcpu.sample.or(earlier);
        self.took_interrupts |= vcpu.has_taken_interrupts();
    }

    /// Returns the time for which the CPU has neither ticked nor run its main loop.
    pub(super) fn no_progress(&self) -> Age {
        self.without_sleep(self.no_progress)
    }

    /// Returns an age of the CPU without the time in which it slept, if it executes now: one that slept until
    /// now has just been woken.
    pub(super) fn without_sleep(&self, age: Age) -> Age {
        let executes = self.seen.is_some_and(|seen| !seen.halted);
        if executes { Age { own: age.own.min(age.ran), ..age } } else { age }
    }

    /// Returns true for a CPU that idles until its timer wakes it, as a tickless kernel does.
    pub(super) fn awaits_timer(&self) -> bool {
        self.seen.is_some_and(|seen| seen.awaits_timer())
    }

    /// Counts a sleep of a task that has ended, as far as it lay in the time for which work has been pending.
    fn end_sleep(&mut self, slept: Age) {
        let pending = self.work.age;
        let counted = if slept.own < pending.own { slept } else { pending };
        if counted.own > self.slept.own {
            self.slept = counted;
        }
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
        if self.work.age == Age::default() {
            self.slept = Age::default();
        }
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
    /// Returns the CPU on which a lock's holder runs.
    fn holder_cpu(&self, lock: &Lock) -> Option<u32> {
        let holder = lock.holder?;
        match lock.kind {
            LockKind::Mutex | LockKind::RwSemaphore => self.task(holder).map(|task| task.cpu),
            _ => Some(holder),
        }
    }

    /// Returns the number of times that the tasks of a CPU were switched to.
    fn switches_on(&self, cpu: u32) -> u64 {
        let tasks = self.tasks.iter().flatten().filter(|task| task.cpu == cpu);
        tasks.fold(0, |sum, task| sum.wrapping_add(task.switches))
    }
}

/// Returns the part of an interval that was a vCPU's own time: its thread ran, or slept with nothing to
/// run. In doubt it is less: a thread that waits for a CPU looks like one that has one, and the host
/// counts the wait only when it is over.
pub(super) fn passed_for(before: Option<HostTimes>, now: Option<HostTimes>, wall: Duration) -> Age {
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
    fn own_time_is_time_a_vcpu_ran_or_slept() {
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
    fn without_delay_counts_only_an_interval_slept_through_is_own_time() {
        let slept = |asleep| Some(HostTimes { run: ms(7), delay: None, asleep });
        assert_eq!(passed_for(slept(true), slept(true), ms(100)).own, ms(100));
        assert_eq!(passed_for(slept(false), slept(true), ms(100)).own, ms(0));
    }
}
