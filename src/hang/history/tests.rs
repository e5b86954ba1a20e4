//! Tests of the recorder by intervals whose parts are worked out by hand.

use super::*;
use crate::hang::{Class, HangCertainty};
use crate::kernel::{KernelState, Reading};

const LONGEST: Duration = Duration::from_millis(200);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Guest with one vCPU, its host and its kernel.
struct Guest {
    recorder: Recorder,
    now: Observation,
    kernel: KernelState,
}

impl Guest {
    fn new(at: u64) -> Self {
        let times = HostTimes { run: ms(0), delay: Some(ms(0)), asleep: false };
        let vcpu = ObservedVcpu { times: Some(times), ..ObservedVcpu::default() };
        let now = Observation { at: ms(at), vcpus: vec![vcpu], ..Observation::default() };
        let cpu = CpuActivity { online: true, ..CpuActivity::default() };
        let kernel = KernelState { cpus: vec![Some(cpu)], ..KernelState::default() };
        let mut guest = Self { recorder: Recorder::default(), now, kernel };
        guest.observe();
        guest
    }

    fn observe(&mut self) -> bool {
        self.now.kernel = Reading::Known(self.kernel.clone());
        self.recorder.observe(&self.now, LONGEST)
    }

    /// Passes an interval in which the vCPU ran for a time and ticked as often.
    fn pass(&mut self, interval: u64, ran: u64, ticks: u64) -> bool {
        self.now.at += ms(interval);
        self.now.vcpus[0].times.as_mut().unwrap().run += ms(ran);
        self.kernel.cpus[0].as_mut().unwrap().tick += ticks;
        self.observe()
    }

    fn asleep(&mut self, asleep: bool) {
        self.now.vcpus[0].times.as_mut().unwrap().asleep = asleep;
    }

    fn history(&self) -> History {
        self.recorder.past_minute().unwrap().history
    }

    fn cpu(&self) -> CpuHistory {
        self.history().cpus.remove(0)
    }
}

fn series(numbers: &[u32]) -> Series {
    numbers.iter().copied().map(Some).collect()
}

#[test]
fn intervals_of_half_a_second_are_summed() {
    let mut guest = Guest::new(0);
    let new: Vec<bool> = (0..7).map(|_| guest.pass(100, 40, 10)).collect();
    assert_eq!(new, [true, false, false, false, false, true, false]);
    let history = guest.history();
    assert_eq!((history.starts_at_ms, history.ends_at_ms, history.slot_ms), (0.0, 700.0, 500));
    assert_eq!(history.wall_ms, series(&[500, 200]));
    assert_eq!(history.stopped_ms, None);
    let cpu = guest.cpu();
    assert_eq!(cpu.ticks, Some(series(&[50, 20])));
    assert_eq!(cpu.ran_ms, Some(series(&[200, 80])));
    assert_eq!(cpu.own_ms, Some(series(&[200, 80])));
    assert_eq!(cpu.halts, None, "the host does not count them");
}

#[test]
fn times_are_divided_at_the_border_of_slots_and_counts_are_not() {
    let mut guest = Guest::new(400);
    // 100 ms of 200 lie before 500 ms.
    guest.pass(200, 120, 20);
    let cpu = guest.cpu();
    assert_eq!(guest.history().wall_ms, series(&[100, 100]));
    assert_eq!(cpu.ran_ms, Some(series(&[60, 60])));
    assert_eq!(cpu.ticks, Some(Series(vec![None, Some(20)])));
}

#[test]
fn idle_time_is_own_time() {
    let mut guest = Guest::new(0);
    guest.asleep(true);
    guest.pass(100, 0, 0);
    for _ in 0..4 {
        guest.pass(100, 10, 0);
    }
    let cpu = guest.cpu();
    assert_eq!((cpu.own_ms, cpu.ran_ms), (Some(series(&[500])), Some(series(&[40]))));
}

#[test]
fn process_that_the_host_stopped_gives_its_vcpus_no_own_time() {
    let mut guest = Guest::new(0);
    guest.asleep(true);
    guest.pass(100, 0, 1);
    // For three seconds nothing ran, the tool included; the vCPU sleeps before and after.
    guest.pass(3000, 0, 1);
    let history = guest.history();
    assert_eq!(history.wall_ms, series(&[500, 500, 500, 500, 500, 500, 100]));
    let cpu = guest.cpu();
    // The first 100 ms ended asleep without a sleep before; the last 200 ms count.
    assert_eq!(cpu.own_ms, Some(series(&[100, 0, 0, 0, 0, 100, 100])));
    // The time of the tick is not known.
    assert_eq!(cpu.ticks, Some(Series(vec![Some(1), None, None, None, None, None, Some(1)])));
}

