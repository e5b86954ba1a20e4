//! Where the bundled guest has what it says of its activity: addresses and layouts, from the image's
//! debug information at first, and then for one guest, by its page tables.

use nmiscope_machine::{GuestVirtual, PhysicalAddress, PhysicalMemory, Register, VirtualAddress};
use nmiscope_symbolizer::{Place, Type, TypeError, Types};

use crate::kernel::bundled::addresses::{MAX_CPUS, address, physical};

/// More tasks than the guest has room for, and few enough to read them all.
const MAX_TASKS: u64 = 256;

/// The longest name of a task that is believed in.
const MAX_TASK_NAME: u64 = 64;

/// Declares where a structure's words are. An address `A` is a virtual one of the image at first (of a
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

/// How structures are laid out that are found by pointers: offsets, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layouts {
    pub(super) task_name_length: u64,
    pub(super) lock: LockLayout,
    pub(super) location: LocationLayout,
    pub(super) switch_frame: SwitchFrameLayout,
}

/// Of a `LockRecord`.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockLayout {
    pub(super) kind: u64,
    pub(super) holder: u64,
    pub(super) taken_at: u64,
    pub(super) taken_ns: u64,
}

/// Of Rust's `core::panic::Location`.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocationLayout {
    pub(super) file: u64,
    pub(super) file_length: u64,
    pub(super) line: u64,
}

/// Of a `SwitchFrame`.
#[derive(Debug, Clone, Copy)]
pub(super) struct SwitchFrameLayout {
    /// By DWARF number; `None` for a register that it does not hold.
    offsets: [Option<u64>; Register::ALL.len()],
    pub(super) size: u64,
}

/// What the image says.
#[derive(Debug)]
pub struct ActivityLayout {
    globals: Globals<VirtualAddress>,
    cpu: CpuWords<VirtualAddress>,
    /// `None` in an older image, whose CPUs do not record these times.
    stamps: Option<StampWords<VirtualAddress>>,
    tasks: Vec<TaskWords<VirtualAddress>>,
    layouts: Layouts,
}

impl ActivityLayout {
    /// Finds the structures by name in the image's debug information.
    ///
    /// # Errors
    /// The first one that is not there.
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
            tasks: all.collect::<Result<_, TypeError>>()?,
            layouts: Layouts {
                task_name_length: name_length.min(MAX_TASK_NAME),
                lock: LockLayout::from_type(types.type_named("LockRecord")?)?,
                location: LocationLayout::from_wait(&wait)?,
                switch_frame: SwitchFrameLayout::from_type(types.type_named("SwitchFrame")?)?,
            },
        })
    }

    /// Finds the physical addresses. `offsets` are those of the CPUs' variables from the template.
    ///
    /// # Errors
    /// Something of the image's own is not mapped.
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
            cpus: cpus.collect(),
            tasks: tasks.collect::<Result<_, TypeError>>()?,
            layouts: self.layouts,
        })
    }
}

/// The places of a CPU's words, and of its times where it records them.
pub(super) type CpuActivityPlaces =
    (CpuWords<PhysicalAddress>, Option<StampWords<PhysicalAddress>>);

/// Where a guest has its structures.
#[derive(Debug)]
pub struct ActivityPlaces {
    pub(super) globals: Globals<PhysicalAddress>,
    /// By CPU number; `None` for one whose variables are not to be found.
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
    /// Of what a `Wait` points at.
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

    /// Where a register lies in the frame, in bytes from its start; `None` if it is not there.
    pub(super) fn offset(&self, register: Register) -> Option<u64> {
        self.offsets[register as usize]
    }
}

/// The offset of a part of a place at address 0.
fn offset(of: &Place<'_>, path: &str) -> Result<u64, TypeError> {
    Ok(of.field(path)?.address().0)
}

fn at_zero(ty: Type<'_>) -> Place<'_> {
    Place::new(VirtualAddress(0), ty)
}
