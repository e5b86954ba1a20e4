//! What the bundled guest says of what it is doing: counters, tasks, locks, and who waits for what.
//!
//! Two depths, as `hang` has two steps. The counters are a few words for each CPU, read ten times a
//! second while the guest runs. The rest (names, places in the source, registers of tasks that do not
//! run) is read of a guest that stands still.

use std::collections::BTreeMap;

use nmiscope_guest::abi;
use nmiscope_symbolizer::{
    GuestVirtual, PageTables, PhysicalAddress, PhysicalMemory, Place, ReadError, Type, TypeError,
    Types, VirtualAddress, VirtualMemory,
};

use super::{MAX_CPUS, address, physical};
use crate::hang::{
    CpuActivity, KernelState, Lock, LockKind, Site, Task, TaskRegisters, TaskState, Wait, WaitFor,
};

/// More tasks than the guest has room for, and few enough to read them all.
const MAX_TASKS: u64 = 256;

/// The longest name of a task that is believed in.
const MAX_TASK_NAME: u64 = 64;

/// The longest name of a source file that is believed in.
const MAX_FILE_NAME: u64 = 1024;

/// What is read of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Numbers, while it runs.
    Counters,
    /// All, while it stands still.
    All,
}

/// Where the structures are: `A` is a virtual address of the image at first (of a per-CPU variable,
/// that of the template), and a guest-physical one when the guest's page tables are known, so that
/// it can be read while the guest runs.
#[derive(Debug)]
struct Globals<A> {
    panic_cpu: A,
    nr_tasks: A,
}

#[derive(Debug)]
struct CpuWords<A> {
    online: A,
    tick: A,
    main_loop: A,
    interrupts: A,
    ready_tasks: A,
    work_queued: A,
    work_done: A,
    task: A,
    wait: WaitWords<A>,
}

#[derive(Debug)]
struct WaitWords<A> {
    kind: A,
    cpu: A,
    on: A,
    at: A,
    since_ns: A,
}

#[derive(Debug)]
struct TaskWords<A> {
    name: A,
    cpu: A,
    state: A,
    stack_pointer: A,
    switches: A,
    wait: WaitWords<A>,
}

/// How structures are laid out that are found by pointers: offsets, in bytes.
#[derive(Debug, Clone, Copy)]
struct Layouts {
    task_name_length: u64,
    lock: LockLayout,
    location: LocationLayout,
    switch_frame: SwitchFrameLayout,
}

/// Of a `LockRecord`.
#[derive(Debug, Clone, Copy)]
struct LockLayout {
    kind: u64,
    holder: u64,
    taken_at: u64,
    taken_ns: u64,
}

/// Of Rust's `core::panic::Location`.
#[derive(Debug, Clone, Copy)]
struct LocationLayout {
    file: u64,
    file_length: u64,
    line: u64,
}

/// Of a `SwitchFrame`.
#[derive(Debug, Clone, Copy)]
struct SwitchFrameLayout {
    rip: u64,
    rbp: u64,
    rbx: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    size: u64,
}

/// What the image says.
#[derive(Debug)]
pub struct Activity {
    globals: Globals<VirtualAddress>,
    cpu: CpuWords<VirtualAddress>,
    tasks: Vec<TaskWords<VirtualAddress>>,
    layouts: Layouts,
}

impl Activity {
    /// Finds the structures by name in the image's debug information.
    ///
    /// # Errors
    /// The first one that is not there.
    pub fn find(types: &Types<'_>) -> Result<Self, TypeError> {
        let wait = types.variable("cpu_wait")?;
        let tasks = types.variable("TASKS")?;
        let count = tasks.ty().count()?.unwrap_or(0).min(MAX_TASKS);
        let name_length = tasks.index(0)?.field("name")?.ty().size().unwrap_or(0);
        let all = (0..count).map(|task| TaskWords::of(&tasks.index(task)?));
        Ok(Self {
            globals: Globals {
                panic_cpu: address(types, "panic_cpu")?,
                nr_tasks: address(types, "nr_tasks")?,
            },
            cpu: CpuWords {
                online: address(types, "cpu_online")?,
                tick: address(types, "tick_heartbeat")?,
                main_loop: address(types, "loop_heartbeat")?,
                interrupts: address(types, "irq_count")?,
                ready_tasks: address(types, "nr_running")?,
                work_queued: address(types, "work_queued")?,
                work_done: address(types, "work_done")?,
                task: address(types, "current_task")?,
                wait: WaitWords::of(&wait)?,
            },
            tasks: all.collect::<Result<_, TypeError>>()?,
            layouts: Layouts {
                task_name_length: name_length.min(MAX_TASK_NAME),
                lock: LockLayout::of(types.type_named("LockRecord")?)?,
                location: LocationLayout::of(&wait)?,
                switch_frame: SwitchFrameLayout::of(types.type_named("SwitchFrame")?)?,
            },
        })
    }

