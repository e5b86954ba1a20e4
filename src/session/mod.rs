//! One run of one VM: starts it, watches it, takes backtraces when something asks for one, and ends
//! with a report.
//!
//! Owns the order of things and all their clocks. What it learns it tells through [`Event`], to
//! whoever prints; it prints nothing itself. Called by the CLI; a farm of VMs would call it too.

mod console;
mod terminal;
mod wake;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nmiscope_guest::abi;
use nmiscope_symbolizer::SourceRoots;
use nmiscope_vmm as vmm;
use nmiscope_vmm::{Ports, Vm};

use crate::capture::nmi::{Bounds, page_tables, take};
use crate::diagnosis::{self, Resolver, milliseconds};
use crate::errors::BadRequest;
use crate::hang::{self, Detector, Observation};
use crate::images::{Files, hex};
use crate::kernel::{Kernel, Located};
use crate::report::{
    self, Backtrace, Image, Machine, Outcome, Report, SCHEMA_VERSION, Stall, Tool, Trigger,
};
use crate::target::memory::GuestRam;
use console::Console;
pub use console::Sink;
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
) -> anyhow::Result<Report> {
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
        symbols: None,
        ready_after: None,
        watch: Watch::default(),
        backtraces: Vec::new(),
        warnings: Vec::new(),
        listener: &mut listener,
        files,
        options,
    };
    session.vm.start();
    let outcome = session.drive();
    let report = session.finish(outcome?);
    drop((signals, input));
    Ok(report)
}

/// The image understood: which kernel, and what its addresses mean.
struct Symbols {
    kernel: Kernel,
    kernel_report: report::Kernel,
}

/// What is known for watching the heartbeats.
#[derive(Default)]
struct Watch {
    detector: Option<Detector>,
    places: Option<Located>,
    /// It has been said that they are not to be found.
    warned: bool,
}

struct Session<'a> {
    vm: Vm,
    inbox: Inbox,
    console: Console,
    started: Instant,
    symbols: Option<Symbols>,
    ready_after: Option<Duration>,
    watch: Watch,
    backtraces: Vec<Backtrace>,
    warnings: Vec<String>,
    listener: &'a mut dyn FnMut(Event<'_>),
    files: Files,
    options: &'a Options,
}

