//! A live session: a VM from its start to its report.
//!
//! Owns the order of its steps and all their clocks. Refuses to own the contents of a capture
//! (`capture`) and its place in the report (`record`). Called by the CLI.
//!
//! | module | holds |
//! |---|---|
//! | `observed` | the running guest: signs of life, and the response to a verdict |
//! | `backtrace` | the guest stopped, and its backtrace taken |
//! | `ending` | the end of the VM and the console, within their deadlines |

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use nmiscope_machine::Outcome as VmOutcome;
use nmiscope_report::{CrashCause, Machine, Outcome, Trigger};
use nmiscope_vmm as vmm;
use nmiscope_vmm::{Ports, Vm};

use super::console::GuestConsole;
use super::guest::Guest;
use super::options::{Ended, RunEvent, RunOptions};
use super::piped_input::PipedInput;
use super::record::RunRecord;
use super::sign_of_life::SignsOfLife;
use super::terminal::UserTerminal;
use super::wake::{Inbox, Wake};
use super::watch::{POLL, Watch};
use crate::diagnosis::milliseconds;
use crate::errors::BadRequest;
use crate::images::{self, Access, Files};
use crate::kernel::{DOORBELLS, bundled_vocabulary};
use crate::status_line::StatusLine;

mod backtrace;
mod ending;
mod observed;

pub use ending::longest_ending;

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
        let _pause = event.stream(options.text).and_then(|stream| order.pause_for(stream));
        listener(event);
    };
    let status = match options.text {
        Some(_) => StatusLine::on_stderr()?,
        None => None,
    };
    let mut guest = Guest::new(files, options);
    let watch = options.bounds.any().then(|| Watch::new(options.bounds.clone()));
    // An unknown kernel would be stopped to be looked at, which nobody has asked for.
    let may_look_on = watch.is_none() && status.is_some() && guest.is_known();
    let onlooker = may_look_on.then(|| Watch::new(options.bounds.clone()));
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
        watch,
        onlooker,
        record: RunRecord::new(&mut listener),
        guest,
        options,
    };
    session.start();
    let outcome = session.drive();
    let (report, core, console_failure) = session.finish(outcome);
    drop(input);
    Ok(Ended { report, core, console_failure, signals })
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
    /// Observer without conclusions, for the status line of a guest that is not watched.
    onlooker: Option<Watch>,
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
        for watch in self.watch.iter_mut().chain(&mut self.onlooker) {
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

    /// Passes standard input to a guest that listens: a known kernel does once it is ready, of another one
    /// nothing is known.
    fn deliver_input(&mut self) {
        if self.ready_after.is_some() || !self.guest.is_known() {
            self.piped.deliver(&self.vm);
        }
    }

    fn panic_message(&mut self) -> Option<String> {
        self.guest.vocabulary().panic_message(&self.console.panic_lines())
    }
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
