//! The farm's cost, beside a shell loop over QEMU microvm with the same image, in turn:
//!
//! `cargo bench --bench farm -- speed VMS BAR IMAGE...` measures how long VMS VMs take that end by
//! themselves, two at a time; VMs per minute, which should be BAR times the loop's; and the CPU time of the
//! farm's process and of the loop's, without their VMs.
//!
//! `cargo bench --bench farm -- memory IMAGE` measures the memory of an idle VM's process, beside its
//! guest's. The image is the bundled guest's.
//!
//! Needs `/dev/kvm`, qemu-system-x86_64 and xargs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

const ROUNDS: usize = 3;
const JOBS: u32 = 2;

const IDLE_VMS: u32 = 8;
/// Time after which an idling guest has finished its start.
const SETTLED: Duration = Duration::from_secs(6);
const GUEST_MIB: u64 = 64;

/// The path of the tool, which is elsewhere in the machine of tests/nested.
fn nmiscope() -> PathBuf {
    std::env::var_os("NMISCOPE_TEST_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_nmiscope").into(), PathBuf::from)
}

/// A runner of VMs: the farm, or the shell loop that it is compared with.
enum Side<'a> {
    Farm { directory: &'a Path },
    Loop,
}

/// The VMs of a measurement: their number, image and parameters.
struct Vms<'a> {
    image: &'a Path,
    parameters: &'a str,
    number: u32,
    jobs: u32,
}

impl Vms<'_> {
    fn start(&self, side: &Side<'_>) -> Child {
        match side {
            Side::Farm { directory } => self.start_farm(directory),
            Side::Loop => self.start_loop(),
        }
    }

    /// Starts the farm in its normal use, with a report, a console and a verdict for each VM.
    fn start_farm(&self, directory: &Path) -> Child {
        // A new directory each time: on some file systems deleted files slow down the next ones.
        let directory = tempfile::tempdir_in(directory).expect("a directory").keep();
        let suite = directory.join("suite.toml");
        let image = self.image.canonicalize().expect("the image is there");
        // The tool contains the bundled guest; QEMU needs a copy of it.
        let is_bundled = fs::read(&image).expect("an image") == nmiscope::bundled::image();
        let guest = match self.parameters.strip_prefix("workload=").filter(|_| is_bundled) {
            Some(workload) => format!("image = 'bundled'\nworkload = '{workload}'"),
            None => format!("image = '{}'\nappend = '{}'", image.display(), self.parameters),
        };
        let vm = format!(
            "[[vm]]\nname = 'vm'\n{guest}\ncpus = 1\nmemory = '{GUEST_MIB}M'\ntime-limit = '10m'\n"
        );
        fs::write(&suite, vm).expect("a suite");
        Command::new(nmiscope())
            .arg("farm")
            .arg(&suite)
            .args(["--message-format", "json", "--memory", "64G"])
            .args([format!("--jobs={}", self.jobs), format!("--repeat={}", self.number)])
            .arg("--out")
            .arg(directory.join("results"))
            .stdin(Stdio::null())
            .stdout(File::create(directory.join("events")).expect("a file"))
            // On a terminal there would be a progress bar, which costs time.
            .stderr(File::create(directory.join("errors")).expect("a file"))
            .spawn()
            .expect("the farm starts")
    }

    /// Starts the leanest loop: it keeps no output of the VMs and ignores their exit codes.
    fn start_loop(&self) -> Child {
        let mut child = Command::new("xargs")
            .args(["-P", &self.jobs.to_string(), "-I", "%"])
            .args(self.qemu())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("xargs starts");
        let mut numbers = child.stdin.take().expect("it is piped");
        for number in 0..self.number {
            writeln!(numbers, "{number}").expect("xargs reads");
        }
        child
    }

    fn qemu(&self) -> Vec<String> {
        let fixed = "qemu-system-x86_64 -M microvm -accel kvm -smp 1 -nodefaults -no-user-config \
                     -display none -serial null -no-reboot \
                     -device isa-debug-exit,iobase=0xf4,iosize=4";
        let mut words: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        words.extend(["-m".into(), GUEST_MIB.to_string()]);
        words.extend(["-kernel".into(), self.image.display().to_string()]);
        words.extend(["-append".into(), self.parameters.into()]);
        words
    }

    /// Checks that QEMU runs the image, and exits with the code that the image gives.
    fn check_qemu(&self) {
        let words = self.qemu();
        let output = Command::new(&words[0]).args(&words[1..]).output().expect("QEMU starts");
        let said = String::from_utf8_lossy(&output.stderr);
        // (code << 1) | 1
        assert_eq!(output.status.code(), Some(1), "{}: {said}", words.join(" "));
    }
}

/// The time that a run of many VMs took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    /// CPU time of the process that ran the VMs, without theirs.
    own: Duration,
}

impl Took {
    fn measure(vms: &Vms<'_>, side: &Side<'_>) -> Self {
        let started = Instant::now();
        let mut child = vms.start(side);
        let pid = Pid::from_child(&child);
        // The process has ended, and /proc still has it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), options).expect("a child");
        let wall = started.elapsed();
        let own = own_time(pid);
        let status = child.wait().expect("a child");
        // xargs exits with 123 if a command did not exit with 0, as no QEMU here does.
        let expected = if matches!(side, Side::Loop) { 123 } else { 0 };
        assert_eq!(status.code(), Some(expected), "{} VMs", vms.number);
        Self { wall, own }
    }
}

/// CPU time of a process and of all threads that it has had: utime and stime of proc(5), in ticks of a
/// hundredth of a second, which are shared among many VMs.
fn own_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).expect("/proc");
    // The name may contain spaces and ends with a parenthesis; the state follows it.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / rustix::param::clock_ticks_per_second())
}

