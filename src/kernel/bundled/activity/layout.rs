//! Layout of the bundled guest's activity: addresses and offsets, first from the image's debug
//! information, and then for one guest, by its page tables.

use nmiscope_machine::{GuestVirtual, PhysicalAddress, PhysicalMemory, Register, VirtualAddress};
use nmiscope_symbolizer::{Place, Type, TypeError, Types};

use crate::kernel::bundled::addresses::{MAX_CPUS, address, physical};

/// The most tasks that are read: more than the guest has room for.
const MAX_TASKS: u64 = 256;

/// The longest name of a task, in bytes; a longer one is garbage.
const MAX_TASK_NAME: u64 = 64;

/// Declares a structure of word addresses. An address `A` is first a virtual one in the image (for a
/// per-CPU variable, that of the template), and a guest-physical one when the guest's page tables are
/// known, so that it can be read while the guest runs.
macro_rules! words {
    ($name:ident { $($word:ident),* $(; $part:ident: $words:ident)? }) => {
        #[derive(Debug)]
        pub(super) struct $name<A> {
            $(pub(super) $word: A,)*
            $(pub(super) $part: $words<A>,)?
        }

        impl<A: Copy> $name<A> {
            fn try_map<B, E>(
                &self,
                to: &impl Fn(A) -> Result<B, E>,
            ) -> Result<$name<B>, E> {
                Ok($name { $($word: to(self.$word)?,)* $($part: self.$part.try_map(to)?,)? })
            }
        }
    };
}

words!(Globals { panic_cpu, nr_tasks });

words!(CpuWords {
    online, tick, main_loop, interrupts, ready_tasks, work_queued, work_done, task;
    wait: WaitWords
});

words!(StampWords { tick_ns, main_loop_ns });

words!(TaskWords { name, cpu, state, stack_pointer, switches; wait: WaitWords });

words!(WaitWords { kind, cpu, on, at, since_ns });

/// Offsets in bytes of structures that are found by pointers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layouts {
    pub(super) task_name_length: u64,
    pub(super) lock: LockLayout,
    pub(super) location: LocationLayout,
    pub(super) switch_frame: SwitchFrameLayout,
}

/// Offsets in a `LockRecord`, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockLayout {
    pub(super) kind: u64,
    pub(super) holder: u64,
    pub(super) taken_at: u64,
    pub(super) taken_ns: u64,
}

/// Offsets in Rust's `core::panic::Location`, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocationLayout {
    pub(super) file: u64,
    pub(super) file_length: u64,
    pub(super) line: u64,
}

/// Offsets in a `SwitchFrame`, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct SwitchFrameLayout {
    /// Offsets by the register's DWARF number; `None` for a register that is not saved.
    offsets: [Option<u64>; Register::ALL.len()],
    pub(super) size: u64,
}

/// Addresses and offsets that the image's debug information has.
#[derive(Debug)]
pub struct ActivityLayout {
    globals: Globals<VirtualAddress>,
    cpu: CpuWords<VirtualAddress>,
    /// Addresses of recorded times; `None` for an older image, whose CPUs do not record them.
    stamps: Option<StampWords<VirtualAddress>>,
    /// Address of the debugger's record; `None` for a kernel without one.
    debugger_cpu: Option<VirtualAddress>,
    tasks: Vec<TaskWords<VirtualAddress>>,
    layouts: Layouts,
}