    /// Finds the physical addresses. `offsets` are those of the CPUs' variables from the template.
    ///
    /// # Errors
    /// Something of the image's own is not mapped.
    pub fn locate<M: PhysicalMemory>(
        &self,
        memory: &GuestVirtual<'_, M>,
        offsets: impl Iterator<Item = Option<u64>>,
    ) -> Result<Places, TypeError> {
        let place = |address: &VirtualAddress| physical(memory, *address);
        let cpus = offsets.take(MAX_CPUS as usize).map(|offset| {
            let place = |address: &VirtualAddress| {
                physical(memory, address.wrapping_add(offset.unwrap_or(0)))
            };
            offset.and_then(|_| self.cpu.try_map(place).ok())
        });
        let tasks = self.tasks.iter().map(|task| task.try_map(place));
        Ok(Places {
            globals: Globals {
                panic_cpu: place(&self.globals.panic_cpu)?,
                nr_tasks: place(&self.globals.nr_tasks)?,
            },
            cpus: cpus.collect(),
            tasks: tasks.collect::<Result<_, TypeError>>()?,
            layouts: self.layouts,
        })
    }
}

/// The offset of a part of a place at address 0.
fn offset(of: &Place<'_>, path: &str) -> Result<u64, TypeError> {
    Ok(of.field(path)?.address().0)
}

fn at_zero(ty: Type<'_>) -> Place<'_> {
    Place::new(VirtualAddress(0), ty)
}

impl WaitWords<VirtualAddress> {
    fn of(wait: &Place<'_>) -> Result<Self, TypeError> {
        let part = |name| wait.field(name).map(|part| part.address());
        Ok(Self {
            kind: part("kind")?,
            cpu: part("cpu")?,
            on: part("on")?,
            at: part("at")?,
            since_ns: part("since_ns")?,
        })
    }
}

impl TaskWords<VirtualAddress> {
    fn of(task: &Place<'_>) -> Result<Self, TypeError> {
        let part = |name| task.field(name).map(|part| part.address());
        Ok(Self {
            name: part("name")?,
            cpu: part("cpu")?,
            state: part("state")?,
            stack_pointer: part("stack_pointer")?,
            switches: part("switches")?,
            wait: WaitWords::of(&task.field("wait")?)?,
        })
    }
}

impl<A> WaitWords<A> {
    fn try_map<B, E>(&self, mut to: impl FnMut(&A) -> Result<B, E>) -> Result<WaitWords<B>, E> {
        Ok(WaitWords {
            kind: to(&self.kind)?,
            cpu: to(&self.cpu)?,
            on: to(&self.on)?,
            at: to(&self.at)?,
            since_ns: to(&self.since_ns)?,
        })
    }
}

impl<A> CpuWords<A> {
    fn try_map<B, E>(&self, mut to: impl FnMut(&A) -> Result<B, E>) -> Result<CpuWords<B>, E> {
        Ok(CpuWords {
            online: to(&self.online)?,
            tick: to(&self.tick)?,
            main_loop: to(&self.main_loop)?,
            interrupts: to(&self.interrupts)?,
            ready_tasks: to(&self.ready_tasks)?,
            work_queued: to(&self.work_queued)?,
            work_done: to(&self.work_done)?,
            task: to(&self.task)?,
            wait: self.wait.try_map(to)?,
        })
    }
}

impl<A> TaskWords<A> {
    fn try_map<B, E>(&self, mut to: impl FnMut(&A) -> Result<B, E>) -> Result<TaskWords<B>, E> {
        Ok(TaskWords {
            name: to(&self.name)?,
            cpu: to(&self.cpu)?,
            state: to(&self.state)?,
            stack_pointer: to(&self.stack_pointer)?,
            switches: to(&self.switches)?,
            wait: self.wait.try_map(to)?,
        })
    }
}

impl LockLayout {
    fn of(ty: Type<'_>) -> Result<Self, TypeError> {
        let record = at_zero(ty);
        Ok(Self {
            kind: offset(&record, "kind")?,
            holder: offset(&record, "holder")?,
            taken_at: offset(&record, "taken_at")?,
            taken_ns: offset(&record, "taken_ns")?,
        })
    }
}

impl LocationLayout {
    /// Of what a `Wait` points at.
    fn of(wait: &Place<'_>) -> Result<Self, TypeError> {
        let pointer = wait.field("at")?.peel()?;
        let location = pointer.ty().pointee()?;
        let location = location.ok_or_else(|| TypeError::NotFound { name: "Location".into() })?;
        let location = at_zero(location);
        Ok(Self {
            file: offset(&location, "filename.data_ptr")?,
            file_length: offset(&location, "filename.length")?,
            line: offset(&location, "line")?,
        })
    }
}

impl SwitchFrameLayout {
    fn of(ty: Type<'_>) -> Result<Self, TypeError> {
        let size = ty.size().unwrap_or(0);
        let frame = at_zero(ty);
        Ok(Self {
            rip: offset(&frame, "rip")?,
            rbp: offset(&frame, "rbp")?,
            rbx: offset(&frame, "rbx")?,
            r12: offset(&frame, "r12")?,
            r13: offset(&frame, "r13")?,
            r14: offset(&frame, "r14")?,
            r15: offset(&frame, "r15")?,
            size,
        })
    }
}

/// Where a guest has its structures.
#[derive(Debug)]
pub struct Places {
    globals: Globals<PhysicalAddress>,
    /// By CPU number; `None` for one whose variables are not to be found.
    cpus: Vec<Option<CpuWords<PhysicalAddress>>>,
    tasks: Vec<TaskWords<PhysicalAddress>>,
    layouts: Layouts,
}

impl Places {
    /// Reads them. What is found by a pointer is found through `tables`.
    ///
    /// # Errors
    /// There is no memory where something was.
    pub fn read(
        &self,
        memory: &impl PhysicalMemory,
        tables: PageTables,
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        Reader { places: self, memory, tables, depth }.state()
    }
}

struct Reader<'a, M> {
    places: &'a Places,
    memory: &'a M,
    tables: PageTables,
    depth: Depth,
}

