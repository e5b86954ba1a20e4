//! Is the guest still getting anywhere? A pure state machine: observations in, a verdict out.
//!
//! Knows no clock, no KVM and no guest memory; `session` observes, with the times it saw them at.
//! Which counters there are is the `kernel` adapter's business.

use std::time::Duration;

/// The two counters of a CPU (see the guest's `tick_heartbeat` and `loop_heartbeat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeats {
    /// Advanced by the CPU's timer interrupt.
    pub tick: u64,
    /// Advanced by the CPU's main loop.
    pub main_loop: u64,
}

/// What was seen of all CPUs at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When, since any fixed moment.
    pub at: Duration,
    /// By CPU number; `None` for a CPU that does not run the guest's kernel, or cannot be read.
    pub cpus: Vec<Option<Heartbeats>>,
}

/// A CPU that stands still, and for how long it had when the verdict was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// Its number.
    pub cpu: usize,
    /// How long its tick has stood still, where it has.
    pub tick: Option<Duration>,
    /// How long its main loop has.
    pub main_loop: Option<Duration>,
}

impl Stall {
    /// The longer of the two.
    pub fn duration(&self) -> Duration {
        self.tick.max(self.main_loop).unwrap_or_default()
    }
}

/// Watches the heartbeats of one VM.
#[derive(Debug)]
pub struct Detector {
    hang_after: Duration,
    /// The most that one interval between observations counts for. A longer one means that the
    /// observer itself was not running, and nothing is known about the guest in that time.
    longest_interval: Duration,
    last: Option<Observation>,
    /// By CPU number.
    still: Vec<StillFor>,
}

#[derive(Debug, Clone, Copy, Default)]
struct StillFor {
    tick: Duration,
    main_loop: Duration,
}

impl Detector {
    /// A detector that calls a CPU hung when one of its heartbeats has not advanced for
    /// `hang_after`. `interval` is how often it is going to be shown something.
    pub fn new(hang_after: Duration, interval: Duration) -> Self {
        Self { hang_after, longest_interval: interval * 2, last: None, still: Vec::new() }
    }

    /// Forgets everything: after the guest has been stopped on purpose.
    pub fn reset(&mut self) {
        self.last = None;
        self.still.clear();
    }

    /// Takes an observation. Returns nothing until some CPU hangs; then all that stand still.
    pub fn observe(&mut self, observation: Observation) -> Vec<Stall> {
        let Some(last) = self.last.replace(observation) else { return Vec::new() };
        let now = self.last.as_ref().expect("replaced a line above");
        let interval = now.at.saturating_sub(last.at).min(self.longest_interval);
        self.still.resize(now.cpus.len(), StillFor::default());
        let beats = now.cpus.iter().zip(last.cpus.iter().chain(std::iter::repeat(&None)));
        for (still, (now, last)) in self.still.iter_mut().zip(beats) {
            let (Some(now), Some(last)) = (now, last) else {
                *still = StillFor::default();
                continue;
            };
            advance(&mut still.tick, now.tick == last.tick, interval);
            advance(&mut still.main_loop, now.main_loop == last.main_loop, interval);
        }
        let longest = self.still.iter().map(|still| still.tick.max(still.main_loop)).max();
        if longest.is_none_or(|longest| longest < self.hang_after) {
            return Vec::new();
        }
        // CPUs that hang together do not stop in the same interval: those that are on their way
        // belong to the verdict.
        let long = |still: Duration| (still >= self.hang_after / 2).then_some(still);
        self.still
            .iter()
            .enumerate()
            .map(|(cpu, still)| Stall {
                cpu,
                tick: long(still.tick),
                main_loop: long(still.main_loop),
            })
            .filter(|stall| stall.tick.is_some() || stall.main_loop.is_some())
            .collect()
    }
}