impl ActivityLayout {
    /// Finds the structures by name in the image's debug information.
    ///
    /// # Errors
    /// A structure is not in the image. The error is the first one's.
    pub fn find(types: &Types<'_>) -> Result<Self, TypeError> {
        let wait = types.variable("cpu_wait")?;
        let tasks = types.variable("TASKS")?;
        let count = tasks.ty().count()?.unwrap_or(0).min(MAX_TASKS);
        let name_length = tasks.index(0)?.field("name")?.ty().size().unwrap_or(0);
        let all = (0..count).map(|task| TaskWords::find(&tasks.index(task)?));
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
                wait: WaitWords::find(&wait)?,
            },
            stamps: StampWords::find(types).ok(),
            debugger_cpu: address(types, "debugger_cpu").ok(),
            tasks: all.collect::<Result<_, TypeError>>()?,
            layouts: Layouts {
                task_name_length: name_length.min(MAX_TASK_NAME),
                lock: LockLayout::from_type(types.type_named("LockRecord")?)?,
                location: LocationLayout::from_wait(&wait)?,
                switch_frame: SwitchFrameLayout::from_type(types.type_named("SwitchFrame")?)?,
            },
        })
    }

    /// Translates the addresses to guest-physical ones. `offsets` are the CPUs' distances from the
    /// per-CPU template.
    ///
    /// # Errors
    /// A variable of the image is not mapped.
    pub fn locate<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &GuestVirtual<'_, M>,
        offsets: impl Iterator<Item = Option<u64>>,
    ) -> Result<ActivityPlaces, TypeError> {
        let place = |address| physical(memory, address);
        let globals = self.globals.try_map(&place)?;
        let cpus = offsets.take(MAX_CPUS as usize).map(|offset| {
            let offset = offset?;
            let place = |address: VirtualAddress| physical(memory, address.wrapping_add(offset));
            let words = self.cpu.try_map(&place).ok()?;
            let stamps = self.stamps.as_ref().and_then(|stamps| stamps.try_map(&place).ok());
            Some((words, stamps))
        });
        let tasks = self.tasks.iter().map(|task| task.try_map(&place));
        Ok(ActivityPlaces {
            globals,
            debugger_cpu: self.debugger_cpu.and_then(|address| place(address).ok()),
            cpus: cpus.collect(),
            tasks: tasks.collect::<Result<_, TypeError>>()?,
            layouts: self.layouts,
        })
    }
}

/// Physical addresses of a CPU's words, and of its times if it records them.
pub(super) type CpuActivityPlaces =
    (CpuWords<PhysicalAddress>, Option<StampWords<PhysicalAddress>>);

/// Physical addresses of a guest's structures.
#[derive(Debug)]
pub struct ActivityPlaces {
    pub(super) globals: Globals<PhysicalAddress>,
    /// Address of the debugger's record; `None` for a kernel without one.
    pub(super) debugger_cpu: Option<PhysicalAddress>,
    /// Addresses by CPU number; `None` for a CPU whose variables are not mapped.
    pub(super) cpus: Vec<Option<CpuActivityPlaces>>,
    pub(super) tasks: Vec<TaskWords<PhysicalAddress>>,
    pub(super) layouts: Layouts,
}

impl StampWords<VirtualAddress> {
    fn find(types: &Types<'_>) -> Result<Self, TypeError> {
        Ok(Self { tick_ns: address(types, "tick_ns")?, main_loop_ns: address(types, "loop_ns")? })
    }
}

impl WaitWords<VirtualAddress> {
    fn find(wait: &Place<'_>) -> Result<Self, TypeError> {
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
    fn find(task: &Place<'_>) -> Result<Self, TypeError> {
        let part = |name| task.field(name).map(|part| part.address());
        Ok(Self {
            name: part("name")?,
            cpu: part("cpu")?,
            state: part("state")?,
            stack_pointer: part("stack_pointer")?,
            switches: part("switches")?,
            wait: WaitWords::find(&task.field("wait")?)?,
        })
    }
}

impl LockLayout {
    fn from_type(ty: Type<'_>) -> Result<Self, TypeError> {
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
    /// Finds the layout of the location that a `Wait` points to.
    fn from_wait(wait: &Place<'_>) -> Result<Self, TypeError> {
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
    fn from_type(ty: Type<'_>) -> Result<Self, TypeError> {
        let size = ty.size().unwrap_or(0);
        let frame = at_zero(ty);
        let mut offsets = [None; Register::ALL.len()];
        let is_saved =
            |register: &Register| register.is_callee_saved() || *register == Register::Rip;
        for register in Register::ALL.into_iter().filter(is_saved) {
            offsets[register as usize] = Some(offset(&frame, &register.to_string())?);
        }
        Ok(Self { offsets, size })
    }

    /// Returns the offset of a register in the frame, in bytes; `None` if it is not saved there.
    pub(super) fn offset(&self, register: Register) -> Option<u64> {
        self.offsets[register as usize]
    }
}

/// Returns the offset of a part of a place at address 0.
fn offset(of: &Place<'_>, path: &str) -> Result<u64, TypeError> {
    Ok(of.field(path)?.address().0)
}

fn at_zero(ty: Type<'_>) -> Place<'_> {
    Place::new(VirtualAddress(0), ty)
}