/// Prints the row of an image: the time of VMs that end by themselves.
fn speed(image: &Path, number: u32, directory: &Path) {
    let vms = Vms { image, parameters: "workload=exit", number, jobs: JOBS };
    vms.check_qemu();
    let farm = Side::Farm { directory };
    let warm_up = Vms { number: 4, ..vms };
    Took::measure(&warm_up, &farm);
    Took::measure(&warm_up, &Side::Loop);
    // In turn, so that other load on the machine affects both.
    let (farm, theirs): (Vec<_>, Vec<_>) =
        (0..ROUNDS).map(|_| (Took::measure(&vms, &farm), Took::measure(&vms, &Side::Loop))).unzip();
    let each = |took: &[Took], time: fn(&Took) -> Duration| {
        median(took.iter().map(|took| time(took).as_secs_f64() * 1e3 / f64::from(number)))
    };
    let wall = |took: &[Took]| each(took, |took| took.wall);
    let own = |took: &[Took]| each(took, |took| took.own);
    let per_minute = |took: &[Took]| 60_000.0 / wall(took);
    println!(
        "| {} | {:.1} ms | {:.1} ms | **{:.2}** | {:.0} | {:.0} | **{:.2}** | **{:.2} ms** | {:.2} ms |",
        image.file_stem().unwrap_or_default().display(),
        wall(&farm),
        wall(&theirs),
        wall(&farm) / wall(&theirs),
        per_minute(&farm),
        per_minute(&theirs),
        per_minute(&farm) / per_minute(&theirs),
        own(&farm),
        own(&theirs),
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The memory of a process, in KiB.
#[derive(Clone, Copy, Default)]
struct Memory {
    /// The proportional set size: private memory, and a share of the shared memory.
    pss: u64,
    /// The unique set size: private memory alone.
    uss: u64,
}

impl Memory {
    fn add(&mut self, name: &str, kib: u64) {
        match name {
            "Pss" => self.pss += kib,
            "Private_Clean" | "Private_Dirty" => self.uss += kib,
            _ => {}
        }
    }
}

/// The memory of a VM's process: the guest's, and all else.
fn memory_of(pid: u32) -> (Memory, Memory) {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("/proc");
    let (mut guest, mut rest) = (Memory::default(), Memory::default());
    let mut is_guest = false;
    let mut guests = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((from, to)) = words[0].split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let bytes = address(to) - address(from);
            // Adjacent mappings appear as one; nothing else of that size is writable.
            is_guest = words[1].starts_with("rw") && bytes >= GUEST_MIB << 20;
            guests += usize::from(is_guest);
        } else if let [name, kib, "kB"] = words[..] {
            let memory = if is_guest { &mut guest } else { &mut rest };
            memory.add(name.trim_end_matches(':'), kib.parse().expect("a number"));
        }
    }
    assert_eq!(guests, 1, "the guest's memory is one mapping of process {pid}");
    (guest, rest)
}

fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).expect("/proc").flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let children: Vec<String> = children.map(|text| text.expect("/proc has it")).collect();
    children
        .iter()
        .flat_map(|text| text.split_whitespace())
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Prints the row of a side: the memory of VMs that idle, all at once.
fn memory(name: &str, image: &Path, side: &Side<'_>) {
    let vms = Vms { image, parameters: "workload=idle", number: IDLE_VMS, jobs: IDLE_VMS };
    let mut parent = vms.start(side);
    thread::sleep(SETTLED);
    let children = children(parent.id());
    assert_eq!(children.len() as u32, IDLE_VMS, "{name}: so many VMs run");
    let memories: Vec<(Memory, Memory)> = children.iter().map(|&pid| memory_of(pid)).collect();
    // xargs passes no signal on, and does not restart a killed VM: there is no more input.
    for pid in if matches!(side, Side::Loop) { children } else { vec![parent.id()] } {
        let pid = Pid::from_raw(pid as i32).expect("a process");
        kill_process(pid, Signal::TERM).expect("it runs");
    }
    parent.wait().expect("a child");
    let mib = |kib: fn(&(Memory, Memory)) -> u64| {
        median(memories.iter().map(|memory| kib(memory) as f64 / 1024.0))
    };
    println!(
        "| {name} | {:.1} MiB | **{:.1} MiB** | {:.1} MiB |",
        mib(|(guest, _)| guest.pss),
        mib(|(_, rest)| rest.pss),
        mib(|(_, rest)| rest.uss),
    );
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let directory = tempfile::tempdir().expect("a directory");
    match arguments[..] {
        ["speed", number, bar, ref images @ ..] => {
            let number = number.parse().expect("a number of VMs");
            println!(
                "| guest | a VM, farm | loop | farm / loop | VMs a minute, farm | loop | farm / loop \
                 | own CPU a VM, farm | xargs |\n|---|---|---|---|---|---|---|---|---|"
            );
            for image in images {
                speed(Path::new(image), number, directory.path());
            }
            println!("| *bar* | | | at most 0.33 | | | at least {bar} | under 5 ms | |");
        }
        ["memory", image] => {
            println!("| {IDLE_VMS} VMs | guest | **beyond it, PSS** | USS |\n|---|---|---|---|");
            let image = Path::new(image);
            memory("farm", image, &Side::Farm { directory: directory.path() });
            memory("QEMU microvm", image, &Side::Loop);
            println!("| *bar* | | under 6 MiB | |");
        }
        _ => panic!("speed VMS BAR IMAGE..., or memory IMAGE"),
    }
}