#[test]
fn running_time_of_a_long_interval_is_spread_evenly() {
    let mut guest = Guest::new(0);
    guest.pass(2000, 1000, 100);
    assert_eq!(guest.cpu().ran_ms, Some(series(&[250, 250, 250, 250])));
}

#[test]
fn ring_keeps_a_minute() {
    let mut guest = Guest::new(0);
    for tick in 0..1_000 {
        guest.pass(100, 100, u64::from(tick == 0));
    }
    let history = guest.history();
    assert_eq!((history.starts_at_ms, history.ends_at_ms), (39_500.0, 100_000.0));
    assert_eq!(history.wall_ms, series(&[500; SLOTS]));
    assert_eq!(guest.cpu().ticks, Some(series(&[0; SLOTS])), "the first tick is forgotten");
    assert_eq!(guest.cpu().ran_ms, Some(series(&[500; SLOTS])));
}

#[test]
fn clock_that_jumps_forward_leaves_a_minute() {
    let mut guest = Guest::new(0);
    guest.pass(100, 100, 1);
    guest.pass(1_000_000_000, 0, 1);
    guest.pass(100, 100, 1);
    let history = guest.history();
    assert_eq!(history.ends_at_ms, 1_000_000_200.0);
    assert_eq!(history.wall_ms.0.len(), SLOTS);
    let ticks = guest.cpu().ticks.unwrap();
    assert_eq!((ticks.get(0), ticks.get(SLOTS - 2), ticks.get(SLOTS - 1)), (None, None, Some(2)));
}

#[test]
fn clock_that_jumps_backward_adds_nothing() {
    let mut guest = Guest::new(5_000);
    guest.pass(100, 100, 1);
    guest.now.at = ms(1_000);
    guest.observe();
    guest.now.at = ms(5_100);
    guest.pass(100, 100, 1);
    assert_eq!(guest.history().wall_ms, series(&[200]));
    assert_eq!(guest.cpu().ticks, Some(series(&[2])));
}

#[test]
fn stopped_time_is_marked_and_not_observed() {
    let mut guest = Guest::new(0);
    guest.pass(100, 100, 10);
    guest.recorder.resumed(ms(600));
    guest.now.at = ms(600);
    guest.pass(100, 100, 10);
    let history = guest.history();
    assert_eq!(history.wall_ms, series(&[100, 100]));
    assert_eq!(history.stopped_ms, Some(series(&[400, 100])));
    assert_eq!(guest.cpu().own_ms, Some(series(&[100, 100])));
    assert_eq!(guest.cpu().ticks, Some(series(&[10, 10])));
}

#[test]
fn counter_that_cannot_be_read_for_a_while_is_not_lost() {
    let mut guest = Guest::new(0);
    guest.pass(100, 0, 10);
    guest.now.at += ms(100);
    guest.now.kernel = Reading::Unreadable { unreadable: "for now".into() };
    guest.recorder.observe(&guest.now, LONGEST);
    guest.pass(100, 0, 20);
    assert_eq!(guest.cpu().ticks, Some(series(&[30])));
}

#[test]
fn guest_that_was_reset_counts_anew() {
    let mut guest = Guest::new(0);
    guest.pass(100, 0, 10);
    guest.kernel.cpus[0].as_mut().unwrap().tick = 3;
    guest.pass(100, 0, 0);
    guest.pass(100, 0, 5);
    assert_eq!(guest.cpu().ticks, Some(series(&[15])));
}

#[test]
fn host_counts_interrupts_of_an_unknown_kernel() {
    let mut guest = Guest::new(0);
    for interrupts in [100, 103] {
        guest.now.at += ms(100);
        guest.now.kernel = Reading::Unknown;
        guest.now.vcpus[0].counts.interrupts = Some(interrupts);
        guest.recorder.observe(&guest.now, LONGEST);
    }
    let cpu = guest.cpu();
    assert_eq!((cpu.ticks, cpu.schedules), (None, None));
    assert_eq!(cpu.interrupts, Some(series(&[3])));
}

