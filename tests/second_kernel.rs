//! A second kernel, which proves the seam: it has no ELF image, and this file is all that knows it.
//!
//! Everything that is known of it lies in its memory: where it was loaded, its symbols and those of a
//! module, unwind rows, the layout of its structures, tasks and locks. Two of its tasks wait for each
//! other, and one CPU is inside the module. The tool's own code takes the capture, finds the deadlock
//! and makes the report, as for the bundled guest.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use nmiscope::capture::{
    Bounds as CaptureBounds, NmiCapture, NoReservation, NotSent, Request, Reservation, Stopped,
};
use nmiscope::core_file::Extents;
use nmiscope::diagnosis::{self, Diagnosis, Resolver};
use nmiscope::hang::{Bounds, Class, Detector, Observation, Vcpu, VcpuSample, Verdict};
use nmiscope::kernel::{
    CpuActivity, Depth, Kernel, KernelState, LocateError, Located, Lock, LockKind, Reading, Site,
    Symbols, Task, TaskState, TraceEntry, Vocabulary, Wait, WaitFor,
};
use nmiscope::report::{Backtrace, CpuState, FoundBy, Hang, Trigger, text};
use nmiscope::targets::{NoAnswer, States, Target};
use nmiscope_machine::{
    GuestVirtual, HostTimes, MpState, NmiState, PageTables, PhysicalAddress, PhysicalMemory,
    ReadError, Register, Registers, TaskRegisters, UnwindRegisters, VcpuState, VirtualAddress,
    VirtualMemory,
};
use nmiscope_symbolizer::{
    End, Frame, ProgramCounter, Resolved, SourceRoots, Strategy, Symbol, SymbolKind, SymbolOffset,
    Trace, UnwoundFrame,
};

// The machine: one gigabyte page maps the kernel's half, another the modules'.

const MAGIC: u64 = u64::from_le_bytes(*b"SECONDOS");
/// Where the kernel was linked to run, and how far above that it does.
const LINKED: u64 = 0xffff_ffff_8000_0000;
const BIAS: u64 = 0x1e0_0000;
const BASE: u64 = LINKED + BIAS;
/// Guest-physical, of the first byte at `LINKED`, and of the first at `MODULES`.
const KERNEL_PAGE: u64 = 0x4000_0000;
const MODULES: u64 = 0xffff_ffff_c000_0000;
const MODULES_PAGE: u64 = 0x8000_0000;
const CR3: u64 = 0x1000;

#[derive(Default)]
struct Machine {
    pages: BTreeMap<u64, Vec<u8>>,
    states: Vec<VcpuState>,
}

impl Machine {
    fn write(&mut self, physical: u64, bytes: &[u8]) {
        for (at, byte) in (physical..).zip(bytes) {
            let page = self.pages.entry(at >> 12).or_insert_with(|| vec![0; 4096]);
            page[at as usize & 0xfff] = *byte;
        }
    }

    /// Words at a virtual address of the kernel's half or the modules'.
    fn put(&mut self, address: u64, words: &[u64]) {
        let physical = match address.checked_sub(MODULES) {
            Some(offset) => MODULES_PAGE + offset,
            None => KERNEL_PAGE + (address - LINKED),
        };
        for (index, word) in (0..).zip(words) {
            self.write(physical + index * 8, &word.to_le_bytes());
        }
    }
}

impl PhysicalMemory for Machine {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        for (at, byte) in (address.0..).zip(buffer) {
            let page = self.pages.get(&(at >> 12));
            *byte = page.ok_or(ReadError::Unbacked { address, length })?[at as usize & 0xfff];
        }
        Ok(())
    }
}

/// A target without a single power.
impl Target for Machine {
    fn vcpus(&self) -> u32 {
        self.states.len() as u32
    }

    fn states(&self, cpus: &[u32], _deadline: Duration) -> States {
        cpus.iter().map(|&cpu| Ok(self.states[cpu as usize])).collect()
    }

    fn extents(&self) -> Extents {
        let mut extents = Extents::new();
        for page in self.pages.keys() {
            extents.insert(PhysicalAddress(page << 12), 4096);
        }
        extents
    }
}

// What the kernel writes about itself, and where.

