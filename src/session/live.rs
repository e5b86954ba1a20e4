//! A VM of ours, from its start to its report: what wakes the session, and what it does about it.
//!
//! Owns the order of things and all their clocks. What a capture takes is `capture`'s, what is kept of
//! it `record`'s.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use nmiscope_machine::Outcome as VmOutcome;
use nmiscope_report::{
    CrashCause, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger,
};
use nmiscope_symbolizer::SourceRoots;
use nmiscope_vmm as vmm;
use nmiscope_vmm::{Ports, Vm};

use super::console::Console;
use super::guest::Guest;
use super::observe;
use super::options::{Ended, Event, Options};
use super::origin::Origin;
use super::record::{Record, Weight};
use super::wake::{Inbox, Wake};
use super::watch::{Observed, POLL, Watch};
use crate::capture::{Bounds as CaptureBounds, Request, Sampling, Stopped};
use crate::diagnosis::{self, Resolver, milliseconds};
use crate::errors::BadRequest;
use crate::hang::{Found, Verdict};
use crate::images::{self, Access, Files, source_roots};
use crate::kernel::{DOORBELLS, Symbols, WithVariables, bundled_words};
use crate::targets::Target;

/// How long the guest's last words have to reach whoever reads the console.
const CONSOLE: Duration = Duration::from_secs(1);

/// How long the vCPU threads have to end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs a VM with the image in `files`, to the end of what `options` asks for. `started` is when
/// the tool was.
///
/// # Errors
/// The VM could not be made, or the host failed. What the guest does is never an error: it is in
/// the report.
pub fn run(
    files: Files,
    options: &Options,
    started: Instant,
    mut listener: impl FnMut(Event<'_>),
) -> anyhow::Result<Ended> {
    let inbox = Inbox::new();
    let initrd = options.initrd.as_deref().map(|path| images::open(path, Access::Read));
    let initrd = initrd.transpose().map_err(BadRequest::from_error)?;
    let console = Console::open(&options.serial).map_err(BadRequest::from_error)?;
    let vm = Vm::new(vmm::Config {
        cpus: options.vcpus,
        memory: options.memory_bytes,
        image: &files.image,
        initrd: initrd.as_deref(),
        cmdline: options.command_line.clone(),
        serial_output: console.writer(),
        ports: Ports {
            debug_exit: DOORBELLS.debug_exit,
            post: DOORBELLS.post,
            nmi_done: DOORBELLS.nmi_done,
        },
        pit: options.image.is_some(),
        events: inbox.vmm_events(|code| bundled_words().is_ready(code)),
    })
    .with_context(|| match &options.image {
        Some(path) => format!("failed to start a VM with {}", path.display()),
        None => "failed to start a VM with the bundled guest".into(),
    })?;
    // After the VM: everything that can be refused has been.
    console.start();
    drop(initrd);
    let signals = inbox.watch_signals(options.second_signal_ends)?;
    let input = options.terminal_input.then(|| inbox.watch_terminal()).flatten();
    let mut session = Session {
        vm,
        inbox,
        console,
        started,
        ready_after: None,
        captured_at: None,
        watch: options.bounds.any().then(|| Watch::new(options.bounds.clone())),
        record: Record::new(&mut listener),
        guest: Guest::new(files, options),
        options,
    };
    session.start();
    let outcome = session.drive();
    let ended = session.finish(outcome);
    drop((signals, input));
    Ok(ended)
}

struct Session<'a> {
    vm: Vm,
    inbox: Inbox,
    console: Console,
    started: Instant,
    ready_after: Option<Duration>,
    /// Wall clock at the last backtrace.
    captured_at: Option<SystemTime>,
    /// `None` where nothing is looked for.
    watch: Option<Watch>,
    record: Record<'a>,
    guest: Guest<'a>,
    options: &'a Options,
}

