//! Property tests: for any guest memory and any host counts, the detector terminates, does not panic, and
//! blames parties that exist.

use std::collections::BTreeSet;
use std::time::Duration;

use nmiscope_machine::{HostCounts, HostTimes};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::wait_graph::{Root, WaitChains};
use super::*;
use crate::kernel::{
    CpuActivity, KernelState, KernelTask, Lock, LockKind, Reading, Site, TaskRunState, Wait,
    WaitFor,
};

/// Numbers few enough that waits meet, and the largest ones.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..5u32, 1 => Just(u32::MAX - 1), 1 => Just(u32::MAX)]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..5u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..3u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn wait() -> impl Strategy<Value = Option<Wait>> {
    let what = prop_oneof![
        6 => address().prop_map(WaitFor::Lock),
        1 => address().prop_map(WaitFor::Queue),
        2 => number().prop_map(WaitFor::Call),
        2 => number().prop_map(WaitFor::Online),
    ];
    let site = Site { address: u64::MAX, line: Some((String::new(), u32::MAX)) };
    let wait = (what, 0..2u64);
    option::weighted(
        0.8,
        wait.prop_map(move |(what, since_ns)| Wait {
            what,
            since_ns,
            at: site.clone(),
            ends_by: None,
        }),
    )
}

prop_compose! {
    fn cpu()(
        online in prop::bool::weighted(0.9),
        counts in [count(), count(), count(), count(), count()],
        ready_tasks in number(),
        task in option::of(number()),
        wait in wait(),
    ) -> CpuActivity {
        let [tick, main_loop, interrupts, work_queued, work_done] = counts;
        CpuActivity {
            online, tick, main_loop, interrupts, ready_tasks, work_queued, work_done, task, wait,
            tick_ns: None, main_loop_ns: None, waits_in_halt: false, context: None,
        }
    }
}

prop_compose! {
    fn task()(
        cpu in number(),
        state in prop_oneof![
            1 => Just(TaskRunState::Ready),
            1 => Just(TaskRunState::Running),
            4 => Just(TaskRunState::Blocked),
            1 => Just(TaskRunState::Ended),
            1 => any::<u32>().prop_map(TaskRunState::Garbage),
        ],
        switches in count(),
        wait in wait(),
    ) -> KernelTask {
        KernelTask { name: String::new(), cpu, state, switches, wait, since_ns: None, registers: None }
    }
}

prop_compose! {
    fn lock()(
        kind in prop_oneof![
            3 => Just(LockKind::Spin),
            1 => Just(LockKind::Ticket),
            3 => Just(LockKind::Mutex),
            1 => any::<u32>().prop_map(LockKind::Garbage),
        ],
        holder in option::weighted(0.9, number()),
        taken_ns in 0..2u64,
    ) -> Lock {
        Lock { kind, holder, taken_at: Site::default(), taken_ns }
    }
}

prop_compose! {
    fn kernel()(
        panicking in option::weighted(0.05, number()),
        cpus in vec(option::weighted(0.9, cpu()), 0..6),
        tasks in vec(option::weighted(0.9, task()), 0..6),
        locks in btree_map(address(), lock(), 0..6),
    ) -> KernelState {
        KernelState { panicking, cpus, tasks, locks, ..KernelState::default() }
    }
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..400u64).prop_map(Duration::from_millis),
        1 => any::<u64>().prop_map(Duration::from_nanos),
    ]
}

prop_compose! {
    fn vcpu()(
        times in option::weighted(0.9, (duration(), option::of(duration()), any::<bool>())),
        sample in option::weighted(0.9, any::<(bool, bool, bool)>()),
        interrupts in option::of(count()),
        halts in option::of(count()),
    ) -> ObservedVcpu {
        ObservedVcpu {
            times: times.map(|(run, delay, asleep)| HostTimes { run, delay, asleep }),
            sample: sample.map(|(halted, interrupts_on, started)| {
                VcpuSample { halted, interrupts_on, started, ..VcpuSample::default() }
            }),
            counts: HostCounts { interrupts, halts },
        }
    }
}