const DESCRIPTOR: u64 = BASE;
const SYMBOLS: u64 = BASE + 0x1000;
const ROWS: u64 = BASE + 0x2000;
const LAYOUT: u64 = BASE + 0x3000;
const CPUS: u64 = BASE + 0x4000;
const TASKS: u64 = BASE + 0x5000;
const LOCKS: u64 = BASE + 0x6000;
const STACKS: u64 = BASE + 0x8000;
const TEXT: u64 = LINKED + 0x10_0000;
const DRIVER: u64 = MODULES + 0x2000;

/// Name, address as linked, size and the bytes of its frame below the return address. The driver's
/// function is linked at 0.
const FUNCTIONS: [(&str, u64, u64, u64); 6] = [
    ("idle_loop", TEXT, 0x100, 0),
    ("worker_loop", TEXT + 0x100, 0x100, 8),
    ("mutex_sleep", TEXT + 0x200, 0x100, 16),
    ("read_table", TEXT + 0x300, 0x100, 8),
    ("write_table", TEXT + 0x400, 0x100, 8),
    ("driver_poll", 0, 0x80, 24),
];

fn name_word(name: &str) -> [u64; 2] {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    [0, 8].map(|at| u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes")))
}

fn name_of(words: [u64; 2]) -> String {
    let bytes = words.map(u64::to_le_bytes);
    String::from_utf8_lossy(bytes.as_flattened()).trim_end_matches('\0').into()
}

/// Two CPUs, two tasks that wait for each other, and a worker in the driver.
fn machine() -> Machine {
    let mut machine = Machine::default();
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    machine.write(CR3 + 511 * 8, &(0x2000 | PRESENT_WRITABLE).to_le_bytes());
    machine.write(0x2000 + 510 * 8, &(KERNEL_PAGE | PRESENT_WRITABLE | LARGE).to_le_bytes());
    machine.write(0x2000 + 511 * 8, &(MODULES_PAGE | PRESENT_WRITABLE | LARGE).to_le_bytes());

    machine.put(DESCRIPTOR, &[MAGIC, BIAS, FUNCTIONS.len() as u64, 2, 3, DRIVER]);
    for (index, (name, address, size, frame)) in (0..).zip(FUNCTIONS) {
        let [low, high] = name_word(name);
        machine.put(SYMBOLS + index * 32, &[low, high, address, size]);
        machine.put(ROWS + index * 24, &[address, size, frame]);
    }
    // Offsets in a task: name, state, CPU, lock that it waits for, stack pointer; and its size.
    machine.put(LAYOUT, &[0, 16, 24, 32, 40, 64]);
    let mut task = |index: u64, name: &str, state: u64, cpu: u64, lock: u64, stack: u64| {
        let [low, high] = name_word(name);
        machine.put(TASKS + index * 64, &[low, high, state, cpu, lock, stack]);
    };
    let (inodes, blocks) = (LOCKS, LOCKS + 16);
    task(0, "reader", 2, 0, blocks, STACKS + 0x100);
    task(1, "writer", 2, 0, inodes, STACKS + 0x300);
    task(2, "worker", 1, 1, 0, 0);
    // Holders, by task number plus one, and when the lock was taken.
    machine.put(inodes, &[1, 1000]);
    machine.put(blocks, &[2, 2000]);

    // A sleeping task's stack: where it goes on, its frame in mutex_sleep, its caller's in turn.
    let running = |offset: u64| TEXT + BIAS + offset;
    machine.put(STACKS + 0x100, &[running(0x210), 0, 0, running(0x320), 0, running(0x140), 0, 0]);
    machine.put(STACKS + 0x300, &[running(0x210), 0, 0, running(0x420), 0, running(0x140), 0, 0]);
    // The worker's: 24 bytes of the driver's frame, and then its caller.
    machine.put(STACKS + 0x500, &[0, 0, 0, running(0x150), 0, 0]);
    let state = |cpu, mp_state, rip, rsp| VcpuState {
        cpu,
        registers: Registers {
            rip,
            rsp,
            cr0: 0x8005_0033,
            cr3: CR3,
            cr4: 1 << 5,
            efer: 0xd01,
            rflags: 0x202,
            ..Registers::default()
        },
        nmi: NmiState { pending: false, injected: false, masked: false, interrupt_shadow: false },
        mp_state,
        smm: false,
    };
    machine.states = vec![
        state(0, MpState::Halted, running(0x20), STACKS + 0x700),
        state(1, MpState::Running, DRIVER + 0x40, STACKS + 0x500),
    ];
    machine
}

// The adapter.

#[derive(Debug, Clone)]
struct Function {
    name: String,
    start: u64,
    size: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    start: u64,
    size: u64,
    frame: u64,
}

/// The second kernel, as it describes itself in one machine.
#[derive(Debug, Clone)]
struct Second {
    tables: PageTables,
    functions: Vec<Function>,
    rows: Vec<Row>,
    cpus: u64,
    tasks: u64,
    layout: [u64; 6],
}

impl Second {
    fn recognise(memory: &dyn PhysicalMemory, registers: &Registers) -> Option<Self> {
        let tables = registers.page_tables().ok()?;
        let memory = GuestVirtual::new(memory, tables);
        let word = |address: u64| memory.read_u64(VirtualAddress(address)).ok();
        (word(DESCRIPTOR)? == MAGIC).then_some(())?;
        let [bias, count, cpus, tasks, driver] =
            [1, 2, 3, 4, 5].map(|index| word(DESCRIPTOR + index * 8).expect("beside the magic"));
        // What is linked at 0 is the driver's.
        let loaded =
            |address: u64| if address < LINKED { driver + address } else { address + bias };
        let (mut functions, mut rows) = (Vec::new(), Vec::new());
        for index in 0..count.min(64) {
            let [low, high, start, size] =
                [0, 8, 16, 24].map(|at| word(SYMBOLS + index * 32 + at).unwrap_or(0));
            let module = if start < LINKED { " [driver]" } else { "" };
            let name = name_of([low, high]) + module;
            functions.push(Function { name, start: loaded(start), size });
            let [start, size, frame] =
                [0, 8, 16].map(|at| word(ROWS + index * 24 + at).unwrap_or(0));
            rows.push(Row { start: loaded(start), size, frame });
        }
        let layout = [0, 1, 2, 3, 4, 5].map(|index| word(LAYOUT + index * 8).unwrap_or(0));
        Some(Self { tables, functions, rows, cpus, tasks, layout })
    }

    fn function(&self, address: u64) -> Option<&Function> {
        let mut functions = self.functions.iter();
        functions.find(|function| address.wrapping_sub(function.start) < function.size)
    }
}

impl Kernel for Second {
    fn unknown_because(&self) -> Option<&str> {
        None
    }

    fn vocabulary(&self) -> &dyn Vocabulary {
        self
    }

    fn locate(
        &self,
        _memory: &dyn PhysicalMemory,
        _registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError> {
        Ok(Box::new(self.clone()))
    }

    fn symbols<'a>(&'a self, _image: Option<&'a dyn Symbols>) -> Option<&'a dyn Symbols> {
        Some(self)
    }
}

impl Vocabulary for Second {
    fn is_ready(&self, _post_code: u8) -> bool {
        false
    }

    fn is_panic(&self, _exit_code: u32) -> bool {
        false
    }

    fn panic_message(&self, console: &[String]) -> Option<String> {
        console.iter().rev().find_map(|line| line.strip_prefix("halt: ").map(str::to_owned))
    }

    fn call_trace(&self, _text: &str) -> Option<Vec<TraceEntry>> {
        None
    }

    fn is_plumbing(&self, function: &str) -> bool {
        function.starts_with("mutex_")
    }

    fn is_start(&self, function: &str) -> bool {
        function == "worker_loop"
    }
}

impl Located for Second {
    fn state(&self, memory: &dyn PhysicalMemory, _depth: Depth) -> Result<KernelState, ReadError> {
        let memory = GuestVirtual::new(memory, self.tables);
        let word = |address: u64| memory.read_u64(VirtualAddress(address));
        let mut state = KernelState::default();
        for cpu in 0..self.cpus.min(64) {
            let beat = word(CPUS + cpu * 8)?;
            let activity =
                CpuActivity { online: true, tick: beat, main_loop: beat, ..Default::default() };
            state.cpus.push(Some(activity));
        }
        let [name, status, cpu, lock, stack, size] = self.layout;
        for number in 0..self.tasks.min(64) {
            let task = TASKS + number * size;
            let waits_for = word(task + lock)?;
            let stack = word(task + stack)?;
            let off = word(task + status)? == 2;
            let registers = off.then(|| -> Result<TaskRegisters, ReadError> {
                TaskRegisters::try_from_fn(|register| match register {
                    Register::Rip => word(stack),
                    Register::Rsp => Ok(stack + 8),
                    _ => Ok(0),
                })
            });
            state.tasks.push(Some(Task {
                name: name_of([word(task + name)?, word(task + name + 8)?]),
                cpu: word(task + cpu)? as u32,
                state: if off { TaskState::Blocked } else { TaskState::Running },
                switches: 1,
                wait: (waits_for != 0).then(|| Wait {
                    what: WaitFor::Lock(waits_for),
                    since_ns: 5000,
                    at: Site::default(),
                }),
                registers: registers.transpose()?,
            }));
            if waits_for != 0 {
                let holder = word(waits_for)?.checked_sub(1).map(|holder| holder as u32);
                let taken_ns = word(waits_for + 8)?;
                let (kind, taken_at) = (LockKind::Mutex, Site::default());
                state.locks.insert(waits_for, Lock { kind, holder, taken_at, taken_ns });
            }
        }
        Ok(state)
    }

    fn own_memory(&self) -> Vec<(VirtualAddress, u64)> {
        vec![(VirtualAddress(BASE), 0x8000)]
    }
}

impl Symbols for Second {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        let address = counter.lookup_address();
        let frame = self.function(address.0).map(|function| Frame {
            function: Some(function.name.clone()),
            linkage_name: None,
            location: None,
            inlined: false,
        });
        let frames = frame.into_iter().collect();
        Resolved { address, frames, symbol: self.symbol_containing(address), missing: None }
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        let function = self.function(address.0)?;
        let symbol = Symbol {
            name: Cow::Borrowed(&function.name),
            address: VirtualAddress(function.start),
            size: function.size,
            kind: SymbolKind::Function,
        };
        Some(SymbolOffset { offset: address.0 - function.start, symbol })
    }

    fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        let found = self.functions.iter().find(|function| function.name == name)?;
        Some(VirtualAddress(found.start))
    }

    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        let mut frames = Vec::new();
        let mut registers = registers.clone();
        let (mut strategy, mut interrupted) = (Strategy::Registers, true);
        loop {
            let pc = VirtualAddress(registers.get(Register::Rip).unwrap_or(0));
            let stack = registers.get(Register::Rsp).unwrap_or(0);
            let counter = if interrupted {
                ProgramCounter::Interrupted(pc)
            } else {
                ProgramCounter::Return(pc)
            };
            let address = counter.lookup_address().0;
            let row = self.rows.iter().find(|row| address.wrapping_sub(row.start) < row.size);
            let cfa = row.map(|row| VirtualAddress(stack + row.frame + 8));
            let (is_signal_frame, cfi_fault) = (false, None);
            let kept = registers.clone();
            frames.push(UnwoundFrame {
                pc: counter,
                strategy,
                registers: kept,
                cfa,
                is_signal_frame,
                cfi_fault,
            });
            let end = match cfa {
                None => End::NotText { address: pc },
                Some(_) if row.is_some_and(|row| row.frame == 0) => End::Outermost,
                Some(cfa) => match memory.read_u64(VirtualAddress(cfa.0 - 8)) {
                    Err(error) => error.into(),
                    Ok(0) => End::ReturnAddressZero,
                    Ok(_) if frames.len() == 16 => End::TooManyFrames,
                    Ok(caller) => {
                        registers = UnwindRegisters::new(VirtualAddress(caller), cfa);
                        (strategy, interrupted) = (Strategy::Cfi, false);
                        continue;
                    }
                },
            };
            return Trace { frames, end };
        }
    }
}

