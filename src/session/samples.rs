//! More looks at those to blame who run on, after the one that the backtrace is of.
//!
//! Owns how many, how far apart, and that they are of the same hang. Everything else that is told of it
//! has been taken by then, and is of the verdict's moment. What the looks have in common is
//! `diagnosis`'s business.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use nmiscope_machine::PhysicalMemory;
use nmiscope_symbolizer::UnwoundFrame;

use super::watch::Watch;
use crate::capture::nmi::{Bounds, Stopped};
use crate::capture::{Capture, NmiCapture};
use crate::diagnosis::host_look::look_at_all;
use crate::hang::{CpuSamples, Found, Hang, SampledFrame};
use crate::kernel::{Kernel, KernelState, Symbols};
use crate::targets::{MissingPower, States, Target};

/// How many looks. What is on the stack for a fifth of the time is then on more than a third of the stacks
/// in less than one of 200 hangs, and what is there for three quarters of it on more than nine tenths.
const SAMPLES: usize = 60;

/// How long the guest runs between two of them: longer than a pass through a loop that waits for
/// something, so that it does not matter where the last one was.
const APART: Duration = Duration::from_micros(250);

/// How long it may take until those who are looked at have run, on a host that has others to run.
const PATIENCE: Duration = Duration::from_millis(10);

/// After how long there are no more looks, on a host that has few cores for many vCPUs.
const MOST: Duration = Duration::from_millis(250);

/// A guest that stands still, and what it takes to sample it.
pub struct Sampler<'a> {
    pub target: &'a mut dyn Target,
    pub watch: &'a mut Watch,
    pub kernel: &'a dyn Kernel,
    pub symbols: Option<&'a dyn Symbols>,
    /// When the tool was started.
    pub started: Instant,
}

impl Sampler<'_> {
    /// The stacks of those who hang and run on, at a few moments. In between the guest runs; it stands
    /// still afterwards. If it gets on meanwhile there are none, since they are of something else.
    pub fn sample(self, found: &Found, capture: &Capture) -> Vec<CpuSamples> {
        let Self { target, watch, kernel, symbols, started } = self;
        let mut cpus = to_sample(&found.hangs, capture.kernel.known());
        // The guest may name CPUs that do not exist.
        cpus.retain(|&cpu| capture.cpus.get(cpu as usize).is_some_and(|cpu| is_left(&cpu.nmi)));
        if cpus.is_empty() {
            return Vec::new();
        }
        let clock = Instant::now();
        let Ok(mut samples) = take(target, &Vec::from_iter(cpus), symbols) else {
            return Vec::new();
        };
        let bounds = Bounds::for_vcpus(target.vcpus());
        let stopped = Stopped::stop(target, kernel, watch.places(), bounds);
        // It was stopped most of the time: that does not make a hang older.
        let at = started.elapsed();
        watch.resumed(at);
        let lasting = watch.lasting(target, &stopped, at);
        let lasting = to_sample(&lasting, stopped.activity.known());
        samples.retain(|samples| lasting.contains(&samples.cpu));
        let each = samples.iter().map(CpuSamples::len).max();
        tracing::debug!(elapsed = ?clock.elapsed(), each, "sampled those to blame");
        samples
    }
}

fn to_sample(hangs: &[Hang], kernel: Option<&KernelState>) -> BTreeSet<u32> {
    hangs.iter().flat_map(|hang| hang.cpus_to_sample(kernel)).collect()
}

/// Whether a CPU has come back from its NMI. One that has not stays where it was below its handler.
fn is_left(nmi: &NmiCapture) -> bool {
    match nmi {
        NmiCapture::Run(run) => run.finished(),
        NmiCapture::NotSent(_) => true,
    }
}

/// Takes them; the guest runs afterwards. What cannot be let run has none.
fn take(
    target: &mut dyn Target,
    cpus: &[u32],
    symbols: Option<&dyn Symbols>,
) -> Result<Vec<CpuSamples>, MissingPower> {
    let mut samples: Vec<CpuSamples> = cpus.iter().copied().map(CpuSamples::of).collect();
    let started = Instant::now();
    for _ in 0..SAMPLES {
        run_for_a_moment(target, cpus)?;
        let states = target.pausing()?.pause(MOST.saturating_sub(started.elapsed()));
        // One that has not stopped in time may be writing to the others' stacks.
        if started.elapsed() >= MOST {
            break;
        }
        look(target, &states, symbols, &mut samples);
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
    thread::sleep(APART);
    let host = target.host()?;
    let sleeps = |cpu| host.times(cpu).is_some_and(|now| now.asleep);
    let is_late = |&(cpu, before): &(u32, Duration)| {
        host.run_time(cpu).saturating_sub(before) < APART / 4 && !sleeps(cpu)
    };
    while started.elapsed() < PATIENCE && before.iter().any(is_late) {
        thread::sleep(APART);
    }
    Ok(())
}

/// Adds the stacks as they are, of those that can be seen.
fn look(
    memory: &dyn PhysicalMemory,
    states: &States,
    symbols: Option<&dyn Symbols>,
    samples: &mut [CpuSamples],
) {
    let theirs: States =
        samples.iter().map(|samples| states[samples.cpu as usize].clone()).collect();
    let looks = look_at_all(&theirs, symbols, memory);
    for (samples, look) in samples.iter_mut().zip(looks) {
        if let Some(look) = look {
            samples.add(look.frames.iter().map(sampled).collect());
        }
    }
}

fn sampled(frame: &UnwoundFrame) -> SampledFrame {
    SampledFrame { at: frame.pc.address().0, interrupted: frame.is_interrupted() }
}
