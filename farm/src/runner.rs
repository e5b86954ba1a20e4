//! The runner: starts VMs as the machine has room for them, and tells what becomes of each.
//!
//! One thread decides, and never waits but for its inbox: a VM's process has ended, a signal has
//! come, something is due.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::budget::Budget;
use super::event::{Event, FarmFinished, FarmStarted, Id, Status, VmFinished, VmStarted, What};
use super::examine::{Examined, examine};
use super::judge::{End, Judgement};
use super::process::{self, Process};
use super::queue::{Queue, Waiting};
use super::results::{self, BundledGuest, Done, Left, Results, definition};
use super::suite::Vm;

/// How to run a plan.
#[derive(Debug)]
pub struct Options {
    /// The program that runs a VM.
    pub program: PathBuf,
    /// The guest in it.
    pub bundled: BundledGuest,
    /// What may be given to VMs at a time.
    pub budget: Budget,
    /// How often a VM is tried again that fails; `None` for what the suite says.
    pub retries: Option<u32>,
    /// Start nothing more once a VM has failed.
    pub fail_fast: bool,
    /// Start nothing more once a VM has hung.
    pub until_hang: bool,
}

/// Where a failure with a signature is tracked, if it is known.
pub type Known<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What the runner is told from outside.
#[derive(Debug)]
pub enum Message {
    /// A VM's guest is over, and its process has only to clean up: the number of its try.
    Over(u64),
    /// A VM's process has ended: the number of its try.
    Ended(u64, End),
    /// A signal that asks to end, by its name.
    Signal(&'static str),
}

/// What comes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many runs ended in which way, without those that are known failures.
    pub unknown: BTreeMap<Status, u64>,
    /// Not all that was planned has been run.
    pub unfinished: bool,
}

/// How long VMs may take to say where they are when the farm is ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// So many processes whose guests are over may be around before nothing more is started: they take
/// little, but they do take something.
const MOST_CLEANING_UP: usize = 8;

/// A try that is going on.
struct Running {
    id: Id,
    vm: usize,
    directory: PathBuf,
    /// What it has been given: no CPUs any more once its guest is over.
    share: Budget,
    /// Its guest is over, and what remains is to clean up.
    over: bool,
    process: Process,
    /// The farm has sent it a signal that it will not survive.
    ended_by_us: Option<End>,
}

/// The runner, while it runs.
pub struct Runner<'a> {
    vms: &'a [Vm],
    options: &'a Options,
    results: Results,
    known: &'a Known<'a>,
    tell: &'a mut dyn FnMut(&Event),
    sender: Sender<Message>,
    inbox: Receiver<Message>,
    waiting: Queue,
    running: BTreeMap<u64, Running>,
    free: Budget,
    next: u64,
    done: BTreeMap<(String, u32), Done>,
    /// Runs that were not started, or not finished, because the farm was ended.
    not_run: u64,
    started: Instant,
    /// What the run was for has happened: nothing is started any more, nor tried again.
    enough: bool,
    /// When the farm was asked to end; what then still runs is killed in a while.
    ending: Option<Instant>,
}

impl<'a> Runner<'a> {
    /// A runner of `runs`: VMs by index, and which run of each. Events are told to `tell`, after they
    /// have been written to the journal.
    pub fn new(
        vms: &'a [Vm],
        runs: impl IntoIterator<Item = (usize, u32)>,
        options: &'a Options,
        (results, left): (Results, &Left),
        known: &'a Known<'a>,
        tell: &'a mut dyn FnMut(&Event),
    ) -> Self {
        let (sender, inbox) = mpsc::channel();
        let (mut waiting, mut done) = (Queue::default(), BTreeMap::new());
        for (vm, run) in runs {
            let key = (vms[vm].name.clone(), run);
            if let Some(over) = left.done.get(&key) {
                done.insert(key, over.clone());
                continue;
            }
            let attempt = left.next.get(&key).copied().unwrap_or(1);
            waiting.add(Id { name: key.0, run, attempt }, vm);
        }
        Self {
            vms,
            options,
            results,
            known,
            tell,
            sender,
            inbox,
            waiting,
            running: BTreeMap::new(),
            free: options.budget,
            next: 0,
            done,
            not_run: 0,
            started: Instant::now(),
            enough: false,
            ending: None,
        }
    }

    /// Whom signals are to be sent to.
    pub fn sender(&self) -> Sender<Message> {
        self.sender.clone()
    }