// The report.

/// One look at the machine, in which its CPUs have gone on since the last.
fn observe(machine: &mut Machine, kernel: &Second, poll: u64) -> Observation {
    for cpu in 0..2 {
        machine.put(CPUS + cpu * 8, &[poll]);
    }
    let state = |state: &VcpuState| VcpuSample {
        halted: state.mp_state == MpState::Halted,
        interrupts_on: state.registers.interrupts_enabled(),
        started: state.execution().has_position(),
    };
    let times = |asleep| HostTimes {
        run: Duration::from_millis(if asleep { 0 } else { 100 * poll }),
        delay: Some(Duration::ZERO),
        asleep,
    };
    let vcpu = |vcpu: &VcpuState| Vcpu {
        times: Some(times(vcpu.mp_state == MpState::Halted)),
        sample: Some(state(vcpu)),
        ..Vcpu::default()
    };
    Observation {
        at: Duration::from_millis(100 * poll),
        vcpus: machine.states.iter().map(vcpu).collect(),
        console_bytes: 0,
        kernel: Reading::of(kernel.state(machine, Depth::All)),
    }
}

fn whole_report() -> (Backtrace, Vec<Hang>) {
    let mut machine = machine();
    let kernel = Second::recognise(&machine, &machine.states[0].registers).expect("it is there");
    let bounds = Bounds::new(Some(Duration::from_secs(1)));
    let mut detector = Detector::new(bounds, Duration::from_millis(100));
    detector.set_ready();
    for poll in 0..200 {
        let now = observe(&mut machine, &kernel, poll);
        if detector.observe(now).suspicious {
            break;
        }
    }
    let now = observe(&mut machine, &kernel, 201);
    let Some(Verdict::Hangs(found)) = detector.judge(now) else { panic!("no hang was found") };

    let stopped = Stopped::stop(&mut machine, &kernel, None, CaptureBounds::for_vcpus(2));
    let symbols = kernel.symbols(None);
    let request = Request {
        trigger: Trigger::Hang,
        at: Duration::from_millis(1),
        found: Some(*found),
        nmis: true,
        symbols,
        core: None,
        still: None,
    };
    let (capture, _) = stopped.capture(&mut machine, request);
    let reason = NoReservation::NoBuffers;
    assert_eq!(capture.reservation, Reservation::Unavailable { reason });
    let not_sent = NmiCapture::NotSent(NotSent::NoBuffers);
    assert!(capture.cpus.iter().all(|cpu| cpu.nmi == not_sent));

    let resolver =
        Resolver::new(symbols, SourceRoots::new::<&str>([])).with_words(kernel.vocabulary());
    let Diagnosis { backtrace, hangs } = diagnosis::diagnose(&capture, Some(0), &resolver);
    (backtrace, hangs)
}

