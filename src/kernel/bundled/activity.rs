//! Activity of the bundled guest: counters, tasks, locks, and waits.
//!
//! Read at two depths, since `hang` has two steps. The counters are a few words for each CPU, read ten
//! times a second while the guest runs. The rest (names, places in the source, registers of tasks that do
//! not run) is read from a stopped guest. `layout` owns the addresses.

mod layout;

pub use layout::{ActivityLayout, ActivityPlaces};

use std::collections::BTreeMap;

use nmiscope_guest::abi;
use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalAddress, PhysicalMemory, ReadError, TaskRegisters,
    VirtualAddress, VirtualMemory,
};

use self::layout::{CpuActivityPlaces, StampWords, TaskWords, WaitWords};
use crate::kernel::adapter::Depth;
use crate::kernel::state::{
    CpuActivity, EndsBy, KernelState, KernelTask, Lock, LockKind, Site, TaskRunState, Wait, WaitFor,
};

/// The longest name of a source file, in bytes; a longer one is garbage.
const MAX_FILE_NAME: u64 = 1024;

impl ActivityPlaces {
    /// Reads the kernel's state. Pointers are followed through `tables`.
    ///
    /// # Errors
    /// Memory that a structure was in cannot be read.
    pub fn read(
        &self,
        memory: &dyn PhysicalMemory,
        tables: PageTables,
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        Reader { places: self, memory, tables, depth }.state()
    }
}

struct Reader<'a> {
    places: &'a ActivityPlaces,
    memory: &'a dyn PhysicalMemory,
    tables: PageTables,
    depth: Depth,
}

