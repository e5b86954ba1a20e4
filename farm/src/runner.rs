//! The runner: starts VMs as the host has room for them, and emits an event for everything that happens to
//! them.
//!
//! One thread makes all decisions. It only ever waits for its inbox: a VM's process has ended, a signal
//! has arrived, or a deadline has passed.
//!
//! Owns the order of starts, retries and stops; refuses to own processes (`process`), room on the host
//! (`budget`, `queue`) and verdicts (`examine`). Called by the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::budget::Resources;
use super::event::{
    EventKind, FarmEvent, FarmFinished, FarmStarted, Id, Status, VmFinished, VmStarted,
};
use super::examine::{Examined, examine};
use super::judge::{Judgement, ProcessEnd};
use super::line;
use super::process::{self, VmProcess};
use super::queue::{Queue, WaitingRun};
use super::results::{self, BundledGuest, FinishedRun, PreviousRun, Results, hash_definition};
use super::suite::SuiteVm;
use super::timestamp::Timestamp;

/// Options that control how a plan is run.
#[derive(Debug)]
pub struct RunnerOptions {
    /// Path of the program that runs a VM.
    pub program: PathBuf,
    /// Further options of `run` for every VM. Paths in them are absolute: each VM has its own directory.
    pub run_options: Vec<String>,
    /// Guest bundled with that program.
    pub bundled: BundledGuest,
    /// Resources that running VMs may use at a time.
    pub budget: Resources,
    /// Number of further tries after a failure; `None` for the number in the suite.
    pub retries: Option<u32>,
    /// Start no more VMs after a failure.
    pub fail_fast: bool,
    /// Start no more VMs after a hang.
    pub until_hang: bool,
    /// Longest time from a VM's time limit to the end of its process.
    pub exit_grace: fn(&SuiteVm) -> Duration,
}

/// Function that returns the URL at which a failure with this signature is tracked; `None` for an unknown
/// one.
pub type TrackerLookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Messages to the runner's thread.
#[derive(Debug)]
pub enum RunnerMessage {
    /// The VM's guest has ended and its process only cleans up; with the runner's number of the try.
    GuestEnded(u64),
    /// The VM's process has ended; with the runner's number of the try, and the error that the process
    /// sent.
    ProcessEnded(u64, ProcessEnd, Option<String>),
    /// A signal with this name asked the farm to end.
    Signal(&'static str),
}

/// Summary of a run, for the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSummary {
    /// Number of runs by status, without known failures.
    pub unknown: BTreeMap<Status, u64>,
    /// True if some planned runs have not been completed.
    pub unfinished: bool,
}

/// Time that VMs get to end when the results directory cannot be written.
const END_TIME: Duration = Duration::from_secs(10);

/// Number of processes still cleaning up above which nothing more is started: each takes little, but not
/// nothing.
const MAX_CLEANING_UP: usize = 8;

/// A try whose process is running.
struct Running {
    id: Id,
    vm: usize,
    directory: PathBuf,
    /// Resources held by the try; without CPUs once its guest has ended.
    share: Resources,
    /// True once the guest has ended and the process only cleans up.
    guest_ended: bool,
    process: VmProcess,
    /// Cause of the signal that the farm has sent to end the process; `None` if it sent none.
    killed_as: Option<ProcessEnd>,
}

/// The state of the runner.
pub struct Runner<'a> {
    vms: &'a [SuiteVm],
    options: &'a RunnerOptions,
    results: Results,
    known: &'a TrackerLookup<'a>,
    report: &'a mut dyn FnMut(&FarmEvent),
    sender: Sender<RunnerMessage>,
    inbox: Receiver<RunnerMessage>,
    waiting: Queue,
    running: BTreeMap<u64, Running>,
    free: Resources,
    next: u64,
    done: BTreeMap<(String, u32), FinishedRun>,
    /// Number of runs that did not start or were interrupted because the farm was ended.
    not_run: u64,
    started: Instant,
    /// True once `--fail-fast` or `--until-hang` has been fulfilled: no run starts, and none is retried.
    goal_reached: bool,
    /// Time at which the farm was asked to end; processes that outlive it by their grace are killed.
    interrupted_at: Option<Instant>,
}

