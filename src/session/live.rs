//! A live session: a VM from its start to its report.
//!
//! Owns the order of its steps and all their clocks. Refuses to own the contents of a capture
//! (`capture`) and its place in the report (`record`). Called by the CLI.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use nmiscope_machine::Outcome as VmOutcome;
use nmiscope_report::{
    CrashCause, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger,
};
use nmiscope_symbolizer::SourceRoots;
use nmiscope_vmm as vmm;
use nmiscope_vmm::{Ports, Vm};

use super::console::{self, GuestConsole};
use super::guest::Guest;
use super::observe;
use super::options::{Ended, RunEvent, RunOptions};
use super::origin::Origin;
use super::piped_input::PipedInput;
use super::record::{CorePriority, RunRecord};
use super::sign_of_life::SignsOfLife;
use super::terminal::UserTerminal;
use super::wake::{Inbox, Wake};
use super::watch::{Observed, POLL, Watch};
use crate::capture::store::UnfinishedCore;
use crate::capture::{CaptureRequest, Sampling, StoppedGuest, Timeouts};
use crate::diagnosis::{self, Resolver, milliseconds};
use crate::errors::BadRequest;
use crate::hang::{Detection, Verdict};
use crate::images::{self, Access, Files, source_roots};
use crate::kernel::{
    DOORBELLS, KernelSymbols, SYMBOLS_INCOMPLETE, WithVariables, bundled_vocabulary,
};
use crate::status_line::StatusLine;
use crate::targets::Target;

/// Time for the vCPU threads to end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs a VM with the image in `files` until the guest ends, `options` ends it, or a signal does.
/// `started` is the time at which the program started.
///
/// # Errors
/// The VM could not be made, or the host failed. A failure of the guest is never an error: it is in the
/// report.
pub fn run(
    files: Files,
    options: &RunOptions,
    started: Instant,
    mut listener: impl FnMut(RunEvent<'_>),
) -> anyhow::Result<Ended> {
    let inbox = Inbox::new();
    let initrd = options.initrd.as_deref().map(|path| images::open(path, Access::Read));
    let initrd = initrd.transpose().map_err(BadRequest::from_error)?;
    let console = GuestConsole::open(&options.serial).map_err(BadRequest::from_error)?;
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
        events: inbox.vmm_events(|code| bundled_vocabulary().is_ready(code)),
    })
    .with_context(|| match &options.image {
        Some(path) => format!("failed to start a VM with {}", path.display()),
        None => "failed to start a VM with the bundled guest".into(),
    })?;
    // Only now: every request that can be refused has been checked, so a file may be emptied.
    console.start();
    drop(initrd);
    let terminal = Arc::new(UserTerminal::default());
    let signals = inbox.watch_signals(options.lost_by_second_signal.clone(), terminal.clone())?;
    let input = options.terminal_input.then(|| inbox.watch_terminal(&terminal)).flatten();
    // The listener may print where the console goes.
    let order = console.order();
    let mut listener = |event: RunEvent<'_>| {
        let _pause = order.pause();
        listener(event);
    };
    let status = if options.status_line { StatusLine::on_stderr()? } else { None };
    let piped = PipedInput::start(inbox.sender())?;
    let mut session = Session {
        signs: SignsOfLife::new(status),
        piped,
        vm,
        inbox,
        console,
        started,
        ready_after: None,
        captured_at: None,
        watch: options.bounds.any().then(|| Watch::new(options.bounds.clone())),
        record: RunRecord::new(&mut listener),
        guest: Guest::new(files, options),
        options,
    };
    session.start();
    let outcome = session.drive();
    let (report, core, console_failure) = session.finish(outcome);
    drop(input);
    Ok(Ended { report, core, console_failure, signals })
}

/// Returns the longest time from a run's time limit to the end of its process: a capture, the end of the
/// vCPUs and of the console, and `writing` for the report and the core.
pub fn longest_ending(vcpus: u32, writing: Duration) -> Duration {
    // Of the end, the listener's last event, and the console's own.
    const PAUSES: u32 = 3;
    Timeouts::for_vcpus(vcpus).longest_capture()
        + sampling_time(true)
        + console::PAUSE * PAUSES
        + SHUTDOWN
        + writing
}