fn functions(frames: &[nmiscope::report::Frame]) -> Vec<&str> {
    let functions = frames.iter().flat_map(|frame| &frame.functions);
    functions.filter_map(|function| function.name.as_deref()).collect()
}

#[test]
fn a_kernel_without_an_image_has_its_deadlock_found_and_its_tasks_blamed() {
    let (_, hangs) = whole_report();
    let [hang] = &hangs[..] else { panic!("one hang: {hangs:#?}") };
    assert_eq!(hang.class, Class::Deadlock);
    assert_eq!(hang.blamed, ["reader", "writer"]);
    assert_eq!(hang.locks.len(), 2);
    assert_eq!(hang.edges.len(), 4, "{:#?}", hang.edges);
}

#[test]
fn its_stacks_go_through_a_module_and_by_its_own_unwind_rows() {
    let (backtrace, _) = whole_report();
    let [idle, worker] = &backtrace.cpus[..] else { panic!("two CPUs") };
    assert_eq!(idle.state, CpuState::Halted);
    assert_eq!(functions(&idle.look.as_ref().expect("a look").frames), ["idle_loop"]);
    let look = worker.look.as_ref().expect("a look");
    assert_eq!(functions(&look.frames), ["driver_poll [driver]", "worker_loop"]);
    assert_eq!(look.frames[1].found_by, Some(FoundBy::Cfi));
    assert!(look.complete, "{}", look.end);
    let stacks: Vec<_> = backtrace
        .tasks
        .iter()
        .map(|task| functions(&task.look.as_ref().expect("a look").frames))
        .collect();
    assert_eq!(
        stacks,
        [
            ["mutex_sleep", "read_table", "worker_loop"],
            ["mutex_sleep", "write_table", "worker_loop"]
        ]
    );
}

#[test]
fn its_report_is_written_as_any_other() {
    let (backtrace, hangs) = whole_report();
    let written = text::backtrace(&backtrace) + &text::hangs(&hangs);
    for wanted in ["driver_poll [driver]", "reader", "writer", "read_table", "deadlock"] {
        assert!(written.contains(wanted), "{wanted} is not in:\n{written}");
    }
    // Locks sleep in mutex_sleep whoever waits: the signature is made of the callers.
    assert_eq!(hangs[0].signature.len(), 16);
}