impl Session<'_> {
    /// Until something ends the run.
    fn drive(&mut self) -> anyhow::Result<Outcome> {
        let mut nmi_after = self.options.nmi_after;
        loop {
            let wake = self.inbox.wait(self.until_something_is_due(nmi_after));
            match wake {
                Ok(Wake::Vm(vmm::Event::Post { code: abi::POST_READY, at, .. })) => self.ready(at),
                Ok(Wake::Vm(vmm::Event::Ended(outcome))) => return Ok(self.guest_ended(&outcome)),
                Ok(Wake::Vm(_)) => {}
                Ok(Wake::Signal(signal)) if signal.asks_for_backtrace() => {
                    self.backtrace(Trigger::Signal { name: signal.name().into() });
                    self.go_on();
                }
                Ok(Wake::Signal(signal)) => {
                    return Ok(Outcome::Stopped { by: signal.name().into() });
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
                return Ok(outcome);
            }
            if self.options.stop_after.is_some_and(|after| elapsed >= after) {
                return Ok(Outcome::Stopped { by: "--stop-after".into() });
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
        let is_ours =
            self.options.image.is_none() || matches!(self.symbols().kernel, Kernel::Bundled(_));
        if self.ready_after.is_some() || !is_ours {
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
            if elapsed < waited
                || self.options.hang_after.is_none()
                || matches!(self.symbols().kernel, Kernel::Unknown { .. })
            {
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
            match self.find_heartbeats() {
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
        let unknown = matches!(self.symbols().kernel, Kernel::Unknown { .. });
        if unknown {
            self.watch.detector = None;
        }
        if unknown || !self.watch.warned {
            self.watch.warned = true;
            let state = if unknown { "off" } else { "waiting" };
            self.warn(format!(
                "hang detection is {state}, the guest's heartbeats are not to be found: {reason}"
            ));
        }
    }

    /// Stops a vCPU for a moment, once, to follow its page tables to the heartbeats.
    fn find_heartbeats(&mut self) -> Result<Located, String> {
        self.symbols();
        let Some(symbols) = &self.symbols else { unreachable!("read a line above") };
        let bundled = match &symbols.kernel {
            Kernel::Unknown { reason } => return Err(reason.clone()),
            Kernel::Bundled(bundled) => bundled,
        };
        let ram = GuestRam::new(self.vm.memory());
        let mut reason = String::new();
        for cpu in 0..self.vm.cpus() {
            let located = self
                .vm
                .state(cpu)
                .map_err(|error| crate::error_chain(&error))
                .and_then(|state| {
                    page_tables(&state.registers).map_err(|error| crate::error_chain(&error))
                })
                .and_then(|tables| {
                    bundled.locate(ram, tables).map_err(|error| crate::error_chain(&error))
                });
            match located {
                Ok(located) => return Ok(located),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    /// The image's symbols; read when they are first needed, which for a guest that behaves is
    /// after it has started.
    fn symbols(&mut self) -> &Symbols {
        if self.symbols.is_none() {
            self.files
                .find_debug_file(self.options.image.as_deref(), &self.options.debug_directory);
            let kernel = match self.files.parse() {
                Ok(image) => Kernel::recognise(&image),
                Err(error) => Kernel::Unknown { reason: crate::error_chain(&error) },
            };
            let kernel_report = match &kernel {
                Kernel::Bundled(_) => report::Kernel::Bundled,
                Kernel::Unknown { reason } => report::Kernel::Unknown { reason: reason.clone() },
            };
            self.symbols = Some(Symbols { kernel, kernel_report });
        }
        self.symbols.as_ref().expect("set above")
    }

    fn warn(&mut self, warning: String) {
        (self.listener)(Event::Warning(&warning));
        self.warnings.push(warning);
    }

    /// Takes a backtrace; the guest is stopped afterwards.
    fn backtrace(&mut self, trigger: Trigger) {
        let at = milliseconds(self.started.elapsed());
        self.symbols();
        let Some(symbols) = &self.symbols else { unreachable!("read a line above") };
        let mut bounds = Bounds::for_vcpus(self.options.vcpus);
        bounds.handlers = self.options.nmi_timeout.unwrap_or(bounds.handlers);
        let capture = take(&mut self.vm, &symbols.kernel, bounds);
        let image = self.files.parse().ok();
        let roots = SourceRoots::new(source_roots());
        let backtrace =
            diagnosis::backtrace(&capture, trigger, at, &Resolver::new(image.as_ref(), roots));
        (self.listener)(Event::Backtrace(&backtrace));
        self.backtraces.push(backtrace);
    }

    fn go_on(&mut self) {
        self.vm.resume();
        if let Some(detector) = &mut self.watch.detector {
            detector.reset();
        }
    }

    fn finish(self, outcome: Outcome) -> Report {
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
        let kernel =
            self.symbols.map_or(report::Kernel::NotExamined, |symbols| symbols.kernel_report);
        let build_id = self.files.parse().ok().and_then(|image| image.build_id().map(hex));
        Report {
            schema_version: SCHEMA_VERSION,
            tool: Tool {
                name: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            image: Image {
                path: self.options.image.as_deref().map(show_path),
                build_id,
                command_line: self.options.command_line.clone(),
                kernel,
            },
            machine: machine(self.options),
            ready_after_ms: self.ready_after.map(milliseconds),
            outcome,
            backtraces: self.backtraces,
            warnings,
            console_tail: self.console.tail(),
        }
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

fn show_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn show_stall(stall: &hang::Stall) -> Stall {
    Stall {
        cpu: stall.cpu as u32,
        tick_ms: stall.tick.map(milliseconds),
        main_loop_ms: stall.main_loop.map(milliseconds),
    }
}

/// Paths are shown relative to the bundled guest's repository, or to the working directory.
pub fn source_roots() -> Vec<String> {
    let working_directory = std::env::current_dir().ok();
    let roots: BTreeSet<String> = working_directory
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .chain([crate::bundled::SOURCE_ROOT.to_owned()])
        .collect();
    roots.into_iter().collect()
}