impl Session<'_> {
    fn start(&mut self) {
        self.vm.start();
        if self.guest.is_known() {
            return;
        }
        // One that need not say that it is ready has to get on from the start.
        if let Some(watch) = &mut self.watch {
            watch.set_ready();
            let warning = format!(
                "the guest's kernel is not known ({}): hangs are found only as far as they show from \
                 outside",
                self.guest.unknown_because()
            );
            self.record.warn(warning);
        }
    }

    /// Until something ends the run.
    fn drive(&mut self) -> Outcome {
        let mut nmi_after = self.options.nmi_after;
        loop {
            let wake = self.inbox.wait(self.until_something_is_due(nmi_after));
            match wake {
                Ok(Wake::Vm(vmm::Event::Post { at, .. })) => self.ready(at),
                Ok(Wake::Vm(vmm::Event::Ended(outcome))) => return self.guest_ended(&outcome),
                Ok(Wake::Vm(_)) => {}
                Ok(Wake::Signal(signal)) if signal.asks_for_backtrace() => {
                    self.backtrace(Trigger::Signal { name: signal.name().into() });
                    self.resume();
                }
                Ok(Wake::Signal(signal)) => {
                    let by = signal.name().to_owned();
                    if signal.wants_a_last_look() {
                        self.backtrace(Trigger::Signal { name: by.clone() });
                    }
                    return Outcome::Stopped { by };
                }
                Ok(Wake::Input(bytes)) => {
                    // A guest that does not read its console loses keys, as on real hardware.
                    let _ = self.vm.serial_input(&bytes);
                }
                Err(_) => {}
            }
            if nmi_after.is_some_and(|after| self.started.elapsed() >= after) {
                nmi_after = None;
                self.backtrace(Trigger::Timer);
                self.resume();
            }
            let elapsed = self.started.elapsed();
            if let Some(outcome) = self.look_for_trouble(elapsed) {
                return outcome;
            }
            if self.options.stop_after.is_some_and(|after| elapsed >= after) {
                return Outcome::Stopped { by: "--stop-after".into() };
            }
            if let Some(limit) = self.options.time_limit.filter(|&limit| elapsed >= limit) {
                let outcome = Outcome::TimedOut {
                    limit_ms: milliseconds(limit),
                    ran_ms: Some(milliseconds(self.run_time())),
                };
                self.record.tell(Event::Outcome(&outcome));
                self.backtrace(Trigger::TimeLimit);
                return outcome;
            }
        }
    }

    /// The CPU time that all vCPUs have had so far.
    fn run_time(&self) -> Duration {
        (0..self.options.vcpus).map(|cpu| self.vm.run_time(cpu)).sum()
    }

    /// The next look at the guest, or what was asked for a certain time.
    fn until_something_is_due(&self, nmi_after: Option<Duration>) -> Duration {
        let elapsed = self.started.elapsed();
        let due = [nmi_after, self.options.stop_after, self.options.time_limit];
        let due = due.into_iter().flatten();
        let look = self.watch.as_ref().map_or(POLL, |watch| watch.due_in(elapsed));
        due.map(|after| after.saturating_sub(elapsed)).fold(look, Duration::min)
    }

    fn ready(&mut self, at: Instant) {
        // Port 0x80 is a delay to many kernels, and what they write there means nothing.
        if self.ready_after.is_some() || !self.guest.is_known() {
            return;
        }
        let after = at.saturating_duration_since(self.started);
        self.ready_after = Some(after);
        self.record.tell(Event::Ready { machine: &machine(self.options), after });
        if let Some(watch) = &mut self.watch {
            watch.set_ready();
        }
    }

    /// The VM has ended by itself. If it did not choose to, the other CPUs may know why.
    fn guest_ended(&mut self, ended: &VmOutcome) -> Outcome {
        let cpu = ended.cpu();
        let outcome = match *ended {
            VmOutcome::DebugExit { code, .. } if self.guest.vocabulary().is_panic(code) => {
                Outcome::Panic { cpu, message: self.panic_message() }
            }
            VmOutcome::DebugExit { code, .. } => return Outcome::Exit { code },
            _ => Outcome::Crash { cpu, cause: crash_cause(ended), description: ended.to_string() },
        };
        self.record.tell(Event::Outcome(&outcome));
        self.backtrace(Trigger::GuestEnded);
        outcome
    }

    /// Looks at the guest, and closely if something may be wrong with it.
    fn look_for_trouble(&mut self, elapsed: Duration) -> Option<Outcome> {
        let watch = self.watch.as_mut()?;
        let Observed { noticed, problem } = watch.observe(&self.vm, &mut self.guest, elapsed)?;
        if let Some(reason) = problem {
            self.record.warn(format!(
                "hang detection is waiting, the guest's heartbeats are not to be found: {}",
                crate::error_chain(&reason)
            ));
        }
        for number in noticed.over {
            self.record.resolved(number, elapsed);
        }
        if noticed.suspicious { self.look_closely(elapsed) } else { None }
    }

    /// Stops the guest and judges it. It goes on if nothing is wrong, or as the policy says.
    fn look_closely(&mut self, elapsed: Duration) -> Option<Outcome> {
        let stopped = self.stop();
        let verdict = self.watch.as_mut()?.judge(&self.vm, &stopped, elapsed);
        match verdict {
            None => {
                self.resume();
                None
            }
            Some(Verdict::Hangs(found)) => {
                self.backtrace_of(stopped, elapsed, Trigger::Hang, Some(*found));
                if self.options.policy.kill {
                    return Some(Outcome::Hang);
                }
                self.resume();
                None
            }
            Some(Verdict::Starved(starved)) => {
                let outcome = Outcome::Starved {
                    cpus: starved.cpus,
                    wall_ms: milliseconds(starved.wall),
                    ran_ms: milliseconds(starved.ran),
                };
                self.record.tell(Event::Outcome(&outcome));
                self.backtrace_of(stopped, elapsed, Trigger::Starved, None);
                Some(outcome)
            }
            Some(Verdict::Panicked(cpu)) => {
                let outcome = Outcome::Panic { cpu, message: self.panic_message() };
                self.record.tell(Event::Outcome(&outcome));
                self.backtrace_of(stopped, elapsed, Trigger::GuestEnded, None);
                Some(outcome)
            }
        }
    }

    fn panic_message(&mut self) -> Option<String> {
        self.guest.vocabulary().panic_message(&self.console.tail())
    }

    fn stop(&mut self) -> Stopped {
        let mut bounds = CaptureBounds::for_vcpus(self.options.vcpus);
        bounds.handlers = self.options.nmi_timeout.unwrap_or(bounds.handlers);
        let known = self.watch.as_ref().and_then(Watch::places);
        Stopped::stop(&mut self.vm, self.guest.examine().0, known, bounds)
    }

    /// Takes a backtrace; the guest is stopped afterwards.
    fn backtrace(&mut self, trigger: Trigger) {
        let asked = self.started.elapsed();
        let stopped = self.stop();
        let found = self.of_moment(&stopped, asked, &trigger);
        self.backtrace_of(stopped, asked, trigger, found);
    }

    /// The hangs, due or not, of a guest that somebody wants to look at. One that has ended has none.
    fn of_moment(&mut self, stopped: &Stopped, at: Duration, trigger: &Trigger) -> Option<Found> {
        match trigger {
            Trigger::Signal { .. } | Trigger::Timer | Trigger::TimeLimit => {}
            _ => return None,
        }
        match &mut self.watch {
            Some(watch) => watch.of_moment(&self.vm, stopped, at),
            None => Some(observe::of_moment_alone(&self.vm, stopped, at)),
        }
    }

    /// Takes a backtrace of a guest that stands still, for something that was noticed `at` that time
    /// after the start, and reports the hangs that were `found`.
    fn backtrace_of(
        &mut self,
        stopped: Stopped,
        at: Duration,
        trigger: Trigger,
        found: Option<Found>,
    ) {
        let Self { vm, guest, watch, record, options, started, captured_at, .. } = self;
        let is_verdict = trigger == Trigger::Hang;
        let place = record.place_for(is_verdict, options.policy);
        if place.is_some() {
            *captured_at = Some(SystemTime::now());
        }
        let (kernel, files) = guest.examine();
        let image = files.parse().ok();
        let symbols = kernel.symbols(image.as_ref().map(|image| image as &dyn Symbols));
        let wanted_variables = image.as_ref().filter(|_| options.variables);
        let with_variables = wanted_variables.map(WithVariables::new);
        let unwound_by = match &with_variables {
            Some(Ok(with_variables)) => Some(with_variables as &dyn Symbols),
            _ => symbols,
        };
        let weight = Weight::of(&trigger);
        let mut still = watch.as_mut().map(|watch| {
            |target: &mut dyn Target| watch.still_to_sample(target, kernel, *started, is_verdict)
        });
        let request = Request {
            // A guest that the host does not run would take forever to answer.
            nmis: place.is_some() && trigger != Trigger::Starved,
            trigger,
            at,
            found,
            symbols: unwound_by,
            core: options.core.as_ref().filter(|_| place.is_some() && record.has_room_for(weight)),
            sampling: still
                .as_mut()
                .map(|still| Sampling { at_most: sampling_time(is_verdict), still }),
        };
        let (capture, core) = stopped.capture(vm, request);
        let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
        let resolver = resolver.with_words(kernel.vocabulary());
        let diagnosis = diagnosis::diagnose(&capture, place, &resolver);
        if let Some(core) = core {
            record.keep(weight, core, capture);
        }
        record.add(diagnosis, is_verdict, place.is_some());
        // The next backtrace is of the same image.
        if let Some(Err(reason)) = &with_variables {
            record.warn_once(reason.to_string());
        }
    }

    /// Goes on with a guest that was stopped.
    fn resume(&mut self) {
        self.vm.resume();
        if let Some(watch) = &mut self.watch {
            watch.resumed(self.started.elapsed());
        }
    }

    fn finish(mut self, outcome: Outcome) -> Ended {
        self.console.drain(CONSOLE);
        self.record.tell(Event::Stopping { exits: self.vm.exit_counts() });
        // The threads end with the process at the latest, and the report is what was wanted.
        if let Err(error) = self.vm.shutdown(SHUTDOWN) {
            self.record.warn(format!("failed to {}", crate::error_chain(&error)));
        }
        if self.console.dropped() > 0 {
            let dropped = self.console.dropped();
            self.record
                .warn(format!("{dropped} bytes of the guest's console were not read in time"));
        }
        let origin = Origin::here(self.captured_at.unwrap_or_else(SystemTime::now));
        let report = Report {
            schema_version: SCHEMA_VERSION,
            summary: String::new(),
            source: Source::Live,
            captured_at: origin.captured_at,
            host: origin.host,
            tool: Tool {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            image: self.guest.report(),
            machine: machine(self.options),
            ready_after_ms: self.ready_after.map(milliseconds),
            outcome,
            hangs: Vec::new(),
            backtraces: Vec::new(),
            warnings: Vec::new(),
            console_tail: self.console.tail(),
            visit: None,
        };
        self.record.finish(report)
    }
}

/// The time that samples may take, on a host that has few cores for many vCPUs. Somebody waits for a
/// backtrace that was asked for.
fn sampling_time(is_verdict: bool) -> Duration {
    Duration::from_millis(if is_verdict { 250 } else { 100 })
}

fn machine(options: &Options) -> Machine {
    Machine { vcpus: options.vcpus, memory_bytes: options.memory_bytes }
}

fn crash_cause(outcome: &VmOutcome) -> CrashCause {
    match outcome {
        VmOutcome::TripleFault { .. } => CrashCause::TripleFault,
        outcome if outcome.is_kvm_error() => CrashCause::KvmError,
        _ => CrashCause::Reset,
    }
}
