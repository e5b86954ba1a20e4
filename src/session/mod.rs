//! One run of one VM: starts it, watches it, takes backtraces when something asks for one, and ends
//! with a report.
//!
//! Owns the order of things and all their clocks. What it learns it tells through [`Event`], to
//! whoever prints; it prints nothing itself. Called by the CLI; a farm of VMs would call it too.

mod console;
mod guest;
mod terminal;
mod wake;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use nmiscope_guest::abi;
use nmiscope_symbolizer::SourceRoots;
use nmiscope_vmm as vmm;
use nmiscope_vmm::{Ports, Vm};

use crate::capture::Capture;
use crate::capture::nmi::{Bounds, Stopped};
use crate::diagnosis::host_look::look_at_all;
use crate::diagnosis::{self, Resolver, milliseconds, variables};
use crate::errors::BadRequest;
use crate::hang::{self, Detector, Observation};
use crate::images::{Files, source_roots};
use crate::kernel::Located;
use crate::postmortem::{self, Moment, Pending};
use crate::report::{
    Backtrace, Machine, Outcome, Report, SCHEMA_VERSION, Source, Stall, Tool, Trigger,
};
use crate::target::memory::{GuestRam, Touched};
use console::Console;
pub use console::Sink;
use guest::Guest;
use wake::{Inbox, Wake};

/// What to run, and what to do about it.
#[derive(Debug)]
pub struct Options {
    /// The image; `None` for the bundled guest.
    pub image: Option<PathBuf>,
    /// Kernel parameters.
    pub command_line: String,
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// A CPU without progress for this long hangs; `None` not to look.
    pub hang_after: Option<Duration>,
    /// How long the guest has to become ready.
    pub ready_within: Duration,
    /// Take a backtrace this long after the start.
    pub nmi_after: Option<Duration>,
    /// End the run this long after the start.
    pub stop_after: Option<Duration>,
    /// How long the NMI handlers have, all together; `None` for what suits that many vCPUs.
    pub nmi_timeout: Option<Duration>,
    /// Where the guest's console goes.
    pub serial: Sink,
    /// Whether keys on a terminal go to the guest's console.
    pub terminal_input: bool,
    /// Where separate debug files are.
    pub debug_directory: PathBuf,
    /// Whether to read the arguments and locals of the frames that the host sees.
    pub variables: bool,
    /// Where a core of the last backtrace goes.
    pub core: Option<postmortem::Destination>,
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

/// How often the heartbeats are read.
const POLL: Duration = Duration::from_millis(100);

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
    let console = Console::open(&options.serial).map_err(BadRequest::from_error)?;
    let vm = Vm::new(vmm::Config {
        cpus: options.vcpus,
        memory: options.memory_bytes,
        image: &files.image,
        cmdline: options.command_line.clone(),
        serial_output: console.writer(),
        ports: Ports {
            debug_exit: abi::DEBUG_EXIT_PORT,
            post: abi::POST_PORT,
            nmi_done: abi::NMI_DONE_PORT,
        },
        pit: options.image.is_some(),
        events: inbox.vmm_events(),
    })
    .with_context(|| match &options.image {
        Some(path) => format!("failed to start a VM with {}", path.display()),
        None => "failed to start a VM with the bundled guest".into(),
    })?;
    // After the VM: everything that can be refused has been.
    console.start();
    let signals = inbox.watch_signals()?;
    let input = options.terminal_input.then(|| inbox.watch_terminal()).flatten();
    let mut session = Session {
        vm,
        inbox,
        console,
        started,
        ready_after: None,
        watch: Watch::default(),
        backtraces: Vec::new(),
        core: None,
        warnings: Vec::new(),
        listener: &mut listener,
        guest: Guest::new(files, options),
        options,
    };
    session.vm.start();
    let outcome = session.drive();
    let ended = session.finish(outcome);
    drop((signals, input));
    Ok(ended)
}

/// What is known for watching the heartbeats.
#[derive(Default)]
struct Watch {
    detector: Option<Detector>,
    places: Option<Located>,
    /// How many times they were not to be found.
    failures: u32,
}