impl<'a> Runner<'a> {
    /// Prepares `runs`: pairs of a VM's index and the number of its run. Each event is passed to `report`
    /// after it has been written to the journal.
    pub fn new(
        vms: &'a [SuiteVm],
        runs: impl IntoIterator<Item = (usize, u32)>,
        options: &'a RunnerOptions,
        (results, previous): (Results, &PreviousRun),
        known: &'a TrackerLookup<'a>,
        report: &'a mut dyn FnMut(&FarmEvent),
    ) -> Self {
        let (sender, inbox) = mpsc::channel();
        let (mut waiting, mut done) = (Queue::default(), BTreeMap::new());
        for (vm, run) in runs {
            let key = (vms[vm].name.clone(), run);
            if let Some(over) = previous.done.get(&key) {
                done.insert(key, over.clone());
                continue;
            }
            let attempt = previous.next.get(&key).copied().unwrap_or(1);
            waiting.add(Id { name: key.0, run, attempt }, vm);
        }
        Self {
            vms,
            options,
            results,
            known,
            report,
            sender,
            inbox,
            waiting,
            running: BTreeMap::new(),
            free: options.budget,
            next: 0,
            done,
            not_run: 0,
            started: Instant::now(),
            goal_reached: false,
            interrupted_at: None,
        }
    }

    /// Returns the sender for messages to the runner.
    pub fn sender(&self) -> Sender<RunnerMessage> {
        self.sender.clone()
    }

