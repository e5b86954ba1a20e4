//! Tests of the Slurm job files under a Slurm of the test's own: munged, slurmctld and two slurmd on this
//! host, as two nodes, with every file in a temporary directory. The system's own services are not used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nmiscope_farm::event::{EventKind, Status};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use super::support::{DEADLINE, SUITE, ends, events, farm_alone, path};
use crate::common::{Invocation, binary, exit, program, require_kvm};

/// Time for a daemon to end after SIGTERM.
const LAST_WORDS: Duration = Duration::from_secs(10);

const NODES: [&str; 2] = ["node1", "node2"];

/// A running Slurm, which is stopped when dropped.
struct Cluster {
    directory: TempDir,
    /// Daemons of the cluster, the last started first.
    daemons: Vec<(String, Child)>,
}

/// Job numbers that submit.sh printed.
struct Jobs {
    farm: String,
    merge: String,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // munged requires its socket in a directory that everybody can enter.
        let everybody = Permissions::from_mode(0o755);
        fs::set_permissions(&directory, everybody).expect("permissions");
        fs::create_dir(directory.path().join("state")).expect("a directory");
        write_key(&directory.path().join("munge.key"));
        let mut cluster = Self { directory, daemons: Vec::new() };
        cluster.configure();
        let file = |name: &str| cluster.file(name);
        let munge = [
            "--foreground".to_owned(),
            format!("--key-file={}", file("munge.key")),
            format!("--socket={}", file("munge.socket")),
            format!("--pid-file={}", file("munged.pid")),
            format!("--seed-file={}", file("munged.seed")),
            format!("--log-file={}", file("munged-own.log")),
        ];
        cluster.daemon("munged", "munged", &munge);
        let socket = cluster.directory.path().join("munge.socket");
        wait_for("munged's socket", Duration::from_secs(30), || socket.exists());
        let configuration = cluster.file("slurm.conf");
        let controller = ["-D", "-f", &configuration].map(str::to_owned);
        cluster.daemon("slurmctld", "slurmctld", &controller);
        for node in NODES {
            let node_daemon = ["-D", "-N", node, "-f", &configuration].map(str::to_owned);
            cluster.daemon(&format!("slurmd-{node}"), "slurmd", &node_daemon);
        }
        wait_for("idle nodes", Duration::from_secs(60), || {
            let sinfo = cluster.client("sinfo", &["--noheader", "--Node", "--format=%T"]).run();
            sinfo.stdout.lines().filter(|state| *state == "idle").count() == NODES.len()
        });
        cluster
    }

    /// Configures two nodes with four CPUs each, whatever the host has. A task of farm.sbatch fills one.
    fn configure(&self) {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = host.split('.').next().expect("a name");
        let user = program(Command::new("id"), ["--user", "--name"]).run().stdout;
        let user = user.trim();
        // All are bound at the same time, so that they differ.
        let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [controller, ports @ ..] =
            ports.map(|port| port.local_addr().expect("an address").port());
        let here = self.directory.path().display();
        let mut configuration = format!(
            "ClusterName=test\n\
             SlurmctldHost={host}(127.0.0.1)\n\
             SlurmctldPort={controller}\n\
             SlurmUser={user}\n\
             SlurmdUser={user}\n\
             AuthType=auth/munge\n\
             AuthInfo=socket={here}/munge.socket,cred_expire=5\n\
             CredType=cred/munge\n\
             StateSaveLocation={here}/state\n\
             SlurmdSpoolDir={here}/spool-%n\n\
             SlurmctldPidFile={here}/slurmctld.pid\n\
             SlurmdPidFile={here}/slurmd-%n.pid\n\
             SlurmdParameters=config_overrides\n\
             ProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\n\
             JobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\n\
             JobCompType=jobcomp/none\n\
             MpiDefault=none\n\
             SelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core_Memory\n\
             SchedulerType=sched/backfill\n\
             ReturnToService=2\n"
        );
        for (node, port) in NODES.iter().zip(ports) {
            configuration += &format!(
                "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 \
                 RealMemory=8192\n"
            );
        }
        configuration += "PartitionName=vms Nodes=ALL Default=YES State=UP MaxTime=INFINITE\n";
        fs::write(self.file("slurm.conf"), configuration).expect("a configuration");
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("a path").to_owned()
    }

    /// Starts a daemon in the foreground, which ends with this thread.
    fn daemon(&mut self, name: &str, program: &str, arguments: &[String]) {
        let log = File::create(self.file(&format!("{name}.log"))).expect("a log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &format!("/usr/sbin/{program}")])
            .args(arguments)
            .env("SLURM_CONF", self.file("slurm.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
        self.daemons.insert(0, (name.to_owned(), child));
    }

    /// Prepares one of Slurm's commands for this cluster.
    fn client(&self, command: &str, arguments: &[&str]) -> Invocation {
        program(Command::new(command), arguments).env("SLURM_CONF", &self.file("slurm.conf"))
    }

    /// Runs `submit.sh` for a suite in the cluster's directory.
    fn submit(&self, suite: &str, parts: &str) -> Jobs {
        let submit = path("slurm/submit.sh");
        let mut submit = self
            .client(submit.to_str().expect("a path"), &[suite, "results", parts])
            .env("NMISCOPE", binary().to_str().expect("a path"));
        // The jobs run in the directory where they are submitted, as a user's would.
        submit.command.current_dir(&self.directory);
        let finished = submit.run().expect_code(0);
        // array job 1, and then job 2 for ...
        let mut numbers = finished
            .stdout
            .split("job ")
            .skip(1)
            .map(|text| text.chars().take_while(char::is_ascii_digit).collect::<String>());
        let mut number = || numbers.next().unwrap_or_else(|| panic!("{}", finished.all()));
        Jobs { farm: number(), merge: number() }
    }

    /// Waits until the queue has no job.
    fn wait(&self) {
        wait_for("the jobs' end", DEADLINE, || {
            self.client("squeue", &["--noheader"]).run().expect_code(0).stdout.is_empty()
        });
    }

    /// Returns Slurm's description of each task of a job, as a table.
    fn show(&self, job: &str) -> Vec<BTreeMap<String, String>> {
        let shown = self.client("scontrol", &["--oneliner", "show", "job", job]).run();
        let fields = |line: &str| {
            let pairs = line.split_whitespace().filter_map(|field| field.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        shown.expect_code(0).stdout.lines().map(fields).collect()
    }
}

impl Drop for Cluster {
    /// Ends the jobs, then the daemons, then any process that is left.
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
        // Commands of Slurm's that fail here leave something to the last step, and a panic would be
        // the end of everything.
        let slurm = |command: &str, arguments: &[&str]| {
            Command::new(command)
                .args(arguments)
                .env("SLURM_CONF", self.file("slurm.conf"))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
        };
        let over = Instant::now() + LAST_WORDS;
        let _ = slurm("scancel", &["--state=PENDING", "--me"]);
        let _ = slurm("scancel", &["--me"]);
        while Instant::now() < over
            && slurm("squeue", &["--noheader"]).is_ok_and(|jobs| !jobs.stdout.is_empty())
        {
            thread::sleep(Duration::from_millis(200));
        }
        for (_, daemon) in &mut self.daemons {
            end(daemon);
        }
        for process in ours(&self.file("slurm.conf")) {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

impl Cluster {
    fn show_logs(&self) {
        let mut logs: Vec<_> = self.daemons.iter().map(|(name, _)| format!("{name}.log")).collect();
        let results = fs::read_dir(self.directory.path().join("results"));
        let results = results.into_iter().flatten().flatten();
        let results = results.map(|entry| format!("results/{}", entry.file_name().display()));
        logs.extend(results.filter(|name| name.ends_with(".log")));
        for log in logs {
            let text = fs::read_to_string(self.file(&log)).unwrap_or_default();
            eprintln!("{log}:\n{text}");
        }
    }
}

/// Ends a daemon, by SIGKILL after [`LAST_WORDS`].
fn end(daemon: &mut Child) {
    let signal = |daemon: &Child, signal| {
        // The daemon has not been reaped, so its number is still valid.
        let _ = rustix::process::kill_process(Pid::from_child(daemon), signal);
    };
    signal(daemon, Signal::TERM);
    let over = Instant::now() + LAST_WORDS;
    while Instant::now() < over {
        if !matches!(daemon.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    signal(daemon, Signal::KILL);
    let _ = daemon.wait();
}

/// Returns the processes that have this configuration file in their environment: those that the daemons
/// started and that outlived them.
fn ours(configuration: &str) -> Vec<rustix::fd::OwnedFd> {
    let wanted = format!("SLURM_CONF={configuration}");
    let is_ours = |pid: Pid| {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
        let environment = environment.unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Read after the descriptor is open, so that the number is still that process's.
        is_ours(pid).then_some(process)
    });
    pids.collect()
}

fn write_key(path: &Path) {
    let mut key = Vec::new();
    let random = File::open("/dev/urandom").expect("random numbers");
    random.take(1024).read_to_end(&mut key).expect("random numbers");
    let mut file = fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(path).expect("a file");
    std::io::Write::write_all(&mut file, &key).expect("a key");
}

#[track_caller]
fn wait_for(what: &str, bound: Duration, mut is_there: impl FnMut() -> bool) {
    let over = Instant::now() + bound;
    while !is_there() {
        assert!(Instant::now() < over, "{what}: not within {bound:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs slurmctld, slurmd and munge"]
fn an_array_over_two_nodes_gives_the_results_of_one_machine() {
    require_kvm();
    let alone = farm_alone().expect_code(exit::CRASH);
    let cluster = Cluster::start();
    fs::write(cluster.file("suite.toml"), SUITE).expect("a suite");
    let jobs = cluster.submit("suite.toml", "4");
    cluster.wait();

    let tasks = cluster.show(&jobs.farm);
    let nodes: BTreeSet<&str> = tasks.iter().map(|task| &*task["NodeList"]).collect();
    assert_eq!((tasks.len(), nodes), (4, NODES.into()), "{tasks:#?}");
    // Slurm has the exit code of the farm.
    let codes: BTreeSet<&str> = tasks.iter().map(|task| &*task["ExitCode"]).collect();
    assert!(codes.contains("4:0") && !codes.contains("5:0"), "{codes:?}");
    let merge = cluster.show(&jobs.merge).remove(0);
    assert_eq!(merge["ExitCode"], "4:0", "{merge:#?}");

    let results = cluster.directory.path().join("results");
    let merged = ends(&results.join("merged"));
    assert_eq!(merged, ends(&alone.directory.path().join("alone")));
    for (file, said) in [("summary.md", "### Failures"), ("junit.xml", "<testsuites ")] {
        let text =
            std::fs::read_to_string(results.join(file)).expect("the merging job has written it");
        assert!(text.contains(said), "{file}: {text}");
    }
    let started = |part: u32| {
        let events = events(&results.join(format!("part-{part}-of-4")));
        events.iter().filter(|event| matches!(event.kind, EventKind::VmStarted(_))).count()
    };
    let all: usize = (1..=4).map(started).sum();
    assert_eq!(all, merged.len());

    // A second submission runs no VM, since all have ended, and merges the same results.
    cluster.submit("suite.toml", "4");
    cluster.wait();
    assert_eq!((1..=4).map(started).sum::<usize>(), all);
    assert_eq!(ends(&results.join("merged")), merged);
}

const LONG_SUITE: &str = r#"
[defaults]
cpus = 4
memory = "32M"

[[vm]]
name = "first"
workload = "exit"

[[vm]]
name = "long"
workload = "idle"
stop-after = "8s"

[[vm]]
name = "last"
workload = "exit"
"#;

/// Submits a suite with a long VM, and waits until it runs. Returns the job numbers, and the name of the
/// array's only task.
fn submit_long(cluster: &Cluster) -> (Jobs, String) {
    fs::write(cluster.file("suite.toml"), LONG_SUITE).expect("a suite");
    let jobs = cluster.submit("suite.toml", "1");
    let journal = cluster.file("results/part-1-of-1/events.jsonl");
    wait_for("the long VM", DEADLINE, || {
        fs::read_to_string(&journal).is_ok_and(|events| events.contains(r#""name":"long""#))
    });
    let task = format!("{}_1", jobs.farm);
    (jobs, task)
}

/// Asserts that the long suite's only part was interrupted once by SIGTERM, and was resumed to its end.
#[track_caller]
fn assert_resumed(cluster: &Cluster) {
    let mut ended = Vec::new();
    let mut by = Vec::new();
    for event in events(Path::new(&cluster.file("results/part-1-of-1"))) {
        match event.kind {
            EventKind::VmFinished(finished) => ended.push((finished.id.name, finished.status)),
            EventKind::FarmInterrupted { by: signal } => by.push(signal),
            _ => {}
        }
    }
    let ended: Vec<_> = ended.iter().map(|(name, status)| (&**name, *status)).collect();
    let wanted = [
        ("first", Status::Pass),
        ("long", Status::Interrupted),
        ("long", Status::Pass),
        ("last", Status::Pass),
    ];
    assert_eq!((ended, by), (wanted.into(), vec!["SIGTERM".to_owned()]));
}

#[test]
#[ignore = "needs slurmctld, slurmd and munge"]
fn a_requeued_task_resumes_where_it_was() {
    require_kvm();
    let cluster = Cluster::start();
    let (jobs, task) = submit_long(&cluster);
    cluster.client("scontrol", &["requeue", &task]).run().expect_code(0);
    cluster.wait();
    let task = cluster.show(&jobs.farm).remove(0);
    assert_eq!((&*task["Restarts"], &*task["ExitCode"]), ("1", "0:0"), "{task:#?}");
    assert_resumed(&cluster);
    assert_eq!(cluster.show(&jobs.merge)[0]["ExitCode"], "0:0");
}

/// The signal goes to the batch shell alone, as by `--signal=B:TERM@60` a minute before the time limit.
#[test]
#[ignore = "needs slurmctld, slurmd and munge"]
fn a_task_that_slurm_terminates_resumes_when_submitted_again() {
    require_kvm();
    let cluster = Cluster::start();
    let (jobs, task) = submit_long(&cluster);
    cluster.client("scancel", &["--batch", "--signal=TERM", &task]).run().expect_code(0);
    cluster.wait();
    for job in [jobs.farm, jobs.merge] {
        assert_eq!(cluster.show(&job)[0]["ExitCode"], "5:0", "not all has run");
    }
    let part = cluster.file("results/part-1-of-1/vms/long/1.1/report.json");
    assert!(fs::exists(&part).expect("a directory"), "a VM that is ended leaves a report");
    let jobs = cluster.submit("suite.toml", "1");
    cluster.wait();
    for job in [jobs.farm, jobs.merge] {
        assert_eq!(cluster.show(&job)[0]["ExitCode"], "0:0");
    }
    assert_resumed(&cluster);
}

#[test]
fn job_files_without_arguments_print_their_usage() {
    for file in ["farm.sbatch", "merge.sbatch", "submit.sh"] {
        let finished = program(Command::new("bash"), [path(&format!("slurm/{file}"))]).run();
        let finished = finished.expect_code(exit::USAGE);
        assert!(finished.stderr.starts_with("usage: "), "{}", finished.all());
        assert!(finished.stderr.contains(file), "{}", finished.all());
    }
}
