//! Sampling: further stacks of blamed CPUs that keep executing, taken after the backtrace's moment.
//!
//! Owns their number and distance, and the check that the hang lasted meanwhile; refuses to own the
//! comparison (`diagnosis`).

use std::thread;
use std::time::{Duration, Instant};

use nmiscope_machine::PhysicalMemory;
use nmiscope_symbolizer::UnwoundFrame;

use super::{Capture, Sampling, cpus_to_sample, host_stack};
use crate::hang::{CpuSamples, SampledFrame};
use crate::kernel::KernelSymbols;
use crate::targets::{MissingPower, States, Target};

/// The number of samples. A function that is on the stack for a fifth of the time is then on more than a
/// third of the stacks in less than one of 200 hangs, and one that is there for three quarters of it on
/// more than nine tenths.
const SAMPLES: usize = 60;

/// The time for which the guest runs between two samples: longer than a pass through a loop that waits,
/// so that samples are independent.
const INTERVAL: Duration = Duration::from_micros(250);

/// The longest wait until the sampled vCPUs have run, on a busy host.
const MAX_WAIT: Duration = Duration::from_millis(10);

impl Capture {
    /// Samples the blamed CPUs that keep executing. The guest runs in between and is stopped afterwards.
    /// If the hang has ended meanwhile, the samples do not show it and are dropped.
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

/// Takes the samples; the guest runs afterwards. Fails for a target that cannot resume its guest.
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
        // A vCPU that has not stopped in time may be writing to the stacks of others.
        if started.elapsed() >= time_limit {
            break;
        }
        add_stacks(target, &states, symbols, &mut samples);
    }
    target.pausing()?.resume();
    Ok(samples)
}

/// Resumes the guest until all of `cpus` have run, or sleep with nothing to run, but for no longer than
/// `MAX_WAIT`.
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

/// Adds the current stacks of CPUs that have one.
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
