//! Samples: further stacks of blamed CPUs that run on, after the moment that the backtrace is of.
//!
//! Owns how many there are, how far apart, and that they are of the same hang. What they have in common
//! is `diagnosis`'s business.

use std::thread;
use std::time::{Duration, Instant};

use nmiscope_machine::PhysicalMemory;
use nmiscope_symbolizer::UnwoundFrame;

use super::{Capture, Sampling, cpus_to_sample, host_stack};
use crate::hang::{CpuSamples, SampledFrame};
use crate::kernel::KernelSymbols;
use crate::targets::{MissingPower, States, Target};

/// The number of samples. What is on the stack for a fifth of the time is then on more than a third of the stacks
/// in less than one of 200 hangs, and what is there for three quarters of it on more than nine tenths.
const SAMPLES: usize = 60;

/// How long the guest runs between two of them: longer than a pass through a loop that waits for
/// something, so that it does not matter where the last one was.
const INTERVAL: Duration = Duration::from_micros(250);

/// How long it may take until those who are looked at have run, on a host that has others to run.
const MAX_WAIT: Duration = Duration::from_millis(10);

impl Capture {
    /// Adds the stacks of those who hang and run on, at a few moments. In between the guest runs; it
    /// stands still afterwards. If it gets on meanwhile there are none, since they are of something
    /// else.
    pub(super) fn sample(
        &mut self,
        target: &mut dyn Target,
        symbols: Option<&dyn KernelSymbols>,
        sampling: Sampling<'_>,
    ) {
        let Some(found) = &mut self.found else { return };
        let mut cpus = cpus_to_sample(&found.hangs, self.kernel.known());
        // The guest may name CPUs that do not exist.
        cpus.retain(|&cpu| self.cpus.get(cpu as usize).is_some_and(|cpu| cpu.nmi.is_over()));
        if cpus.is_empty() {
            return;
        }
        let clock = Instant::now();
        let Ok(mut samples) = take(target, &Vec::from_iter(cpus), symbols, sampling.time_limit)
        else {
            return;
        };
        let ongoing = (sampling.recheck)(target);
        samples.retain(|samples| ongoing.contains(&samples.cpu));
        let each = samples.iter().map(CpuSamples::len).max();
        tracing::debug!(elapsed = ?clock.elapsed(), each, "sampled those to blame");
        found.samples = samples;
    }
}

/// Takes them; the guest runs afterwards. What cannot be let run has none.
fn take(
    target: &mut dyn Target,
    cpus: &[u32],
    symbols: Option<&dyn KernelSymbols>,
    time_limit: Duration,
) -> Result<Vec<CpuSamples>, MissingPower> {
    let mut samples: Vec<CpuSamples> = cpus.iter().copied().map(CpuSamples::new).collect();
    let started = Instant::now();
    for _ in 0..SAMPLES {
        run_for_a_moment(target, cpus)?;
        let states = target.pausing()?.pause(time_limit.saturating_sub(started.elapsed()));
        // One that has not stopped in time may be writing to the others' stacks.
        if started.elapsed() >= time_limit {
            break;
        }
        add_stacks(target, &states, symbols, &mut samples);
    }
    target.pausing()?.resume();
    Ok(samples)
}

/// Lets the guest run until all of `cpus` have done so, or have nothing to run for.
fn run_for_a_moment(target: &mut dyn Target, cpus: &[u32]) -> Result<(), MissingPower> {
    let started = Instant::now();
    let host = target.host()?;
    let before: Vec<(u32, Duration)> = cpus.iter().map(|&cpu| (cpu, host.run_time(cpu))).collect();
    target.pausing()?.resume();
    thread::sleep(INTERVAL);
    let host = target.host()?;
    let sleeps = |cpu| host.times(cpu).is_some_and(|now| now.asleep);
    let is_late = |&(cpu, before): &(u32, Duration)| {
        host.run_time(cpu).saturating_sub(before) < INTERVAL / 4 && !sleeps(cpu)
    };
    while started.elapsed() < MAX_WAIT && before.iter().any(is_late) {
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Adds the stacks as they are, of those that can be seen.
fn add_stacks(
    memory: &dyn PhysicalMemory,
    states: &States,
    symbols: Option<&dyn KernelSymbols>,
    samples: &mut [CpuSamples],
) {
    for samples in samples {
        let state = &states[samples.cpu as usize];
        if let Some(frames) = host_stack::unwind_vcpu_frames(state, symbols, memory) {
            samples.add(frames.iter().map(sampled).collect());
        }
    }
}

fn sampled(frame: &UnwoundFrame) -> SampledFrame {
    SampledFrame { at: frame.pc.address().0, interrupted: frame.is_interrupted() }
}