#[test]
fn json_of_64_busy_vcpus_is_about_100_kilobytes() {
    let mut guest = Guest::new(0);
    let (vcpu, cpu) = (guest.now.vcpus[0], guest.kernel.cpus[0].clone());
    guest.now.vcpus = vec![vcpu; 64];
    guest.kernel.cpus = vec![cpu; 64];
    guest.observe();
    for tick in 0..650_u64 {
        for number in 0..64_u64 {
            let noise = (number * 31 + tick * 17) % 60;
            let vcpu = &mut guest.now.vcpus[number as usize];
            vcpu.times.as_mut().unwrap().run += ms(40 + noise);
            vcpu.counts.halts = Some(vcpu.counts.halts.unwrap_or(0) + noise / 2);
            let cpu = guest.kernel.cpus[number as usize].as_mut().unwrap();
            cpu.tick += 10;
            cpu.main_loop += noise;
            cpu.interrupts += 10 + noise / 4;
        }
        guest.now.at += ms(100);
        guest.observe();
    }
    let history = guest.history();
    assert_eq!((history.slot_ms, history.cpus.len()), (1000, 64));
    let text = serde_json::to_string_pretty(&history).unwrap();
    assert!(text.len() < 105_000, "{}", text.len());
}

#[test]
fn report_of_many_vcpus_has_longer_slots_and_the_same_sums() {
    let mut guest = Guest::new(0);
    let (vcpu, cpu) = (guest.now.vcpus[0], guest.kernel.cpus[0].clone());
    guest.now.vcpus = vec![vcpu; 255];
    guest.kernel.cpus = vec![cpu; 255];
    guest.observe();
    for _ in 0..650 {
        guest.pass(100, 100, 7);
    }
    let history = guest.history();
    assert_eq!(history.slot_ms, 4_000);
    assert!(history.wall_ms.0.len() * 255 <= MAX_REPORTED + 255);
    assert_eq!(history.cpus.len(), 255);
    let ticks: u32 = guest.cpu().ticks.unwrap().0.into_iter().flatten().sum();
    assert_eq!(ticks, SLOTS as u32 * 5 * 7);
}

fn hang(age: u64, cpus: &[u32]) -> DetectedHang {
    DetectedHang {
        class: Class::HardLockup,
        age: ms(age),
        blamed: cpus.iter().copied().map(Node::Cpu).collect(),
        locks: Vec::new(),
        victims: Vec::new(),
        edges: Vec::new(),
        certainty: HangCertainty::Likely,
        asleep: false,
    }
}

#[test]
fn suspicion_ends_and_is_forgotten_if_it_was_short() {
    let mut suspects = Suspects::default();
    let mut update = |at, hangs: &[DetectedHang]| {
        suspects.update(ms(at), hangs, |hang| ms(at).saturating_sub(hang.age));
        suspects.shown(ms(0))
    };
    update(1_000, &[hang(300, &[1])]);
    let [shown] = &update(1_500, &[hang(800, &[1, 2])])[..] else { panic!() };
    assert_eq!((shown.began, shown.ended, shown.parties.len()), (ms(700), None, 2));
    assert_eq!(update(2_000, &[])[0].ended, Some(ms(2_000)));
    // A second one of the same parties leaves nothing behind.
    assert_eq!(update(3_000, &[hang(300, &[1])]).len(), 2);
    assert_eq!(update(3_500, &[]).len(), 1);
    assert_eq!(suspects.shown(ms(2_001)), [], "it was over before");
}

#[test]
fn suspicion_of_a_vcpu_that_seldom_runs_began_before_its_age() {
    let mut guest = Guest::new(0);
    // A fifth of the time is its own.
    for _ in 0..40 {
        guest.pass(100, 20, 0);
    }
    guest.recorder.suspect(&guest.now, &[hang(300, &[0])]);
    let began = guest.recorder.past_minute().unwrap().suspects[0].began;
    assert_eq!(began, ms(4_000 - 1_500));
}

#[test]
fn suspicion_that_is_older_than_the_ring_began_before_it() {
    let mut guest = Guest::new(1_000);
    guest.pass(100, 100, 0);
    guest.recorder.suspect(&guest.now, &[hang(700, &[0])]);
    // 100 ms lie in the ring. The slot begins at 1,000 ms.
    assert_eq!(guest.recorder.past_minute().unwrap().suspects[0].began, ms(400));
}