struct Session<'a> {
    signs: SignsOfLife,
    piped: PipedInput,
    vm: Vm,
    inbox: Inbox,
    console: GuestConsole,
    started: Instant,
    ready_after: Option<Duration>,
    /// Wall clock at the last backtrace; `None` before the first.
    captured_at: Option<SystemTime>,
    /// Watch over the running guest; `None` if detection of every class is disabled.
    watch: Option<Watch>,
    record: RunRecord<'a>,
    guest: Guest<'a>,
    options: &'a RunOptions,
}

impl Session<'_> {
    fn start(&mut self) {
        self.vm.start();
        if self.guest.is_known() {
            return;
        }
        // An unknown kernel does not report that it is ready, so it is watched from the start.
        if let Some(watch) = &mut self.watch {
            watch.set_ready();
            let warning = format!(
                "unknown kernel ({}): only hangs that show from outside the guest are reported",
                self.guest.unknown_because()
            );
            self.record.warn(warning);
        }
    }

    /// Handles messages, timers and observations until the run ends, and returns its outcome.
    fn drive(&mut self) -> Outcome {
        let mut nmi_after = self.options.nmi_after;
        loop {
            let wake = self.inbox.wait(self.time_until_due(nmi_after));
            match wake {
                Ok(Wake::Vm(vmm::VmEvent::Post { at, .. })) => self.guest_ready(at),
                Ok(Wake::Vm(vmm::VmEvent::Ended(outcome))) => return self.guest_ended(&outcome),
                Ok(Wake::Vm(_)) => {}
                Ok(Wake::Signal(signal)) if signal.asks_for_backtrace() => {
                    self.stop_and_capture(Trigger::Signal { name: signal.name().into() });
                    self.resume();
                }
                Ok(Wake::Signal(signal)) => {
                    let by = signal.name().to_owned();
                    if signal.asks_for_last_backtrace() {
                        self.stop_and_capture(Trigger::Signal { name: by.clone() });
                    }
                    return Outcome::Stopped { by };
                }
                Ok(Wake::Input(bytes)) => {
                    // Keys are lost when the guest does not read its console, as on real hardware.
                    let _ = self.vm.serial_input(&bytes);
                }
                Ok(Wake::Piped(bytes)) => self.piped.add(&bytes),
                Err(_) => {}
            }
            self.deliver_input();
            if nmi_after.is_some_and(|after| self.started.elapsed() >= after) {
                nmi_after = None;
                self.stop_and_capture(Trigger::Timer);
                self.resume();
            }
            let elapsed = self.started.elapsed();
            if let Some(outcome) = self.observe_guest(elapsed) {
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
                self.record.emit(RunEvent::Outcome(&outcome));
                self.stop_and_capture(Trigger::TimeLimit);
                return outcome;
            }
        }
    }

    /// Returns the host CPU time of all vCPUs so far.
    fn run_time(&self) -> Duration {
        (0..self.options.vcpus).map(|cpu| self.vm.run_time(cpu)).sum()
    }

    /// Returns the time until the next observation or timer, whichever is first.
    fn time_until_due(&self, nmi_after: Option<Duration>) -> Duration {
        let elapsed = self.started.elapsed();
        let due = [nmi_after, self.options.stop_after, self.options.time_limit];
        let due = due.into_iter().flatten();
        let look = self.watch.as_ref().map_or(POLL, |watch| watch.due_in(elapsed));
        due.map(|after| after.saturating_sub(elapsed)).fold(look, Duration::min)
    }

    /// Handles a POST code, written at time `at`, that reports a known kernel as ready.
    fn guest_ready(&mut self, at: Instant) {
        // Many kernels write to port 0x80 for a delay, so an unknown kernel's code means nothing.
        if self.ready_after.is_some() || !self.guest.is_known() {
            return;
        }
        let after = at.saturating_duration_since(self.started);
        self.ready_after = Some(after);
        self.record.emit(RunEvent::Ready { machine: &machine(self.options), after });
        if let Some(watch) = &mut self.watch {
            watch.set_ready();
        }
    }

    /// Handles the end of the VM by itself. After a panic or a crash it takes a backtrace: the other CPUs
    /// may show the reason.
    fn guest_ended(&mut self, ended: &VmOutcome) -> Outcome {
        let cpu = ended.cpu();
        let outcome = match *ended {
            VmOutcome::DebugExit { code, .. } if self.guest.vocabulary().is_panic(code) => {
                Outcome::Panic { cpu, message: self.panic_message() }
            }
            VmOutcome::DebugExit { code, .. } => return Outcome::Exit { code },
            _ => Outcome::Crash { cpu, cause: crash_cause(ended), description: ended.to_string() },
        };
        self.record.emit(RunEvent::Outcome(&outcome));
        self.stop_and_capture(Trigger::GuestEnded);
        outcome
    }

    /// Observes the running guest if it is time to, and stops and judges it if the detector is suspicious.
    /// Returns an outcome if the run ends.
    fn observe_guest(&mut self, elapsed: Duration) -> Option<Outcome> {
        let watch = self.watch.as_mut()?;
        let Observed { noticed, problem } = watch.observe(&self.vm, &mut self.guest, elapsed)?;
        if let Some(reason) = problem {
            self.record.warn(format!(
                "hang detection waits for the kernel's structures, which were not found: {}",
                crate::error_chain(&reason)
            ));
        }
        for number in noticed.ended {
            self.record.resolved(number, elapsed);
        }
        self.show_signs_of_life(elapsed);
        if noticed.suspicious { self.stop_and_judge(elapsed) } else { None }
    }

    /// Passes standard input to a guest that listens: a known kernel does once it is ready, of another one
    /// nothing is known.
    fn deliver_input(&mut self) {
        if self.ready_after.is_some() || !self.guest.is_known() {
            self.piped.deliver(&self.vm);
        }
    }

    /// Shows the detector's view of the guest where it is due, and notes a bound that replaces a given one.
    fn show_signs_of_life(&mut self, elapsed: Duration) {
        let Some(watch) = self.watch.as_ref().filter(|_| self.signs.is_due(elapsed)) else {
            return;
        };
        let Some(outlook) = watch.outlook() else { return };
        self.signs.show(&outlook, elapsed);
        let note = self.signs.note(&outlook, watch.bounds(), self.options.general_bound);
        if let Some(note) = note {
            self.record.emit(RunEvent::Note(&note));
        }
    }

    /// Stops the guest and judges it. Resumes it if nothing is wrong, or if the policy says so; otherwise
    /// returns the outcome that ends the run.
    fn stop_and_judge(&mut self, elapsed: Duration) -> Option<Outcome> {
        let stopped = self.stop();
        let verdict = self.watch.as_mut()?.judge(&self.vm, &stopped, elapsed);
        match verdict {
            None => {
                self.resume();
                None
            }
            Some(Verdict::Hangs(found)) => {
                self.capture_stopped(stopped, elapsed, Trigger::Hang, Some(*found));
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
                self.record.emit(RunEvent::Outcome(&outcome));
                self.capture_stopped(stopped, elapsed, Trigger::Starved, None);
                Some(outcome)
            }
            Some(Verdict::Panicked(cpu)) => {
                let outcome = Outcome::Panic { cpu, message: self.panic_message() };
                self.record.emit(RunEvent::Outcome(&outcome));
                self.capture_stopped(stopped, elapsed, Trigger::GuestEnded, None);
                Some(outcome)
            }
        }
    }

    fn panic_message(&mut self) -> Option<String> {
        self.guest.vocabulary().panic_message(&self.console.panic_lines())
    }

    fn stop(&mut self) -> StoppedGuest {
        let mut bounds = Timeouts::for_vcpus(self.options.vcpus);
        bounds.handlers = self.options.nmi_timeout.unwrap_or(bounds.handlers);
        let known = self.watch.as_ref().and_then(Watch::places);
        StoppedGuest::stop(&mut self.vm, self.guest.examine().0, known, bounds)
    }

    /// Stops the guest and takes its backtrace. The guest stays stopped.
    fn stop_and_capture(&mut self, trigger: Trigger) {
        let asked = self.started.elapsed();
        let stopped = self.stop();
        let found = self.find_hangs_now(&stopped, asked, &trigger);
        self.capture_stopped(stopped, asked, trigger, found);
    }

    /// Finds the hangs of a stopped guest at a backtrace on request, including those whose bounds have not
    /// passed. `None` for another trigger: a guest that has ended has no hangs.
    fn find_hangs_now(
        &mut self,
        stopped: &StoppedGuest,
        at: Duration,
        trigger: &Trigger,
    ) -> Option<Detection> {
        match trigger {
            Trigger::Signal { .. } | Trigger::Timer | Trigger::TimeLimit => {}
            _ => return None,
        }
        match &mut self.watch {
            Some(watch) => watch.find_hangs(&self.vm, stopped, at),
            None => Some(observe::find_hangs_without_clocks(&self.vm, stopped, at)),
        }
    }

    /// Takes the backtrace of a stopped guest, and reports it with the hangs that were `found`. `at` is
    /// the time of the trigger since the start.
    fn capture_stopped(
        &mut self,
        stopped: StoppedGuest,
        at: Duration,
        trigger: Trigger,
        found: Option<Detection>,
    ) {
        let Self { vm, guest, watch, record, options, started, captured_at, .. } = self;
        let is_verdict = trigger == Trigger::Hang;
        let place = record.place_for(is_verdict, options.policy);
        if place.is_some() {
            *captured_at = Some(SystemTime::now());
        }
        let (kernel, files) = guest.examine();
        let image = files.parse().ok();
        let symbols = kernel.symbols(image.as_ref().map(|image| image as &dyn KernelSymbols));
        let wanted_variables = image.as_ref().filter(|_| options.variables);
        let with_variables = wanted_variables.map(WithVariables::new);
        let unwound_by = match &with_variables {
            Some(Ok(with_variables)) => Some(with_variables as &dyn KernelSymbols),
            _ => symbols,
        };
        let priority = CorePriority::from_trigger(&trigger);
        let mut still = watch.as_mut().map(|watch| {
            |target: &mut dyn Target| watch.cpus_to_sample(target, kernel, *started, is_verdict)
        });
        let request = CaptureRequest {
            // A vCPU that the host does not run would not answer its NMI.
            nmis: place.is_some() && trigger != Trigger::Starved,
            trigger,
            at,
            found,
            symbols: unwound_by,
            core: options
                .core
                .as_ref()
                .filter(|_| place.is_some() && record.has_room_for(priority)),
            sampling: still
                .as_mut()
                .map(|recheck| Sampling { time_limit: sampling_time(is_verdict), recheck }),
        };
        let (capture, core) = stopped.capture(vm, request);
        let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
        let resolver = resolver.with_vocabulary(kernel.vocabulary());
        let diagnosis = diagnosis::diagnose(&capture, place, &resolver);
        let is_budget_spent = resolver.symbols().is_some_and(KernelSymbols::is_budget_spent);
        if let Some(core) = core {
            record.keep(priority, core, capture);
        }
        record.add(diagnosis, is_verdict, place.is_some());
        // All backtraces are of the same image, and have the same reasons.
        if is_budget_spent {
            record.warn_once(SYMBOLS_INCOMPLETE.into());
        }
        if let Some(Err(reason)) = &with_variables {
            record.warn_once(reason.to_string());
        }
    }

    /// Resumes a stopped guest, and its hang detection.
    fn resume(&mut self) {
        self.vm.resume();
        if let Some(watch) = &mut self.watch {
            watch.resumed(self.started.elapsed());
        }
    }

    /// Ends the VM and the console. Returns the report, the core without it, and the error of the console's
    /// sink.
    fn finish(mut self, outcome: Outcome) -> (Report, Option<UnfinishedCore>, Option<io::Error>) {
        self.signs = SignsOfLife::new(None);
        self.record.emit(RunEvent::Stopping { exits: self.vm.exit_counts() });
        // A failure is a warning: the threads end with the process, and the report is complete.
        if let Err(error) = self.vm.shutdown(SHUTDOWN) {
            self.record.warn(format!("failed to {}", crate::error_chain(&error)));
        }
        self.console.finish();
        let console_failure = self.console.take_failure();
        if let Some(error) = &console_failure {
            self.record.warn(format!("the guest's console could not be written: {error}"));
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
            redacted: false,
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
        for remark in self.options.debug.notes.texts() {
            self.record.warn_once(remark);
        }
        let (report, core) = self.record.finish(report);
        (report, core, console_failure)
    }
}

/// Returns the longest time for sampling, which a host with few cores for many vCPUs may need. A backtrace
/// on request gets less: its user is waiting.
fn sampling_time(is_verdict: bool) -> Duration {
    Duration::from_millis(if is_verdict { 250 } else { 100 })
}

fn machine(options: &RunOptions) -> Machine {
    Machine { vcpus: options.vcpus, memory_bytes: options.memory_bytes }
}

fn crash_cause(outcome: &VmOutcome) -> CrashCause {
    match outcome {
        VmOutcome::TripleFault { .. } => CrashCause::TripleFault,
        outcome if outcome.is_kvm_error() => CrashCause::KvmError,
        _ => CrashCause::Reset,
    }
}