fn advance(still: &mut Duration, unchanged: bool, interval: Duration) {
    *still = if unchanged { *still + interval } else { Duration::ZERO };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_millis(500);

    /// Feeds one observation per interval; `None` is a CPU that does not run.
    fn verdicts(rows: &[&[Option<(u64, u64)>]]) -> Vec<Vec<usize>> {
        let mut detector = Detector::new(SECOND, INTERVAL);
        rows.iter()
            .enumerate()
            .map(|(index, row)| {
                let cpus = row
                    .iter()
                    .map(|beats| beats.map(|(tick, main_loop)| Heartbeats { tick, main_loop }))
                    .collect();
                let stalls = detector.observe(Observation { at: INTERVAL * index as u32, cpus });
                stalls.iter().map(|stall| stall.cpu).collect()
            })
            .collect()
    }

    const fn both(beat: u64) -> Option<(u64, u64)> {
        Some((beat, beat))
    }

    #[test]
    fn a_cpu_that_advances_never_hangs() {
        let rows: Vec<[_; 1]> = (0..20).map(|beat| [both(beat)]).collect();
        let rows: Vec<&[_]> = rows.iter().map(|row| &row[..]).collect();
        assert!(verdicts(&rows).iter().all(Vec::is_empty));
    }

    #[test]
    fn a_cpu_hangs_when_both_heartbeats_stood_still_for_the_bound_and_not_before() {
        let rows: &[&[_]] = &[&[both(7)], &[both(7)], &[both(7)]];
        assert_eq!(verdicts(rows), [vec![], vec![], vec![0]]);
    }

    #[test]
    fn one_heartbeat_is_enough() {
        let main_loop_only: &[&[_]] = &[&[Some((1, 5))], &[Some((2, 5))], &[Some((3, 5))]];
        assert_eq!(verdicts(main_loop_only).last().unwrap(), &[0]);
        let tick_only: &[&[_]] = &[&[Some((5, 1))], &[Some((5, 2))], &[Some((5, 3))]];
        assert_eq!(verdicts(tick_only).last().unwrap(), &[0]);
    }

    #[test]
    fn only_the_cpus_that_stand_still_are_named() {
        let rows: &[&[_]] = &[
            &[both(1), both(1), both(1)],
            &[both(2), both(1), both(2)],
            &[both(3), both(1), both(3)],
        ];
        assert_eq!(verdicts(rows).last().unwrap(), &[1]);
    }

    #[test]
    fn a_cpu_that_stopped_a_little_later_is_named_too() {
        let rows: &[&[_]] = &[
            &[both(1), both(1), both(1)],
            &[both(1), both(2), both(2)],
            &[both(1), both(2), both(3)],
        ];
        assert_eq!(verdicts(rows).last().unwrap(), &[0, 1]);
    }

    #[test]
    fn progress_starts_the_count_anew() {
        let rows: &[&[_]] = &[&[both(1)], &[both(1)], &[both(2)], &[both(2)], &[both(2)]];
        assert_eq!(verdicts(rows), [vec![], vec![], vec![], vec![], vec![0]]);
    }

    #[test]
    fn a_cpu_that_was_never_started_does_not_hang() {
        let rows: &[&[_]] = &[&[None], &[None], &[None], &[None]];
        assert!(verdicts(rows).iter().all(Vec::is_empty));
    }

    #[test]
    fn time_in_which_the_observer_did_not_run_does_not_count() {
        let mut detector = Detector::new(SECOND, INTERVAL);
        let cpus = vec![Some(Heartbeats { tick: 1, main_loop: 1 })];
        let mut observe = |at| detector.observe(Observation { at, cpus: cpus.clone() });
        assert!(observe(Duration::ZERO).is_empty());
        assert!(observe(INTERVAL).is_empty());
        // Ten seconds of SIGSTOP, say: they count for two intervals at most.
        let stalls = observe(SECOND * 10);
        assert!(stalls.iter().all(|stall| stall.duration() <= INTERVAL * 3));
    }
}
