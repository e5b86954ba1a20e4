//! A directory with a suite and its results, and the parsed events of a farm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nmiscope_farm::event::{EventKind, FarmEvent, FarmFinished, FarmStarted, Status, VmFinished};
use nmiscope_farm::journal;
use nmiscope_report::Report;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::*;

/// A directory with `suite.toml`, and a `results` directory once a farm has run.
pub struct Site(TempDir);

impl Site {
    pub fn new(suite: &str) -> Self {
        require_kvm();
        let site = Self(tempfile::tempdir().expect("a directory"));
        site.write("suite.toml", suite);
        site
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        self.put(name, text.as_bytes());
    }

    /// Replaces a file in one step, so that a reader sees the old contents or the new.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let temporary = self.path(".new");
        fs::write(&temporary, bytes).expect("a file");
        fs::rename(temporary, self.path(name)).expect("a name");
    }

    pub fn suite(&self) -> String {
        fs::read_to_string(self.path("suite.toml")).expect("a suite")
    }

    pub fn results(&self) -> PathBuf {
        self.path("results").into()
    }

    /// Invokes a farm that prints events as JSON.
    pub fn farm<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Invocation {
        self.farm_to(&self.path("results")).args(arguments)
    }

    pub fn farm_to(&self, out: &str) -> Invocation {
        nmiscope(["farm", &self.path("suite.toml"), "--message-format", "json", "--out", out])
    }

    /// Invokes a farm that prints text for people.
    pub fn text<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Invocation {
        nmiscope(["farm", &self.path("suite.toml"), "--out", &self.path("results")]).args(arguments)
    }

    pub fn journal(&self) -> Vec<FarmEvent> {
        journal::read(&self.results()).expect("a journal").events
    }

    /// Reads the report of a try, by the try's directory.
    pub fn report(&self, directory: &Path) -> Report {
        let path = self.results().join(directory).join("report.json");
        let text = fs::read_to_string(&path);
        parse_report(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Returns the VMs' processes: those whose working directory is one of a try.
    pub fn processes(&self) -> Vec<Pid> {
        processes_in(&self.results())
    }

    /// Finds the process of a running VM by a part of its directory's name.
    pub fn process_of(&self, name: &str) -> Pid {
        let is_it = |pid: &Pid| {
            let path = format!("/proc/{}/cwd", pid.as_raw_nonzero());
            fs::read_link(path).is_ok_and(|path| path.to_string_lossy().contains(name))
        };
        self.processes().into_iter().find(is_it).expect("it runs")
    }

    /// Waits until that many guests have printed that they are up.
    pub fn wait_until_ready(&self, count: usize) {
        let vms = self.results().join("vms");
        wait_for("guests that are up", || {
            let vms = fs::read_dir(&vms).into_iter().flatten().flatten();
            let consoles = vms.map(|vm| vm.path().join("1.1/console.log"));
            let up = |path: &PathBuf| {
                fs::read_to_string(path).is_ok_and(|text| text.contains("workload"))
            };
            consoles.filter(up).count() >= count
        });
    }

    pub fn kill_one(&self, name: &str) {
        kill_process(self.process_of(name), Signal::KILL).expect("it runs");
    }
}

/// Returns the processes whose working directory is `below` this one, or it.
pub fn processes_in(below: &Path) -> Vec<Pid> {
    let all = fs::read_dir("/proc").expect("proc");
    let here = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let directory = fs::read_link(entry.path().join("cwd")).ok()?;
        directory.starts_with(below).then_some(pid)
    };
    all.filter_map(|entry| here(entry.ok()?)).collect()
}

/// Waits for a condition that becomes true by itself.
#[track_caller]
pub fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_there() {
        assert!(Instant::now() < deadline, "there are no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The events that a farm printed.
pub struct Run {
    pub events: Vec<FarmEvent>,
}

impl Run {
    #[track_caller]
    pub fn from_output(farm: &Finished) -> Self {
        Self::parse(&farm.stdout)
    }

    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let event =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { events: text.lines().map(event).collect() }
    }

    pub fn all_finished(&self) -> impl Iterator<Item = &VmFinished> {
        self.events.iter().filter_map(|event| match &event.kind {
            EventKind::VmFinished(vm) => Some(&**vm),
            _ => None,
        })
    }

    /// Returns the end of a VM's last try.
    #[track_caller]
    pub fn finished(&self, name: &str) -> &VmFinished {
        self.all_finished().filter(|vm| vm.id.name == name).last().expect("it has run")
    }

    /// Returns each VM's status by its last try.
    pub fn last_tries(&self) -> BTreeMap<String, Status> {
        self.all_finished().map(|vm| (vm.id.name.clone(), vm.status)).collect()
    }

    #[track_caller]
    pub fn start(&self) -> &FarmStarted {
        match &self.events.first().expect("an event").kind {
            EventKind::FarmStarted(start) => start,
            other => panic!("{other:?} is no start"),
        }
    }

    #[track_caller]
    pub fn end(&self) -> &FarmFinished {
        match &self.events.last().expect("an event").kind {
            EventKind::FarmFinished(end) => end,
            other => panic!("{other:?} is no end"),
        }
    }
}
