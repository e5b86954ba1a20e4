//! Guest in miniature: its CPUs idle and its counters move, until a test changes something.

use std::time::Duration;

use nmiscope_machine::HostTimes;

use crate::hang::*;
use crate::kernel::{
    CpuActivity, KernelState, KernelTask, Lock, LockKind, Reading, Site, TaskRunState, Wait,
    WaitFor,
};

pub const POLL: Duration = Duration::from_millis(100);
pub const BOUND: Duration = Duration::from_secs(1);
/// Twice the bound, in polls.
pub const LONG: u32 = 20;

/// Guest whose CPUs idle and whose counters move, and its host.
pub struct Scene {
    pub now: Observation,
    /// Flags by CPU number: true if the host runs the CPU.
    pub hosted: Vec<bool>,
}

impl Scene {
    pub fn new(cpus: usize) -> Self {
        let idle = VcpuSample {
            halted: true,
            interrupts_on: true,
            started: true,
            ..VcpuSample::default()
        };
        let times = HostTimes { asleep: true, delay: Some(Duration::ZERO), run: Duration::ZERO };
        let kernel = KernelState {
            cpus: vec![Some(CpuActivity { online: true, ..Default::default() }); cpus],
            ..Default::default()
        };
        Self {
            now: Observation {
                at: Duration::ZERO,
                vcpus: vec![
                    ObservedVcpu {
                        times: Some(times),
                        sample: Some(idle),
                        ..ObservedVcpu::default()
                    };
                    cpus
                ],
                console_bytes: 0,
                kernel: Reading::Known(kernel),
            },
            hosted: vec![true; cpus],
        }
    }

    pub fn kernel(&mut self) -> &mut KernelState {
        match &mut self.now.kernel {
            Reading::Known(kernel) => kernel,
            other => panic!("a kernel that is known, not {other:?}"),
        }
    }

    pub fn cpu(&mut self, cpu: usize) -> &mut CpuActivity {
        self.kernel().cpus[cpu].as_mut().expect("a CPU that can be read")
    }

    pub fn task(&mut self, name: &str, cpu: u32, state: TaskRunState) -> u32 {
        let task = KernelTask {
            name: name.into(),
            cpu,
            state,
            switches: 1,
            wait: None,
            since_ns: None,
            registers: None,
        };
        self.kernel().tasks.push(Some(task));
        self.kernel().tasks.len() as u32 - 1
    }

    pub fn lock(&mut self, address: u64, kind: LockKind, holder: Option<u32>) {
        let taken_at = Site::default();
        self.kernel().locks.insert(address, Lock { kind, holder, taken_at, taken_ns: 7 });
    }

    pub fn cpu_waits(&mut self, cpu: usize, what: WaitFor) {
        self.cpu(cpu).wait = Some(Wait { what, since_ns: 1, at: Site::default(), ends_by: None });
        self.spins(cpu, false);
    }

    pub fn task_waits(&mut self, task: u32, what: WaitFor) {
        let task = self.kernel().tasks[task as usize].as_mut().expect("a task");
        task.wait = Some(Wait { what, since_ns: 1, at: Site::default(), ends_by: None });
        task.state = TaskRunState::Blocked;
    }

    /// Makes a CPU run without ever sleeping.
    pub fn spins(&mut self, cpu: usize, interrupts_on: bool) {
        let vcpu = &mut self.now.vcpus[cpu];
        vcpu.sample = Some(VcpuSample {
            halted: false,
            interrupts_on,
            started: true,
            ..VcpuSample::default()
        });
        vcpu.times.as_mut().expect("times").asleep = false;
    }

    pub fn halts(&mut self, cpu: usize, interrupts_on: bool) {
        let sample =
            VcpuSample { halted: true, interrupts_on, started: true, ..VcpuSample::default() };
        self.now.vcpus[cpu].sample = Some(sample);
    }

    /// Advances the counters of `moving` by an interval, and the host's of the CPUs that it runs.
    pub fn pass(&mut self, interval: Duration, moving: impl Fn(usize) -> (bool, bool)) {
        self.now.at += interval;
        for cpu in 0..self.hosted.len() {
            let (tick, main_loop) = moving(cpu);
            let activity = self.cpu(cpu);
            activity.tick += u64::from(tick);
            activity.interrupts += u64::from(tick);
            activity.main_loop += u64::from(main_loop);
            let hosted = self.hosted[cpu];
            let times = self.now.vcpus[cpu].times.as_mut().expect("times");
            if hosted && !times.asleep {
                times.run += interval;
            }
        }
    }

    /// Observes for `polls`. Returns the verdict of a detector and its poll, if there is one.
    pub fn watch(
        &mut self,
        polls: u32,
        moving: impl Fn(usize) -> (bool, bool),
    ) -> Option<(u32, Verdict)> {
        self.watch_with(Bounds::new(Some(BOUND)), polls, |scene, _| scene.pass(POLL, &moving))
    }

    pub fn watch_with(
        &mut self,
        bounds: Bounds,
        polls: u32,
        mut pass: impl FnMut(&mut Self, u32),
    ) -> Option<(u32, Verdict)> {
        let mut detector = Detector::new(bounds, POLL);
        detector.set_ready();
        detector.observe(self.now.clone());
        (1..=polls).find_map(|poll| {
            pass(self, poll);
            Some((poll, detector.judge(self.now.clone())?))
        })
    }
}

pub const ALL_MOVES: (bool, bool) = (true, true);
pub const NO_LOOP: (bool, bool) = (true, false);
pub const NO_TICK: (bool, bool) = (false, true);
pub const NO_PROGRESS: (bool, bool) = (false, false);

pub fn stalled(which: &[usize], how: (bool, bool)) -> impl Fn(usize) -> (bool, bool) {
    move |cpu| if which.contains(&cpu) { how } else { ALL_MOVES }
}

pub fn hangs(verdict: Option<(u32, Verdict)>) -> Vec<DetectedHang> {
    match verdict {
        Some((_, Verdict::Hangs(found))) => found.hangs,
        other => panic!("not a hang: {other:?}"),
    }
}

pub fn only(verdict: Option<(u32, Verdict)>) -> DetectedHang {
    let mut hangs = hangs(verdict);
    assert_eq!(hangs.len(), 1, "{hangs:#?}");
    hangs.remove(0)
}

pub fn sample(halted: bool, interrupts_on: bool) -> VcpuSample {
    VcpuSample { halted, interrupts_on, started: true, ..VcpuSample::default() }
}

pub fn cpus(numbers: &[u32]) -> Vec<Node> {
    numbers.iter().copied().map(Node::Cpu).collect()
}