    /// Runs all of it, or as much as it is let.
    ///
    /// # Errors
    /// The results directory cannot be written to. The VMs that ran then have been ended.
    pub fn run(mut self, start: FarmStarted) -> anyhow::Result<Summary> {
        let result = self.run_all(start);
        // Whatever has gone wrong, nobody is left behind, and whose guest is over is not lost.
        for running in self.running.values().filter(|running| !running.over) {
            running.process.kill();
        }
        let deadline = Instant::now() + LAST_WORDS;
        while !self.running.is_empty() {
            match self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Ended(number, end)) if self.is_over(number) => {
                    // It is the first error that counts.
                    let _ = self.ended(number, end);
                }
                Ok(Message::Ended(number, _)) => drop(self.running.remove(&number)),
                Ok(Message::Over(_) | Message::Signal(_)) => {}
                Err(_) => break,
            }
        }
        result
    }

    fn run_all(&mut self, start: FarmStarted) -> anyhow::Result<Summary> {
        self.tell(What::FarmStarted(start))?;
        loop {
            self.start_what_fits()?;
            if self.running.is_empty() && (self.waiting.is_empty() || self.ending.is_some()) {
                break;
            }
            match self.inbox.recv_timeout(self.until_something_is_due()) {
                Ok(Message::Over(number)) => self.over(number),
                Ok(Message::Ended(number, end)) => self.ended(number, end)?,
                Ok(Message::Signal(name)) => self.signalled(name)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("there is a sender in here"),
            }
            self.kill_what_is_overdue();
        }
        let finished = self.finished();
        let summary =
            Summary { unknown: self.count(|done| !done.known), unfinished: finished.not_run > 0 };
        self.tell(What::FarmFinished(finished))?;
        Ok(summary)
    }

    /// Writes an event down, and then tells it.
    fn tell(&mut self, what: What) -> anyhow::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event { at_ms: since.as_millis() as u64, what };
        self.results.append(&event)?;
        (self.tell)(&event);
        Ok(())
    }

    fn start_what_fits(&mut self) -> anyhow::Result<()> {
        while self.ending.is_none() {
            let Some((Waiting { id, vm, .. }, share)) = self.next_that_fits() else {
                return Ok(());
            };
            self.start(id, vm, share)?;
        }
        Ok(())
    }

    /// The kernel takes its time to end a VM, most of it idle: the next one need not wait for that,
    /// unless it depends on how this one went.
    fn over(&mut self, number: u64) {
        if self.options.fail_fast || self.options.until_hang {
            return;
        }
        let Some(running) = self.running.get_mut(&number) else { return };
        running.over = true;
        // Its memory goes with the process.
        let cpus = Budget { memory: 0, ..running.share };
        running.share.cpus = 0;
        self.free = self.free.with(cpus);
    }

    fn is_over(&self, number: u64) -> bool {
        self.running.get(&number).is_some_and(|running| running.over)
    }

    /// The next run that there is room for, and its share of the budget.
    fn next_that_fits(&mut self) -> Option<(Waiting, Budget)> {
        let cleaning_up = self.running.values().filter(|running| running.over).count();
        if self.free.cpus == 0 || cleaning_up >= MOST_CLEANING_UP {
            return None;
        }
        let share = |vm: usize| {
            let vm = &self.vms[vm];
            self.options.budget.share_of(vm.cpus, vm.memory)
        };
        self.waiting.take_first_that_fits(self.free, share)
    }

    fn start(&mut self, id: Id, vm: usize, share: Budget) -> anyhow::Result<()> {
        let directory = self.results.begin(&id)?;
        let definition = definition(&self.vms[vm], &self.options.bundled);
        let started = VmStarted { id: id.clone(), directory: directory.clone(), definition };
        self.tell(What::VmStarted(started))?;
        let path = self.results.root().join(&directory);
        let stderr = process::make_files(&path)?;
        let started = Process::start(&self.options.program, &self.vms[vm], &path, stderr);
        let (process, mut child) = match started {
            Ok(started) => started,
            // The machine has no room for it, or the program has gone: the next one may have more luck.
            Err(error) => {
                let judgement = Judgement::because(Status::Broken, format!("{error:#}"));
                let examined = Examined::without_files(judgement);
                return self.judged(id, vm, directory, examined, Duration::ZERO);
            }
        };
        let number = self.next;
        self.next += 1;
        let sender = self.sender.clone();
        let wait = move || {
            process::wait_for_guest(&mut child);
            // A runner that has given up wants to know no more.
            let _ = sender.send(Message::Over(number));
            let end = process::end_of(child.wait());
            let _ = sender.send(Message::Ended(number, end));
        };
        self.free = self.free.without(share).unwrap_or(self.free);
        let running = Running { id, vm, directory, share, over: false, process, ended_by_us: None };
        self.running.insert(number, running);
        let thread = thread::Builder::new().name("wait".into()).stack_size(64 << 10);
        thread.spawn(wait).context("failed to start a thread")?;
        Ok(())
    }

    fn until_something_is_due(&self) -> Duration {
        const LONG: Duration = Duration::from_secs(3600);
        let waits =
            self.running.values().filter(|running| running.ended_by_us != Some(End::Overdue));
        let overdue = waits.map(|running| running.process.overdue_at());
        let last_words = self.ending.map(|since| since + LAST_WORDS);
        let due = overdue.chain(last_words).min();
        due.map_or(LONG, |due| {
            due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
        })
    }

    fn kill_what_is_overdue(&mut self) {
        let now = Instant::now();
        let is_late = self.ending.is_some_and(|since| now >= since + LAST_WORDS);
        for running in self.running.values_mut() {
            if is_late {
                running.process.kill();
            } else if running.ended_by_us.is_none() && now >= running.process.overdue_at() {
                running.ended_by_us = Some(End::Overdue);
                running.process.kill();
            }
        }
    }

    fn signalled(&mut self, name: &'static str) -> anyhow::Result<()> {
        if self.ending.is_some() {
            for running in self.running.values() {
                running.process.kill();
            }
            return Ok(());
        }
        self.end(name)?;
        for running in self.running.values_mut().filter(|running| !running.over) {
            running.ended_by_us = Some(End::Interrupted);
            running.process.end();
        }
        Ok(())
    }

    /// Starts nothing more.
    fn end(&mut self, by: &str) -> anyhow::Result<()> {
        self.ending = Some(Instant::now());
        self.tell(What::FarmInterrupted { by: by.into() })
    }

    fn ended(&mut self, number: u64, end: End) -> anyhow::Result<()> {
        let Some(running) = self.running.remove(&number) else { return Ok(()) };
        self.free = self.free.with(running.share);
        let elapsed = running.process.started().elapsed();
        let path = self.results.root().join(&running.directory);
        let end = match (running.ended_by_us, end) {
            (Some(by_us), _) => by_us,
            // Only to clean up was left to it, and for that there was no time.
            (None, End::Signal(_)) if running.over && self.ending.is_some() => End::Interrupted,
            (None, end) => end,
        };
        let examined = examine(&self.vms[running.vm], &path, end);
        self.judged(running.id, running.vm, running.directory, examined, elapsed)
    }

    /// What becomes of a try that is over, and what comes of it for the others.
    fn judged(
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
        // One that is not known is not made better by others that are.
        // A run whose time was over is about the hang that was on its way.
        let is_of_hang = matches!(status, Status::Hang | Status::Timeout);
        let of_hangs = signatures.iter().filter(|_| is_of_hang);
        let known: Option<Vec<String>> =
            of_hangs.map(|signature| (self.known)(signature)).collect();
        let known = known.and_then(|urls| urls.into_iter().next());
        let is_known = known.is_some();
        let wanted = self.options.until_hang && status == Status::Hang && !is_known;
        let tries = self.options.retries.unwrap_or(self.vms[vm].retries).saturating_add(1);
        let may_be_again = self.ending.is_none() && !self.enough && !wanted;
        let again = failed && id.attempt < tries && may_be_again;
        let flaky = status == Status::Pass && id.attempt > 1;
        if status == Status::Hang
            && let Some(hang) = &hang
        {
            results::link(self.results.root(), &hang.signature, &directory)?;
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
            self.done.insert((name, run), Done::of(&finished));
        }
        self.tell(What::VmFinished(Box::new(finished)))?;
        let enough = wanted || (self.options.fail_fast && failed && !again && !is_known);
        if enough && self.ending.is_none() && !self.enough {
            self.stop_after_failure(status, if wanted { "--until-hang" } else { "--fail-fast" })?;
        }
        Ok(())
    }

    /// What runs may end by itself, and is judged; nothing more is started.
    fn stop_after_failure(&mut self, status: Status, by: &str) -> anyhow::Result<()> {
        self.enough = true;
        tracing::info!(status = status.name(), by, "starting nothing more");
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.not_run += self.waiting.clear() as u64;
        self.tell(What::FarmInterrupted { by: by.into() })
    }

    fn count(&self, wanted: impl Fn(&Done) -> bool) -> BTreeMap<Status, u64> {
        let mut counts = BTreeMap::new();
        for done in self.done.values().filter(|done| wanted(done)) {
            *counts.entry(done.status).or_insert(0) += 1;
        }
        counts
    }

    fn finished(&self) -> FarmFinished {
        let count = |wanted: fn(&&Done) -> bool| self.done.values().filter(wanted).count() as u64;
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