/// Unrelated guest states, each observed for a number of polls, so that unchanged values age.
fn moments() -> impl Strategy<Value = Vec<(Vec<ObservedVcpu>, u64, Option<KernelState>, u32)>> {
    let moment = (vec(vcpu(), 1..6), count(), option::weighted(0.8, kernel()), 1..20u32);
    vec(moment, 1..4)
}

proptest! {
    #[test]
    fn the_detector_ends_and_blames_parties_that_exist(
        moments in moments(),
        ready in prop::bool::weighted(0.8),
        interval in duration(),
    ) {
        let second = Duration::from_secs(1);
        let mut bounds = Bounds::new(Some(second / 4));
        bounds.set(Class::Silent, Some(second / 2));
        bounds.set(Class::BootStall, Some(second));
        bounds.starved = Some(Duration::MAX);
        let mut detector = Detector::new(bounds, Duration::from_millis(100));
        if ready {
            detector.set_ready();
        }
        let mut at = Duration::ZERO;
        let (mut reported, mut open) = (0, BTreeSet::new());
        for (vcpus, console_bytes, kernel, polls) in moments {
            for _ in 0..polls {
                at = at.saturating_add(interval);
                let now = Observation {
                    at,
                    vcpus: vcpus.clone(),
                    console_bytes,
                    kernel: kernel.clone().map_or(Reading::Unknown, Reading::Known),
                };
                detector.due_in();
                let result = detector.observe(now.clone());
                for number in result.ended {
                    prop_assert!(open.remove(&number), "a hang ended that was not open");
                }
                let verdict = detector.judge(now.clone());
                prop_assert!(!result.suspicious || verdict.is_some(), "a suspicion without a verdict");
                if let Some(Verdict::Hangs(found)) = verdict {
                    for hang in found.hangs {
                        check(&now, &hang)?;
                        open.insert(reported);
                        reported += 1;
                    }
                    prop_assert!(!detector.observe(now).suspicious, "a hang is reported twice");
                }
            }
        }
    }

    #[test]
    fn following_waits_ends_from_every_start(kernel in kernel(), from in number()) {
        let ages = Ages::default();
        let chains = WaitChains::new(&kernel, &ages, Duration::ZERO);
        let most = kernel.cpus.len() + kernel.tasks.len() + kernel.locks.len() + 1;
        for node in [Node::Cpu(from), Node::Task(from), Node::Lock(from.into())] {
            let (path, root) = chains.follow(node);
            prop_assert!(path.len() <= most, "{path:?}");
            prop_assert!(path.windows(2).all(|pair| pair[0].to == pair[1].from), "{path:?}");
            match root {
                Root::One(last) => prop_assert_eq!(chains.next(last), None),
                Root::Cycle(nodes) => {
                    let ends = nodes.iter().map(|&node| chains.next(node).map(|edge| edge.to));
                    let next = nodes.iter().cycle().skip(1).map(|&node| Some(node));
                    prop_assert!(ends.zip(next).all(|(end, next)| end == next), "{nodes:?}");
                }
            }
        }
    }
}

fn check(now: &Observation, hang: &DetectedHang) -> Result<(), TestCaseError> {
    let exists = |node: &Node| match *node {
        Node::Cpu(cpu) => (cpu as usize) < now.vcpus.len(),
        Node::Task(task) => now.kernel.known().is_some_and(|kernel| kernel.task(task).is_some()),
        Node::Lock(_) | Node::Queue(_) => false,
    };
    prop_assert!(!hang.blamed.is_empty() && hang.blamed.iter().all(exists), "{hang:#?}");
    prop_assert!(hang.victims.iter().all(|victim| !hang.blamed.contains(victim)), "{hang:#?}");
    Ok(())
}
