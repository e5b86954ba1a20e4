//! One run of one VM: starts it, watches it, takes backtraces when something asks for one, and ends
//! with a report.
//!
//! Owns the order of things and all their clocks. What it learns it tells through [`Event`], to
//! whoever prints; it prints nothing itself. Called by the CLI. A farm starts a process for each.

mod console;
mod guest;
mod samples;
mod terminal;
mod wake;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use nmiscope_machine::{Outcome as VmOutcome, PhysicalMemory};
use nmiscope_symbolizer::SourceRoots;
use nmiscope_vmm as vmm;
use nmiscope_vmm::{Ports, Vm};

use crate::capture::nmi::{Bounds as NmiBounds, Stopped};
use crate::diagnosis::{self, Looks, Resolver, milliseconds};
use crate::errors::BadRequest;
use crate::hang::{self, Found, Verdict};
use crate::images::{self, Access, Files, source_roots};
use crate::kernel::{DOORBELLS, Symbols, WithVariables, bundled_words};
use crate::postmortem::{self, Moment, Pending, Taken};
use crate::report::{
    Backtrace, CrashCause, Hang, Machine, Outcome, Report, SCHEMA_VERSION, Source, Tool, Trigger,
};
use crate::targets::Touched;
use console::Console;
pub use console::Sink;
use guest::Guest;
use samples::Sampler;
use wake::{Inbox, Wake};
use watch::{Observed, POLL, Watch};

/// Of the small threads beside the session's own. Two megabytes, as is usual, can become a huge page
/// at the first touch, which has to be cleared, and counts as used.
const STACK: usize = 256 << 10;

/// What to run, and what to do about it.
#[derive(Debug)]
pub struct Options {
    /// The image; `None` for the bundled guest.
    pub image: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel parameters.
    pub command_line: String,
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// How long what may last before it is a hang.
    pub bounds: hang::Bounds,
    /// What to do about a hang.
    pub policy: Policy,
    /// Take a backtrace this long after the start.
    pub nmi_after: Option<Duration>,
    /// End the run this long after the start.
    pub stop_after: Option<Duration>,
    /// The guest should have ended by itself this long after the start.
    pub time_limit: Option<Duration>,
    /// How long the NMI handlers have, all together; `None` for what suits that many vCPUs.
    pub nmi_timeout: Option<Duration>,
    /// Where the guest's console goes.
    pub serial: Sink,
    /// Whether keys on a terminal go to the guest's console.
    pub terminal_input: bool,
    /// Whether a second signal that asks to end does so at once.
    pub second_signal_ends: bool,
    /// Where separate debug files are.
    pub debug_directory: PathBuf,
    /// Whether to read the arguments and locals of the frames that the host sees.
    pub variables: bool,
    /// Where a core goes: of how the guest ended, of its last hang, or of the last backtrace.
    pub core: Option<postmortem::Destination>,
}

/// What to do about a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Take a backtrace. Without it there are no NMIs.
    pub report: bool,
    /// End the run; otherwise the guest goes on, and it is said if the hang is over.
    pub kill: bool,
}

/// What a run leaves.
#[derive(Debug)]
pub struct Ended {
    /// What is to be said of it.
    pub report: Report,
    /// The core, or why there is none; `None` if none was asked for, or nothing worth one happened.
    pub core: Option<anyhow::Result<PathBuf>>,
}