struct Session<'a> {
    vm: Vm,
    inbox: Inbox,
    console: Console,
    started: Instant,
    ready_after: Option<Duration>,
    watch: Watch,
    backtraces: Vec<Backtrace>,
    /// Of the last backtrace: the core that is begun, and what it still lacks.
    core: Option<anyhow::Result<(Pending, Capture)>>,
    warnings: Vec<String>,
    listener: &'a mut dyn FnMut(Event<'_>),
    guest: Guest<'a>,
    options: &'a Options,
}

impl Session<'_> {
    /// Until something ends the run.
    fn drive(&mut self) -> Outcome {
        let mut nmi_after = self.options.nmi_after;
        loop {
            let wake = self.inbox.wait(self.until_something_is_due(nmi_after));
            match wake {
                Ok(Wake::Vm(vmm::Event::Post { code: abi::POST_READY, at, .. })) => self.ready(at),
                Ok(Wake::Vm(vmm::Event::Ended(outcome))) => return self.guest_ended(&outcome),
                Ok(Wake::Vm(_)) => {}
                Ok(Wake::Signal(signal)) if signal.asks_for_backtrace() => {
                    self.backtrace(Trigger::Signal { name: signal.name().into() });
                    self.go_on();
                }
                Ok(Wake::Signal(signal)) => {
                    return Outcome::Stopped { by: signal.name().into() };
                }
                Ok(Wake::Input(bytes)) => {
                    // A guest that does not read its console loses keys, as on real hardware.
                    let _ = self.vm.serial_input(&bytes);
                }
                Err(_) => {}
            }
            let elapsed = self.started.elapsed();
            if nmi_after.is_some_and(|after| elapsed >= after) {
                nmi_after = None;
                self.backtrace(Trigger::Timer);
                self.go_on();
            }
            if let Some(outcome) = self.look_for_trouble(elapsed) {
                return outcome;
            }
            if self.options.stop_after.is_some_and(|after| elapsed >= after) {
                return Outcome::Stopped { by: "--stop-after".into() };
            }
        }
    }

    /// The next look at the heartbeats, or what was asked for a certain time.
    fn until_something_is_due(&self, nmi_after: Option<Duration>) -> Duration {
        let elapsed = self.started.elapsed();
        let due = [nmi_after, self.options.stop_after].into_iter().flatten();
        due.map(|after| after.saturating_sub(elapsed)).fold(POLL, Duration::min)
    }

    fn ready(&mut self, at: Instant) {
        // Port 0x80 is a delay to many kernels, and what they write there means nothing.
        if self.ready_after.is_some() || !self.guest.is_known() {
            return;
        }
        let after = at.saturating_duration_since(self.started);
        self.ready_after = Some(after);
        (self.listener)(Event::Ready { machine: &machine(self.options), after });
        self.watch.detector =
            self.options.hang_after.map(|hang_after| Detector::new(hang_after, POLL));
    }

    /// The VM has ended by itself. If it did not choose to, the other CPUs may know why.
    fn guest_ended(&mut self, ended: &vmm::Outcome) -> Outcome {
        let cpu = ended.cpu();
        let outcome = match *ended {
            vmm::Outcome::DebugExit { code: abi::EXIT_PANIC, .. } => {
                Outcome::Panic { cpu, message: panic_message(&self.console.tail()) }
            }
            vmm::Outcome::DebugExit { code, .. } => return Outcome::Exit { code },
            _ => Outcome::Crash { cpu, description: ended.to_string() },
        };
        (self.listener)(Event::Outcome(&outcome));
        self.backtrace(Trigger::GuestEnded);
        outcome
    }

    /// Reads the heartbeats, and looks at the time that the guest takes to become ready.
    fn look_for_trouble(&mut self, elapsed: Duration) -> Option<Outcome> {
        let (outcome, trigger) = if self.ready_after.is_some() {
            let stalls = self.stalls(elapsed);
            if stalls.is_empty() {
                return None;
            }
            (Outcome::Hang { stalls: stalls.iter().map(show_stall).collect() }, Trigger::Hang)
        } else {
            let waited = self.options.ready_within;
            // A guest of which nothing is known need not ever say that it is ready.
            if elapsed < waited || self.options.hang_after.is_none() || !self.guest.is_known() {
                return None;
            }
            (Outcome::NotReady { waited_ms: milliseconds(waited) }, Trigger::NotReady)
        };
        (self.listener)(Event::Outcome(&outcome));
        self.backtrace(trigger);
        Some(outcome)
    }

    fn stalls(&mut self, at: Duration) -> Vec<hang::Stall> {
        if self.watch.detector.is_none() {
            return Vec::new();
        }
        if self.watch.places.is_none() {
            match self.guest.locate(&self.vm) {
                Ok(places) => self.watch.places = Some(places),
                Err(reason) => self.no_heartbeats(&reason),
            }
        }
        let (Some(detector), Some(places)) = (&mut self.watch.detector, &self.watch.places) else {
            return Vec::new();
        };
        let ram = GuestRam::new(self.vm.memory());
        let cpus = places.cpus.iter();
        let cpus = cpus.map(|cpu| cpu.as_ref().ok()?.heartbeats(ram)).collect();
        detector.observe(Observation { at, cpus })
    }

    /// A kernel that is not known has none. One that is could not be looked at this time.
    fn no_heartbeats(&mut self, reason: &str) {
        let unknown = !self.guest.is_known();
        if unknown {
            self.watch.detector = None;
        }
        self.watch.failures += 1;
        // A guest that has just crashed cannot be looked at either, and the next event says so.
        if unknown || self.watch.failures == 2 {
            let state = if unknown { "off" } else { "waiting" };
            self.warn(format!(
                "hang detection is {state}, the guest's heartbeats are not to be found: {reason}"
            ));
        }
    }

    fn warn(&mut self, warning: String) {
        (self.listener)(Event::Warning(&warning));
        self.warnings.push(warning);
    }

    /// Takes a backtrace; the guest is stopped afterwards.
    fn backtrace(&mut self, trigger: Trigger) {
        let at = milliseconds(self.started.elapsed());
        let mut bounds = Bounds::for_vcpus(self.options.vcpus);
        bounds.handlers = self.options.nmi_timeout.unwrap_or(bounds.handlers);
        let (kernel, files) = self.guest.examine();
        let image = files.parse().ok();
        let resolver = Resolver::new(image.as_ref(), SourceRoots::new(source_roots()));
        let image_of_types = resolver.image().filter(|_| self.options.variables);
        let types = variables::types(image_of_types);
        let stopped = Stopped::stop(&mut self.vm, kernel, bounds);
        let ram = GuestRam::new(self.vm.memory());
        let touched = Touched::new(ram);
        let looks = look_at_all(
            &stopped.states,
            resolver.image(),
            types.as_ref().ok().and_then(Option::as_ref),
            &touched,
        );
        let moment = Moment {
            stopped: &stopped,
            looks: &looks,
            ram,
            touched: &touched,
            image: resolver.image(),
        };
        let core = self.options.core.as_ref().map(|core| core.begin(&moment));
        let capture = stopped.run_nmis(&mut self.vm);
        let backtrace = diagnosis::backtrace(&capture, &looks, trigger, at, &resolver);
        self.core = core.map(|core| Ok((core?, capture)));
        let no_types = types.err();
        (self.listener)(Event::Backtrace(&backtrace));
        self.backtraces.push(backtrace);
        // Once is enough: the next backtrace is of the same image.
        if let Some(warning) = no_types.filter(|warning| !self.warnings.contains(warning)) {
            self.warn(warning);
        }
    }

    fn go_on(&mut self) {
        self.vm.resume();
        if let Some(detector) = &mut self.watch.detector {
            detector.reset();
        }
    }

    fn finish(self, outcome: Outcome) -> Ended {
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
            backtraces: self.backtraces,
            warnings,
            console_tail: self.console.tail(),
        };
        let core = self.core.map(|core| {
            let (core, capture) = core?;
            core.finish(&report, capture)
        });
        Ended { report, core }
    }
}

/// The last panic's message, from lines as the guest's kernel prints them.
fn panic_message(console: &[String]) -> Option<String> {
    let after_mark = |line: &String| {
        let (_, rest) = line.split_once("Kernel panic on ")?;
        Some(rest.split_once(": ")?.1.to_owned())
    };
    console.iter().rev().find_map(after_mark)
}

fn machine(options: &Options) -> Machine {
    Machine { vcpus: options.vcpus, memory_bytes: options.memory_bytes }
}

fn show_stall(stall: &hang::Stall) -> Stall {
    Stall {
        cpu: stall.cpu as u32,
        tick_ms: stall.tick.map(milliseconds),
        main_loop_ms: stall.main_loop.map(milliseconds),
    }
}