    /// Runs the whole plan, or as much of it as is not interrupted.
    ///
    /// # Errors
    /// Fails if the results directory cannot be written; running VMs have been ended by then.
    pub fn run(mut self, start: FarmStarted) -> anyhow::Result<RunSummary> {
        let result = self.run_all(start);
        // On an error too, no process is left behind, and a guest that has ended gets its verdict.
        for running in self.running.values().filter(|running| !running.guest_ended) {
            running.process.kill();
        }
        let deadline = Instant::now() + END_TIME;
        while !self.running.is_empty() {
            match self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(RunnerMessage::ProcessEnded(number, end, error))
                    if self.has_guest_ended(number) =>
                {
                    // The first error is the one to return.
                    let _ = self.process_ended(number, end, error);
                }
                Ok(RunnerMessage::ProcessEnded(number, ..)) => drop(self.running.remove(&number)),
                Ok(RunnerMessage::GuestEnded(_) | RunnerMessage::Signal(_)) => {}
                Err(_) => break,
            }
        }
        result
    }

    fn run_all(&mut self, start: FarmStarted) -> anyhow::Result<RunSummary> {
        self.emit(EventKind::FarmStarted(start))?;
        loop {
            self.start_fitting_runs()?;
            if self.running.is_empty() && (self.waiting.is_empty() || self.interrupted_at.is_some())
            {
                break;
            }
            match self.inbox.recv_timeout(self.time_until_deadline()) {
                Ok(RunnerMessage::GuestEnded(number)) => self.guest_ended(number),
                Ok(RunnerMessage::ProcessEnded(number, end, error)) => {
                    self.process_ended(number, end, error)?;
                }
                Ok(RunnerMessage::Signal(name)) => self.handle_signal(name)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("there is a sender in here"),
            }
            self.kill_overdue();
        }
        let finished = self.finished();
        let summary = RunSummary {
            unknown: self.count(|done| !done.known),
            unfinished: finished.not_run > 0,
        };
        self.emit(EventKind::FarmFinished(finished))?;
        Ok(summary)
    }

    /// Writes an event to the journal, then reports it.
    fn emit(&mut self, kind: EventKind) -> anyhow::Result<()> {
        let event = FarmEvent { time: Timestamp::now(), kind };
        self.results.append(&event)?;
        (self.report)(&event);
        Ok(())
    }

    fn start_fitting_runs(&mut self) -> anyhow::Result<()> {
        while self.interrupted_at.is_none() {
            let Some((WaitingRun { id, vm, .. }, share)) = self.next_that_fits() else {
                return Ok(());
            };
            self.start(id, vm, share)?;
        }
        Ok(())
    }

    /// Frees the CPUs of a VM whose guest has ended. Its process needs a while to exit, mostly idle, and
    /// the next run need not wait for that unless it depends on this verdict.
    fn guest_ended(&mut self, number: u64) {
        if self.options.fail_fast || self.options.until_hang {
            return;
        }
        let Some(running) = self.running.get_mut(&number) else { return };
        running.guest_ended = true;
        // Its memory is held until the process has exited.
        let cpus = Resources { memory: 0, ..running.share };
        running.share.cpus = 0;
        self.free = self.free.with(cpus);
    }

    fn has_guest_ended(&self, number: u64) -> bool {
        self.running.get(&number).is_some_and(|running| running.guest_ended)
    }

    /// Takes the next run that there is room for, and returns it with its share of the resources.
    fn next_that_fits(&mut self) -> Option<(WaitingRun, Resources)> {
        let cleaning_up = self.running.values().filter(|running| running.guest_ended).count();
        if self.free.cpus == 0 || cleaning_up >= MAX_CLEANING_UP {
            return None;
        }
        let share = |vm: usize| {
            let vm = &self.vms[vm];
            self.options.budget.share(vm.cpus, vm.memory)
        };
        self.waiting.take_first_that_fits(self.free, share)
    }

    fn start(&mut self, id: Id, vm: usize, share: Resources) -> anyhow::Result<()> {
        let directory = self.results.create_try_directory(&id)?;
        let definition = hash_definition(&self.vms[vm], &self.options.bundled);
        let started = VmStarted { id: id.clone(), directory: directory.clone(), definition };
        self.emit(EventKind::VmStarted(started))?;
        let path = self.results.root().join(&directory);
        let stderr = process::make_files(&path)?;
        let grace = (self.options.exit_grace)(&self.vms[vm]);
        let started = VmProcess::start(
            &self.options.program,
            &self.options.run_options,
            &self.vms[vm],
            &path,
            stderr,
            grace,
        );
        let (process, mut child) = match started {
            Ok(started) => started,
            // The host has no room for the process, or the program has been removed: a later try may
            // succeed.
            Err(error) => {
                let judgement = Judgement::because(Status::Broken, format!("{error:#}"));
                let examined = Examined::without_files(judgement);
                return self.record_verdict(id, vm, directory, examined, Duration::ZERO);
            }
        };
        let number = self.next;
        self.next += 1;
        let sender = self.sender.clone();
        let wait = move || {
            let mut stdout = child.stdout.take();
            stdout.iter_mut().for_each(line::wait_for_guest);
            // Sending fails only if the runner has given up.
            let _ = sender.send(RunnerMessage::GuestEnded(number));
            let error = stdout.as_mut().and_then(line::receive_error);
            let end = process::process_end(child.wait());
            let _ = sender.send(RunnerMessage::ProcessEnded(number, end, error));
        };
        self.free = self.free.without(share).unwrap_or(self.free);
        let running =
            Running { id, vm, directory, share, guest_ended: false, process, killed_as: None };
        self.running.insert(number, running);
        let thread = thread::Builder::new().name("wait".into()).stack_size(64 << 10);
        thread.spawn(wait).context("failed to start a thread")?;
        Ok(())
    }

    fn time_until_deadline(&self) -> Duration {
        const LONG: Duration = Duration::from_secs(3600);
        let waits =
            self.running.values().filter(|running| running.killed_as != Some(ProcessEnd::Overdue));
        let overdue = waits.map(|running| running.process.overdue_at());
        let late = self.interrupted_at.into_iter().flat_map(|since| {
            self.running.values().map(move |running| since + running.process.grace())
        });
        let due = overdue.chain(late).min();
        due.map_or(LONG, |due| {
            due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
        })
    }

    fn kill_overdue(&mut self) {
        let now = Instant::now();
        let interrupted_at = self.interrupted_at;
        for running in self.running.values_mut() {
            if interrupted_at.is_some_and(|since| now >= since + running.process.grace()) {
                running.process.kill();
            } else if running.killed_as.is_none() && now >= running.process.overdue_at() {
                running.killed_as = Some(ProcessEnd::Overdue);
                running.process.kill();
            }
        }
    }

    fn handle_signal(&mut self, name: &'static str) -> anyhow::Result<()> {
        if self.interrupted_at.is_some() {
            for running in self.running.values() {
                running.process.kill();
            }
            return Ok(());
        }
        self.stop_starting(name)?;
        for running in self.running.values_mut().filter(|running| !running.guest_ended) {
            running.killed_as = Some(ProcessEnd::Interrupted);
            running.process.terminate();
        }
        Ok(())
    }

    /// Marks the run as interrupted, so that no further VM starts.
    fn stop_starting(&mut self, by: &str) -> anyhow::Result<()> {
        self.interrupted_at = Some(Instant::now());
        self.emit(EventKind::FarmInterrupted { by: by.into() })
    }

    fn process_ended(
        &mut self,
        number: u64,
        end: ProcessEnd,
        error: Option<String>,
    ) -> anyhow::Result<()> {
        let Some(running) = self.running.remove(&number) else { return Ok(()) };
        self.free = self.free.with(running.share);
        let elapsed = running.process.started().elapsed();
        let path = self.results.root().join(&running.directory);
        let end = match (running.killed_as, end) {
            (Some(killed_as), _) => killed_as,
            // The process had only to clean up, and did not get the time for it.
            (None, ProcessEnd::Signal(_))
                if running.guest_ended && self.interrupted_at.is_some() =>
            {
                ProcessEnd::Interrupted
            }
            (None, end) => end,
        };
        let examined = examine(&self.vms[running.vm], &path, end, error.as_deref());
        self.record_verdict(running.id, running.vm, running.directory, examined, elapsed)
    }

    /// Emits the verdict on a try, and queues another try or stops the run accordingly.
    fn record_verdict(
        &mut self,
        id: Id,
        vm: usize,
        directory: PathBuf,
        examined: Examined,
        elapsed: Duration,
    ) -> anyhow::Result<()> {
        let Examined { judgement, signatures, hang, files } = examined;
        let status = judgement.status;
        let failed = !matches!(status, Status::Pass | Status::Interrupted);
        // A hang that is not known makes the whole try unknown. A run that exceeded its time limit counts
        // by the hang that was developing.
        let is_of_hang = matches!(status, Status::Hang | Status::Timeout);
        let of_hangs = signatures.iter().filter(|_| is_of_hang);
        let known: Option<Vec<String>> =
            of_hangs.map(|signature| (self.known)(signature)).collect();
        let known = known.and_then(|urls| urls.into_iter().next());
        let is_known = known.is_some();
        let wanted = self.options.until_hang && status == Status::Hang && !is_known;
        let tries = self.options.retries.unwrap_or(self.vms[vm].retries).saturating_add(1);
        let may_be_again = self.interrupted_at.is_none() && !self.goal_reached && !wanted;
        let again = failed && id.attempt < tries && may_be_again;
        let flaky = status == Status::Pass && id.attempt > 1;
        if status == Status::Hang
            && let Some(hang) = &hang
        {
            results::link_signature(self.results.root(), &hang.signature, &directory)?;
        }
        let finished = VmFinished {
            id,
            directory,
            status,
            again,
            flaky,
            known,
            reason: judgement.reason,
            hang,
            elapsed_ms: elapsed.as_micros() as f64 / 1000.0,
            files,
        };
        let Id { name, run, attempt } = finished.id.clone();
        if again {
            self.waiting.add_first(Id { name, run, attempt: attempt + 1 }, vm);
        } else if status == Status::Interrupted {
            self.not_run += 1;
        } else {
            self.done.insert((name, run), FinishedRun::from_last_try(&finished));
        }
        self.emit(EventKind::VmFinished(Box::new(finished)))?;
        let goal_reached = wanted || (self.options.fail_fast && failed && !again && !is_known);
        if goal_reached && self.interrupted_at.is_none() && !self.goal_reached {
            self.stop_after_failure(status, if wanted { "--until-hang" } else { "--fail-fast" })?;
        }
        Ok(())
    }

    /// Drops all waiting runs. Running VMs may end by themselves and are judged.
    fn stop_after_failure(&mut self, status: Status, by: &str) -> anyhow::Result<()> {
        self.goal_reached = true;
        tracing::info!(status = status.name(), by, "starting nothing more");
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.not_run += self.waiting.clear() as u64;
        self.emit(EventKind::FarmInterrupted { by: by.into() })
    }

    fn count(&self, wanted: impl Fn(&FinishedRun) -> bool) -> BTreeMap<Status, u64> {
        let mut counts = BTreeMap::new();
        for done in self.done.values().filter(|done| wanted(done)) {
            *counts.entry(done.status).or_insert(0) += 1;
        }
        counts
    }

    fn finished(&self) -> FarmFinished {
        let count =
            |wanted: fn(&&FinishedRun) -> bool| self.done.values().filter(wanted).count() as u64;
        let signatures: BTreeSet<&String> =
            self.done.values().filter_map(|done| done.signature.as_ref()).collect();
        FarmFinished {
            counts: self.count(|_| true),
            flaky: count(|done| done.flaky),
            known: count(|done| done.known),
            distinct_hangs: signatures.len() as u64,
            not_run: self.not_run + self.waiting.len() as u64,
            elapsed_ms: self.started.elapsed().as_micros() as f64 / 1000.0,
        }
    }
}