impl<M: PhysicalMemory> Reader<'_, M> {
    fn state(&self) -> Result<KernelState, ReadError> {
        let cpus = self.places.cpus.iter().map(|cpu| self.cpu(cpu.as_ref()?).ok()).collect();
        let used = self.word(self.places.globals.nr_tasks)? as usize;
        let tasks = self.places.tasks.iter().take(used).map(|task| self.task(task));
        let mut state = KernelState {
            panicking: number(self.word(self.places.globals.panic_cpu)?),
            cpus,
            tasks: tasks.collect::<Result<_, _>>()?,
            locks: BTreeMap::new(),
        };
        let waits_of_cpus = state.cpus.iter().flatten().filter_map(|cpu| cpu.wait.as_ref());
        let waits_of_tasks = state.tasks.iter().flatten().filter_map(|task| task.wait.as_ref());
        let locks = waits_of_cpus.chain(waits_of_tasks).filter_map(|wait| match wait.what {
            WaitFor::Lock(address) => Some(address),
            _ => None,
        });
        // One that cannot be read is one that is not known.
        let read = |address| Some((address, self.lock(VirtualAddress(address)).ok()?));
        state.locks = locks.filter_map(read).collect();
        Ok(state)
    }

    fn cpu(&self, words: &CpuWords<PhysicalAddress>) -> Result<CpuActivity, ReadError> {
        Ok(CpuActivity {
            online: self.word(words.online)? != 0,
            tick: self.long(words.tick)?,
            main_loop: self.long(words.main_loop)?,
            interrupts: self.long(words.interrupts)?,
            ready_tasks: self.word(words.ready_tasks)?,
            work_queued: self.long(words.work_queued)?,
            work_done: self.long(words.work_done)?,
            task: number(self.word(words.task)?),
            wait: self.wait(&words.wait)?,
        })
    }

    fn task(&self, words: &TaskWords<PhysicalAddress>) -> Result<Option<Task>, ReadError> {
        let state = match self.word(words.state)? {
            abi::TASK_UNUSED => return Ok(None),
            abi::TASK_READY => TaskState::Ready,
            abi::TASK_RUNNING => TaskState::Running,
            abi::TASK_BLOCKED => TaskState::Blocked,
            abi::TASK_ENDED => TaskState::Ended,
            garbage => TaskState::Garbage(garbage),
        };
        let all = self.depth == Depth::All;
        Ok(Some(Task {
            name: if all { self.name(words.name)? } else { String::new() },
            cpu: self.word(words.cpu)?,
            state,
            switches: self.long(words.switches)?,
            wait: self.wait(&words.wait)?,
            registers: match state {
                // Those of one that is being switched to or from mean nothing.
                TaskState::Ready | TaskState::Blocked if all => {
                    self.registers(self.long(words.stack_pointer)?).ok()
                }
                _ => None,
            },
        }))
    }

    fn name(&self, at: PhysicalAddress) -> Result<String, ReadError> {
        let mut bytes = vec![0; self.places.layouts.task_name_length as usize];
        self.memory.read(at, &mut bytes)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn registers(&self, stack_pointer: u64) -> Result<TaskRegisters, ReadError> {
        let layout = &self.places.layouts.switch_frame;
        let read = |offset| self.long_at(VirtualAddress(stack_pointer).wrapping_add(offset));
        Ok(TaskRegisters {
            rip: read(layout.rip)?,
            rsp: stack_pointer.wrapping_add(layout.size),
            rbp: read(layout.rbp)?,
            rbx: read(layout.rbx)?,
            r12: read(layout.r12)?,
            r13: read(layout.r13)?,
            r14: read(layout.r14)?,
            r15: read(layout.r15)?,
        })
    }

    /// The kind is written last when a wait begins.
    fn wait(&self, words: &WaitWords<PhysicalAddress>) -> Result<Option<Wait>, ReadError> {
        let what = match self.word(words.kind)? {
            abi::WAIT_LOCK => WaitFor::Lock(self.long(words.on)?),
            abi::WAIT_QUEUE => WaitFor::Queue(self.long(words.on)?),
            abi::WAIT_CPU_CALL => WaitFor::Call(self.word(words.cpu)?),
            abi::WAIT_CPU_ONLINE => WaitFor::Online(self.word(words.cpu)?),
            _ => return Ok(None),
        };
        let since_ns = self.long(words.since_ns)?;
        Ok(Some(Wait { what, since_ns, at: self.site(self.long(words.at)?) }))
    }

    fn lock(&self, record: VirtualAddress) -> Result<Lock, ReadError> {
        let layout = &self.places.layouts.lock;
        let kind = match self.word_at(record.wrapping_add(layout.kind))? {
            abi::LOCK_SPIN => LockKind::Spin,
            abi::LOCK_TICKET => LockKind::Ticket,
            abi::LOCK_MUTEX => LockKind::Mutex,
            garbage => LockKind::Garbage(garbage),
        };
        Ok(Lock {
            kind,
            holder: number(self.word_at(record.wrapping_add(layout.holder))?),
            taken_at: self.site(self.long_at(record.wrapping_add(layout.taken_at))?),
            taken_ns: self.long_at(record.wrapping_add(layout.taken_ns))?,
        })
    }

    fn site(&self, address: u64) -> Site {
        let wanted = address != 0 && self.depth == Depth::All;
        let line = wanted.then(|| self.line(VirtualAddress(address))).flatten();
        Site { address, line }
    }

    /// `None` where there is none, or none that is believed in.
    fn line(&self, location: VirtualAddress) -> Option<(String, u32)> {
        let layout = &self.places.layouts.location;
        let file = self.long_at(location.wrapping_add(layout.file)).ok()?;
        let length = self.long_at(location.wrapping_add(layout.file_length)).ok()?;
        let mut bytes = (length <= MAX_FILE_NAME).then(|| vec![0; length as usize])?;
        self.virtual_memory().read(VirtualAddress(file), &mut bytes).ok()?;
        let line = self.word_at(location.wrapping_add(layout.line)).ok()?;
        Some((String::from_utf8_lossy(&bytes).into_owned(), line))
    }

    fn virtual_memory(&self) -> GuestVirtual<'_, M> {
        GuestVirtual::new(self.memory, self.tables)
    }

    fn word(&self, at: PhysicalAddress) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.memory.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn long(&self, at: PhysicalAddress) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.memory.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn word_at(&self, at: VirtualAddress) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.virtual_memory().read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn long_at(&self, at: VirtualAddress) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.virtual_memory().read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The number of a CPU or a task, of which the guest writes one more, and 0 for none.
fn number(plus_one: u32) -> Option<u32> {
    plus_one.checked_sub(1)
}