impl Reader<'_> {
    fn state(&self) -> Result<KernelState, ReadError> {
        let cpus = self.places.cpus.iter().map(|cpu| self.cpu(cpu.as_ref()?).ok()).collect();
        let used = self.memory.read_u32(self.places.globals.nr_tasks)? as usize;
        let tasks = self.places.tasks.iter().take(used).map(|task| self.task(task));
        let mut state = KernelState {
            panicking: number(self.memory.read_u32(self.places.globals.panic_cpu)?),
            in_debugger: self.debugger(),
            cpus,
            tasks: tasks.collect::<Result<_, _>>()?,
            locks: BTreeMap::new(),
            now_ns: None,
            patience: None,
        };
        let waits_of_cpus = state.cpus.iter().flatten().filter_map(|cpu| cpu.wait.as_ref());
        let waits_of_tasks = state.tasks.iter().flatten().filter_map(|task| task.wait.as_ref());
        let locks = waits_of_cpus.chain(waits_of_tasks).filter_map(|wait| match wait.what {
            WaitFor::Lock(address) => Some(address),
            _ => None,
        });
        // A lock that cannot be read is left out.
        let read = |address| Some((address, self.lock(VirtualAddress(address)).ok()?));
        state.locks = locks.filter_map(read).collect();
        state.now_ns = latest(&state);
        // A panic waits for its locks for a limited time, to print its message.
        if let Some(cpu) = state.panicking.and_then(|cpu| state.cpus.get_mut(cpu as usize)) {
            let wait = cpu.as_mut().and_then(|cpu| cpu.wait.as_mut());
            wait.into_iter().for_each(|wait| wait.ends_by = Some(EndsBy::BackOff));
        }
        Ok(state)
    }

    /// Returns the CPU whose debugger has stopped the kernel; `None` if none has, or the kernel has none.
    fn debugger(&self) -> Option<u32> {
        number(self.memory.read_u32(self.places.debugger_cpu?).ok()?)
    }

    fn cpu(&self, (words, stamps): &CpuActivityPlaces) -> Result<CpuActivity, ReadError> {
        let stamp = |at: fn(&StampWords<PhysicalAddress>) -> PhysicalAddress| {
            stamps.as_ref().and_then(|stamps| self.memory.read_u64(at(stamps)).ok())
        };
        Ok(CpuActivity {
            tick_ns: stamp(|stamps| stamps.tick_ns),
            main_loop_ns: stamp(|stamps| stamps.main_loop_ns),
            online: self.memory.read_u32(words.online)? != 0,
            tick: self.memory.read_u64(words.tick)?,
            main_loop: self.memory.read_u64(words.main_loop)?,
            interrupts: self.memory.read_u64(words.interrupts)?,
            ready_tasks: self.memory.read_u32(words.ready_tasks)?,
            work_queued: self.memory.read_u64(words.work_queued)?,
            work_done: self.memory.read_u64(words.work_done)?,
            task: number(self.memory.read_u32(words.task)?),
            wait: self.wait(&words.wait)?,
            waits_in_halt: false,
            context: None,
        })
    }

    fn task(&self, words: &TaskWords<PhysicalAddress>) -> Result<Option<KernelTask>, ReadError> {
        let state = match self.memory.read_u32(words.state)? {
            abi::TASK_UNUSED => return Ok(None),
            abi::TASK_READY => TaskRunState::Ready,
            abi::TASK_RUNNING => TaskRunState::Running,
            abi::TASK_BLOCKED => TaskRunState::Blocked,
            abi::TASK_ENDED => TaskRunState::Ended,
            garbage => TaskRunState::Garbage(garbage),
        };
        let all = self.depth != Depth::Counters;
        Ok(Some(KernelTask {
            name: if all { self.name(words.name)? } else { String::new() },
            cpu: self.memory.read_u32(words.cpu)?,
            state,
            switches: self.memory.read_u64(words.switches)?,
            wait: self.wait(&words.wait)?,
            since_ns: None,
            registers: match state {
                // The registers of a task that is being switched to or from mean nothing.
                TaskRunState::Ready | TaskRunState::Blocked if all => {
                    self.registers(self.memory.read_u64(words.stack_pointer)?).ok()
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
        TaskRegisters::try_from_fn(|register| match layout.offset(register) {
            Some(offset) => {
                self.virtual_memory().read_u64(VirtualAddress(stack_pointer).wrapping_add(offset))
            }
            // RSP: when the task continues, the frame has been popped from its stack.
            None => Ok(stack_pointer.wrapping_add(layout.size)),
        })
    }

    /// Reads a wait. Its kind is written last when it begins.
    fn wait(&self, words: &WaitWords<PhysicalAddress>) -> Result<Option<Wait>, ReadError> {
        let what = match self.memory.read_u32(words.kind)? {
            abi::WAIT_LOCK => WaitFor::Lock(self.memory.read_u64(words.on)?),
            abi::WAIT_QUEUE => WaitFor::Queue(self.memory.read_u64(words.on)?),
            abi::WAIT_CPU_CALL => WaitFor::Call(self.memory.read_u32(words.cpu)?),
            abi::WAIT_CPU_ONLINE => WaitFor::Online(self.memory.read_u32(words.cpu)?),
            _ => return Ok(None),
        };
        let since_ns = self.memory.read_u64(words.since_ns)?;
        let at = self.site(self.memory.read_u64(words.at)?);
        Ok(Some(Wait { what, since_ns, at, ends_by: None }))
    }

    fn lock(&self, record: VirtualAddress) -> Result<Lock, ReadError> {
        let layout = &self.places.layouts.lock;
        let kind = match self.virtual_memory().read_u32(record.wrapping_add(layout.kind))? {
            abi::LOCK_SPIN => LockKind::Spin,
            abi::LOCK_TICKET => LockKind::Ticket,
            abi::LOCK_MUTEX => LockKind::Mutex,
            garbage => LockKind::Garbage(garbage),
        };
        Ok(Lock {
            kind,
            holder: number(self.virtual_memory().read_u32(record.wrapping_add(layout.holder))?),
            taken_at: self
                .site(self.virtual_memory().read_u64(record.wrapping_add(layout.taken_at))?),
            taken_ns: self.virtual_memory().read_u64(record.wrapping_add(layout.taken_ns))?,
        })
    }

    fn site(&self, address: u64) -> Site {
        let wanted = address != 0 && self.depth != Depth::Counters;
        let line = wanted.then(|| self.line(VirtualAddress(address))).flatten();
        Site { address, line }
    }

    /// Returns the file and line of a location; `None` if there is none, or it is garbage.
    fn line(&self, location: VirtualAddress) -> Option<(String, u32)> {
        let layout = &self.places.layouts.location;
        let file = self.virtual_memory().read_u64(location.wrapping_add(layout.file)).ok()?;
        let length =
            self.virtual_memory().read_u64(location.wrapping_add(layout.file_length)).ok()?;
        let mut bytes = (length <= MAX_FILE_NAME).then(|| vec![0; length as usize])?;
        self.virtual_memory().read(VirtualAddress(file), &mut bytes).ok()?;
        let line = self.virtual_memory().read_u32(location.wrapping_add(layout.line)).ok()?;
        Some((String::from_utf8_lossy(&bytes).into_owned(), line))
    }

    fn virtual_memory(&self) -> GuestVirtual<'_, dyn PhysicalMemory + '_> {
        GuestVirtual::new(self.memory, self.tables)
    }
}

/// The latest uptime, in nanoseconds: ten years; a later one is garbage.
const MAX_UPTIME_NS: u64 = 10 * 365 * 24 * 3600 * 1_000_000_000;

/// Returns the latest of all recorded times; `None` if it is garbage.
fn latest(state: &KernelState) -> Option<u64> {
    let cpus = state.cpus.iter().flatten();
    let stamps = cpus.clone().flat_map(|cpu| [cpu.tick_ns, cpu.main_loop_ns]).flatten();
    let of_cpus = cpus.filter_map(|cpu| cpu.wait.as_ref());
    let of_tasks = state.tasks.iter().flatten().filter_map(|task| task.wait.as_ref());
    let waits = of_cpus.chain(of_tasks).map(|wait| wait.since_ns);
    let locks = state.locks.values().map(|lock| lock.taken_ns);
    stamps.chain(waits).chain(locks).max().filter(|&latest| latest <= MAX_UPTIME_NS)
}

/// Decodes the number of a CPU or a task, which the guest stores plus one, with 0 for none.
fn number(plus_one: u32) -> Option<u32> {
    plus_one.checked_sub(1)
}