/// What happens during a run, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// The guest says that its CPUs are up.
    Ready {
        /// The machine it runs on.
        machine: &'a Machine,
        /// How long it took, from the tool's start.
        after: Duration,
    },
    /// There is something to look out for.
    Warning(&'a str),
    /// The guest hangs.
    Hangs(&'a [Hang]),
    /// A hang that was told of is over.
    Resolved(&'a Hang),
    /// Something is wrong, or the guest is over.
    Outcome(&'a Outcome),
    /// A backtrace has been taken.
    Backtrace(&'a Backtrace),
    /// The vCPUs are about to be ended.
    Stopping {
        /// How often they came out of the guest.
        exits: vmm::ExitCounts,
    },
}

/// How long the guest's last words have to reach whoever reads the console.
const CONSOLE: Duration = Duration::from_secs(1);

/// How many backtraces of hangs a report has: a guest that goes on may hang again and again.
const MOST_BACKTRACES: usize = 16;

/// How many hangs.
const MOST_HANGS: usize = 1_000;

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
        watch: options.bounds.any().then(|| Watch::new(options.bounds.clone())),
        hangs: Vec::new(),
        more_hangs: 0,
        backtraces: Vec::new(),
        core: None,
        warnings: Vec::new(),
        listener: &mut listener,
        guest: Guest::new(files, options),
        options,
    };
    session.start();
    let outcome = session.drive();
    let ended = session.finish(outcome);
    drop((signals, input));
    Ok(ended)
}

/// How much a backtrace is worth a core: of those that are worth as much, the last one gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    AskedFor,
    Hang,
    End,
}

impl Weight {
    fn of(trigger: &Trigger) -> Self {
        match trigger {
            Trigger::Signal { .. } | Trigger::Timer => Self::AskedFor,
            Trigger::Hang => Self::Hang,
            Trigger::Starved | Trigger::GuestEnded | Trigger::TimeLimit => Self::End,
        }
    }
}

/// A core that is begun, and what it still lacks.
struct Kept {
    weight: Weight,
    /// Which of the backtraces it is of.
    backtrace: usize,
    pending: anyhow::Result<(Pending, Taken)>,
}

struct Session<'a> {
    vm: Vm,
    inbox: Inbox,
    console: Console,
    started: Instant,
    ready_after: Option<Duration>,
    /// `None` where nothing is looked for.
    watch: Option<Watch>,
    /// All hangs so far, as the detector counts them.
    hangs: Vec<Hang>,
    /// Those that were told of and are not among them.
    more_hangs: usize,
    backtraces: Vec<Backtrace>,
    /// The moment that is kept, of those that there were a backtrace of.
    core: Option<Kept>,
    warnings: Vec<String>,
    listener: &'a mut dyn FnMut(Event<'_>),
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
            self.warn(warning);
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
                let outcome = Outcome::TimedOut { limit_ms: milliseconds(limit) };
                (self.listener)(Event::Outcome(&outcome));
                self.backtrace(Trigger::TimeLimit);
                return outcome;
            }
        }
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
        (self.listener)(Event::Ready { machine: &machine(self.options), after });
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
        (self.listener)(Event::Outcome(&outcome));
        self.backtrace(Trigger::GuestEnded);
        outcome
    }

    /// Looks at the guest, and closely if something may be wrong with it.
    fn look_for_trouble(&mut self, elapsed: Duration) -> Option<Outcome> {
        let watch = self.watch.as_mut()?;
        let Observed { noticed, problem } = watch.observe(&self.vm, &mut self.guest, elapsed)?;
        if let Some(reason) = problem {
            self.warn(format!(
                "hang detection is waiting, the guest's heartbeats are not to be found: {reason}"
            ));
        }
        for number in noticed.over {
            self.resolved(number, elapsed);
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
                (self.listener)(Event::Outcome(&outcome));
                self.backtrace_of(stopped, elapsed, Trigger::Starved, None);
                Some(outcome)
            }
            Some(Verdict::Panicked(cpu)) => {
                let outcome = Outcome::Panic { cpu, message: self.panic_message() };
                (self.listener)(Event::Outcome(&outcome));
                self.backtrace_of(stopped, elapsed, Trigger::GuestEnded, None);
                Some(outcome)
            }
        }
    }

    /// The hang that was the `number`th is over.
    fn resolved(&mut self, number: usize, elapsed: Duration) {
        let Some(hang) = self.hangs.get_mut(number) else { return };
        hang.resolved_after_ms = Some(milliseconds(elapsed) - hang.at_ms);
        (self.listener)(Event::Resolved(hang));
    }

    fn panic_message(&mut self) -> Option<String> {
        self.guest.vocabulary().panic_message(&self.console.tail())
    }

    fn warn(&mut self, warning: String) {
        (self.listener)(Event::Warning(&warning));
        self.warnings.push(warning);
    }

    fn warn_once(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warn(warning);
        }
    }

    fn stop(&mut self) -> Stopped {
        let mut bounds = NmiBounds::for_vcpus(self.options.vcpus);
        bounds.handlers = self.options.nmi_timeout.unwrap_or(bounds.handlers);
        let known = self.watch.as_ref().and_then(Watch::places);
        Stopped::stop(&mut self.vm, self.guest.examine().0, known, bounds)
    }

    /// Takes a backtrace; the guest is stopped afterwards.
    fn backtrace(&mut self, trigger: Trigger) {
        let asked = self.started.elapsed();
        let stopped = self.stop();
        self.backtrace_of(stopped, asked, trigger, None);
    }

    /// Takes a backtrace of a guest that stands still, `asked` for that long after the start, and
    /// tells of the hangs that were `found`.
    fn backtrace_of(
        &mut self,
        stopped: Stopped,
        asked: Duration,
        trigger: Trigger,
        mut found: Option<Found>,
    ) {
        let at = milliseconds(asked);
        let report = self.options.policy.report;
        let wanted = found.is_none() || report && self.backtraces.len() < MOST_BACKTRACES;
        if report && !wanted {
            self.warn_once(format!(
                "the guest has hung often: of further hangs there are no backtraces (the most is \
                 {MOST_BACKTRACES})"
            ));
        }
        let (kernel, files) = self.guest.examine();
        let image = files.parse().ok();
        let symbols = kernel.symbols(image.as_ref().map(|image| image as &dyn Symbols));
        let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
        let resolver = resolver.with_words(kernel.vocabulary());
        let wanted_variables = image.as_ref().filter(|_| self.options.variables);
        let with_variables = wanted_variables.map(WithVariables::new);
        let looked_by = match &with_variables {
            Some(Ok(with_variables)) => Some(with_variables as &dyn Symbols),
            _ => symbols,
        };
        // A guest that the host does not run would take forever to answer.
        let ask = wanted && trigger != Trigger::Starved;
        let reserved = if ask { stopped.reserve(&mut self.vm) } else { stopped.without_nmis() };
        let memory: &dyn PhysicalMemory = &self.vm;
        let touched = Touched::new(memory);
        let looks = Looks::look(
            &reserved.stopped.states,
            reserved.stopped.activity.known(),
            looked_by,
            &touched,
        );
        let moment = Moment {
            stopped: &reserved.stopped,
            looks: &looks,
            target: &self.vm,
            touched: &touched,
            symbols,
        };
        // A core that is there already is of something more important.
        let weight = Weight::of(&trigger);
        let keep = wanted && self.core.as_ref().is_none_or(|kept| kept.weight <= weight);
        let core = self.options.core.as_ref().filter(|_| keep).map(|core| core.begin(&moment));
        let capture = reserved.run_nmis(&mut self.vm);
        if let (Some(found), Some(watch)) = (&mut found, &mut self.watch) {
            let (target, started) = (&mut self.vm, self.started);
            let sampler = Sampler { target, watch, kernel, symbols, started };
            found.samples = sampler.sample(found, &capture);
        }
        let backtrace = diagnosis::backtrace(&capture, &looks, trigger, at, &resolver);
        let index = wanted.then_some(self.backtraces.len() as u32);
        if let Some(found) = &found {
            let hangs = diagnosis::hangs(found, &capture, &backtrace, index, &resolver);
            (self.listener)(Event::Hangs(&hangs));
            let room = MOST_HANGS.saturating_sub(self.hangs.len());
            self.more_hangs += hangs.len().saturating_sub(room);
            self.hangs.extend(hangs.into_iter().take(room));
        }
        if let Some(core) = core {
            let backtrace = self.backtraces.len();
            let pending = core.map(|core| (core, Taken { capture, found }));
            self.core = Some(Kept { weight, backtrace, pending });
        }
        let no_variables = with_variables.and_then(Result::err);
        if wanted {
            (self.listener)(Event::Backtrace(&backtrace));
            self.backtraces.push(backtrace);
        }
        // The next backtrace is of the same image.
        if let Some(warning) = no_variables {
            self.warn_once(warning);
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
        if self.more_hangs > 0 {
            self.warn(format!("{} more hangs are not in this report", self.more_hangs));
        }
        self.console.drain(CONSOLE);
        (self.listener)(Event::Stopping { exits: self.vm.exit_counts() });
        let mut warnings = self.warnings;
        // The threads end with the process at the latest, and the report is what was wanted.
        if let Err(error) = self.vm.shutdown(SHUTDOWN) {
            let warning = format!("failed to {}", crate::error_chain(&error));
            (self.listener)(Event::Warning(&warning));
            warnings.push(warning);
        }
        if self.console.dropped() > 0 {
            let dropped = self.console.dropped();
            let warning = format!("{dropped} bytes of the guest's console were not read in time");
            (self.listener)(Event::Warning(&warning));
            warnings.push(warning);
        }
        let report = Report {
            schema_version: SCHEMA_VERSION,
            source: Source::Live,
            tool: Tool {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            image: self.guest.report(),
            machine: machine(self.options),
            ready_after_ms: self.ready_after.map(milliseconds),
            outcome,
            hangs: self.hangs,
            backtraces: self.backtraces,
            warnings,
            console_tail: self.console.tail(),
        };
        let core = self.core.map(|kept| {
            let (core, taken) = kept.pending?;
            core.finish(&report, kept.backtrace, taken)
        });
        Ended { report, core }
    }
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
