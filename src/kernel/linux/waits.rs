//! Waits of a Linux kernel: which lock a task sleeps for or a CPU spins for, who holds it, and which CPU does not
//! answer a call.
//!
//! Owns the search, which begins at stacks: Linux records a lock's waiters, seldom the lock that a waiter waits for.
//! Refuses to own stacks (`symbols`) and what follows from a wait (`hang`). A wait is found by what the kernel links
//! together, never by a place in a stack frame, which differs between builds:
//!
//! - A sleeper has a waiter on its stack that is part of the lock's list of waiters (`waiters`).
//! - A CPU that spins for a queued spinlock has the lock's address in RDI, the first argument of the slow path
//!   (System V ABI), which the function keeps there.
//! - A CPU that waits for another one's answer has queued a request there: on its own stack, or at its own place among
//!   its requests.

use std::collections::{BTreeMap, HashMap};

use nmiscope_machine::{Register, Registers, UnwindRegisters, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::UnwoundFrame;
use nmiscope_symbolizer::linux::{Btf, Kallsyms};

use super::THREAD_SIZE;
use super::cpus::ReadCpu;
use super::symbols::LinuxSymbols;
use super::tasks::ReadTask;
use super::waiters::{ListPlaces, Tasks};
use crate::kernel::{EndsBy, KernelSymbols, Lock, LockKind, Site, TaskRunState, Wait, WaitFor};

/// The most requests in a CPU's queue that are passed.
const MAX_REQUESTS: usize = 1 << 10;
/// Bits of a mutex's and a semaphore's owner that are flags (kernel/locking/mutex.h, kernel/locking/rwsem.c): a
/// `task_struct` is aligned to more.
const OWNER_FLAGS: u64 = 7;
/// The flag of a mutex that is handed over to the first waiter (kernel/locking/mutex.h, `MUTEX_FLAG_PICKUP`).
const HANDED_OVER: u64 = 4;
/// The flag of a semaphore that readers own: the task is the last of them to come, not the only one
/// (kernel/locking/rwsem.c, `RWSEM_READER_OWNED`).
const READER_OWNED: u64 = 1;

/// Functions in which a CPU spins with a lock's address in RDI.
const SPINS: [&str; 2] = ["native_queued_spin_lock_slowpath", "queued_spin_lock_slowpath"];

/// Functions in which a CPU waits for a paravirtual spinlock in HLT with interrupts off, until the hypervisor wakes it
/// (arch/x86/kernel/kvm.c, arch/x86/xen/spinlock.c, arch/x86/hyperv/hv_spinlock.c).
const HALTS: [&str; 3] = ["kvm_wait", "xen_qlock_wait", "hv_qlock_wait"];

/// Functions in which a CPU waits for others to run a function (kernel/smp.c).
const CALLS: [&str; 4] = [
    "smp_call_function_single",
    "smp_call_function_many_cond",
    "smp_call_function_many",
    "smp_call_function_any",
];

/// Kind of thing that tasks sleep for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Mutex,
    RwSemaphore,
    Semaphore,
    Completion,
}

impl Sleep {
    const ALL: [Self; 4] = [Self::Mutex, Self::RwSemaphore, Self::Semaphore, Self::Completion];

    /// Returns true for the function that a task sleeps in (kernel/locking/, kernel/sched/completion.c). The compiler
    /// appends `.constprop.0` and the like.
    fn is_slow_path(self, function: &str) -> bool {
        let function = function.split('.').next().unwrap_or_default();
        match self {
            Self::Mutex => function.starts_with("__mutex_lock") || function == "__ww_mutex_lock",
            Self::RwSemaphore => {
                matches!(function, "rwsem_down_read_slowpath" | "rwsem_down_write_slowpath")
            }
            Self::Semaphore => matches!(
                function,
                "__down"
                    | "__down_common"
                    | "___down_common"
                    | "__down_interruptible"
                    | "__down_killable"
                    | "__down_timeout"
            ),
            Self::Completion => {
                matches!(function, "__wait_for_common" | "do_wait_for_common")
                    || function.starts_with("wait_for_completion")
            }
        }
    }

    /// Returns the structure of the thing and the path to its list, and the structure of a waiter with the paths to its
    /// link and its task.
    fn types(self) -> ((&'static str, &'static str), (&'static str, &'static str, &'static str)) {
        match self {
            Self::Mutex => (("mutex", "wait_list"), ("mutex_waiter", "list", "task")),
            Self::RwSemaphore => (("rw_semaphore", "wait_list"), ("rwsem_waiter", "list", "task")),
            Self::Semaphore => (("semaphore", "wait_list"), ("semaphore_waiter", "list", "task")),
            Self::Completion => {
                (("completion", "wait.task_list"), ("swait_queue", "task_list", "task"))
            }
        }
    }
}

/// Places of a thing that tasks sleep for, and of its waiters.
#[derive(Debug, Clone, Copy)]
struct SleepPlaces {
    kind: Sleep,
    list: ListPlaces,
    /// Offset of the owner in the thing; `None` for one that records none.
    owner: Option<u64>,
}

impl SleepPlaces {
    /// Finds the places; `None` for a kernel with other types.
    fn new(kind: Sleep, btf: &Btf) -> Option<Self> {
        let at = |structure: &str, path: &str| Some(btf.field(structure, path).ok()?.offset);
        let ((structure, list), (waiter, link, task)) = kind.types();
        let has_owner = matches!(kind, Sleep::Mutex | Sleep::RwSemaphore);
        Some(Self {
            kind,
            list: ListPlaces {
                head: at(structure, list)?,
                link: at(waiter, link)?,
                task: at(waiter, task)?,
            },
            owner: if has_owner { Some(at(structure, "owner")?) } else { None },
        })
    }
}

/// Places by which waits are found.
#[derive(Debug)]
pub(super) struct WaitPlaces {
    sleeps: Vec<SleepPlaces>,
    /// Offset of the address of a task's stack in `struct task_struct`.
    stack: Option<u64>,
    /// Offset of the CPU that holds a spinlock, in a kernel that checks spinlocks (CONFIG_DEBUG_SPINLOCK).
    spin_owner: Option<u64>,
    requests: Option<RequestPlaces>,
}

/// Places of the requests of CPUs to each other: the per-CPU list of those to be run, and the per-CPU pointer to those
/// that a CPU makes of many others at a time.
#[derive(Debug)]
struct RequestPlaces {
    queue: u64,
    link: u64,
    own: Option<u64>,
}

/// A moment at which waits are searched for.
pub(super) struct Waits<'a> {
    pub(super) vcpus: &'a [Option<Registers>],
    pub(super) cpus: &'a [Option<ReadCpu>],
    pub(super) tasks: &'a [Option<ReadTask>],
    /// Guest-virtual addresses of the tasks' `task_struct`, in the order of `tasks`.
    pub(super) addresses: &'a [u64],
    /// Numbers of tasks, by the guest-virtual address of their `task_struct`.
    pub(super) numbers: &'a HashMap<u64, u32>,
    pub(super) symbols: &'a LinuxSymbols,
    pub(super) memory: &'a dyn VirtualMemory,
}

/// Waits that were found, by the numbers of CPUs and tasks, and the locks among what is waited for.
#[derive(Debug, Default)]
pub(super) struct FoundWaits {
    pub(super) of_cpus: Vec<Option<Wait>>,
    pub(super) of_tasks: Vec<Option<Wait>>,
    /// True for a CPU that waits for a lock in HLT.
    pub(super) in_halt: Vec<bool>,
    pub(super) locks: BTreeMap<u64, Lock>,
}

impl WaitPlaces {
    /// Finds the places by types. What the kernel does not have is not searched for.
    pub(super) fn new(symbols: &Kallsyms, btf: &Btf) -> Self {
        let at = |structure: &str, path: &str| Some(btf.field(structure, path).ok()?.offset);
        let address = |name: &str| symbols.address_of(name).map(|address| address.0);
        let own =
            |member| Some(address("cfd_data")?.wrapping_add(at("call_function_data", member)?));
        let requests = address("call_single_queue").and_then(|queue| {
            let link = at("__call_single_data", "node.llist")
                .or_else(|| at("__call_single_data", "llist"))?;
            Some(RequestPlaces { queue, link, own: own("csd").or_else(|| own("pcpu")) })
        });
        Self {
            sleeps: Sleep::ALL.iter().filter_map(|&kind| SleepPlaces::new(kind, btf)).collect(),
            stack: at("task_struct", "stack"),
            spin_owner: at("raw_spinlock", "owner_cpu"),
            requests,
        }
    }

    /// Finds the waits of CPUs that spin and of tasks that sleep uninterruptibly. `now` is the kernel's time, in
    /// nanoseconds; since when a CPU spins for a lock is not recorded.
    pub(super) fn find(&self, moment: &Waits<'_>, now: u64) -> FoundWaits {
        let mut found = FoundWaits::default();
        let waiters = Tasks::new(moment.numbers, self.stack, moment.memory);
        for (&address, task) in moment.addresses.iter().zip(moment.tasks) {
            let task = task.as_ref().filter(|task| task.task.state == TaskRunState::Blocked);
            let wait = task.and_then(|task| {
                let (what, lock) = self.sleep_of(address, task, moment, &waiters)?;
                let since_ns = task.task.since_ns.unwrap_or(now);
                if let (WaitFor::Lock(at), Some(lock)) = (what, lock) {
                    let lock = Lock { taken_ns: since_ns, ..lock };
                    let known = found.locks.entry(at).or_insert(lock);
                    // Somebody has held it for as long as the longest wait.
                    known.taken_ns = known.taken_ns.min(since_ns);
                }
                let ends_by = task.is_killable.then_some(EndsBy::Signal);
                Some(Wait { what, since_ns, at: Site::default(), ends_by })
            });
            found.of_tasks.push(wait);
        }
        for number in 0..moment.cpus.len() {
            let stack = moment.stack_of(number);
            let waits_in_halt = stack.iter().any(|(_, function)| is_in(&HALTS, function));
            found.in_halt.push(waits_in_halt);
            let what = self.spin_of(number, &stack, moment);
            if let Some((WaitFor::Lock(at), holder)) = what {
                let lock =
                    Lock { kind: LockKind::Spin, holder, taken_at: Site::default(), taken_ns: now };
                found.locks.entry(at).or_insert(lock);
            }
            let wait = |(what, _)| {
                let since_ns = since(number, what, moment).unwrap_or(now);
                Wait { what, since_ns, at: Site::default(), ends_by: None }
            };
            found.of_cpus.push(what.map(wait));
        }
        found
    }

    /// Finds what a task sleeps for, and the lock if it is one.
    fn sleep_of(
        &self,
        address: u64,
        task: &ReadTask,
        moment: &Waits<'_>,
        waiters: &Tasks<'_>,
    ) -> Option<(WaitFor, Option<Lock>)> {
        let registers = UnwindRegisters::from(task.task.registers.as_ref()?);
        let trace = moment.symbols.unwind(&registers, moment.memory);
        let start = registers.get(Register::Rsp)?;
        let slow_path = |frame: &UnwoundFrame| {
            let function = moment.symbols.function(frame)?;
            let places = self.sleeps.iter().find(|places| places.kind.is_slow_path(&function))?;
            Some((places, frame.cfa?.0))
        };
        let (places, end) = trace.frames.iter().find_map(slow_path)?;
        let at = waiters.waited_for(address, start..end, places.list)?;
        let lock = |kind, holder| Lock { kind, holder, taken_at: Site::default(), taken_ns: 0 };
        let owner = |offset: u64| moment.word(at.wrapping_add(offset));
        let holder = |owner: u64| moment.numbers.get(&(owner & !OWNER_FLAGS)).copied();
        // A mutex that is handed over names its next owner, who sleeps still.
        let of_mutex = |owner: u64| holder(owner).filter(|_| owner & HANDED_OVER == 0);
        Some(match (places.kind, places.owner.and_then(owner)) {
            (Sleep::Mutex, Some(owner)) => {
                (WaitFor::Lock(at), Some(lock(LockKind::Mutex, of_mutex(owner))))
            }
            (Sleep::RwSemaphore, Some(owner)) => {
                let writer = holder(owner).filter(|_| owner & READER_OWNED == 0);
                (WaitFor::Lock(at), Some(lock(LockKind::RwSemaphore, writer)))
            }
            // Who gives a semaphore back, or completes, is nowhere recorded.
            _ => (WaitFor::Queue(at), None),
        })
    }

    /// Finds what a CPU spins for: a lock, with its holder where that is recorded, or another CPU's answer.
    fn spin_of(
        &self,
        number: usize,
        stack: &[(UnwoundFrame, Option<String>)],
        moment: &Waits<'_>,
    ) -> Option<(WaitFor, Option<u32>)> {
        for (frame, function) in stack {
            // A frame that called another one has no RDI of its own any more.
            if let Some(lock) =
                frame.registers.get(Register::Rdi).filter(|_| is_in(&SPINS, function))
            {
                // The word of a lock that is free is zero.
                let is_held = moment.memory.read_u32(VirtualAddress(lock)).ok()? != 0;
                let owner = self.spin_owner.map(|offset| VirtualAddress(lock.wrapping_add(offset)));
                let owner = owner.and_then(|owner| moment.memory.read_u32(owner).ok());
                let owner = owner.filter(|&cpu| (cpu as usize) < moment.cpus.len());
                return is_held.then_some((WaitFor::Lock(lock), owner));
            }
        }
        let calls = stack.iter().any(|(_, function)| is_in(&CALLS, function));
        let asked = if calls { self.asked(number, moment) } else { None };
        Some((WaitFor::Call(asked?), None))
    }

    /// Finds the first CPU that has not run a request of another.
    fn asked(&self, number: usize, moment: &Waits<'_>) -> Option<u32> {
        let places = self.requests.as_ref()?;
        let asking = moment.cpus.get(number)?.as_ref()?;
        let stack = self.stack.and_then(|offset| moment.word(asking.current.wrapping_add(offset)));
        let own = places.own.and_then(|own| moment.word(own.wrapping_add(asking.offset)));
        let others = (0..).zip(moment.cpus).filter(|(other, _)| *other as usize != number);
        let pending = others.filter_map(|(other, cpu)| Some((other, cpu.as_ref()?)));
        let is_ours = |request: u64, other: &ReadCpu| {
            stack.is_some_and(|stack| request.wrapping_sub(stack) < THREAD_SIZE)
                || own.is_some_and(|own| own.wrapping_add(other.offset) == request)
        };
        let mut asked = pending.filter(|(_, cpu)| {
            let queue = places.queue.wrapping_add(cpu.offset);
            places.requests(queue, moment).any(|request| is_ours(request, cpu))
        });
        asked.next().map(|(other, _)| other)
    }
}

/// Returns the time since which a CPU waits at least, in nanoseconds; `None` if that is not known. A CPU that takes no
/// timer interrupt takes no request either: the waiting one has waited since then, or since it switched tasks last.
fn since(number: usize, what: WaitFor, moment: &Waits<'_>) -> Option<u64> {
    let WaitFor::Call(asked) = what else { return None };
    let activity = |cpu: usize| Some(&moment.cpus.get(cpu)?.as_ref()?.activity);
    let switched = activity(number)?.main_loop_ns?;
    Some(switched.max(activity(asked as usize)?.tick_ns?))
}

impl RequestPlaces {
    /// Iterates over the guest-virtual addresses of the requests in a queue, which is a list without an end of its own
    /// (include/linux/llist.h).
    fn requests<'a>(&'a self, queue: u64, moment: &'a Waits<'_>) -> impl Iterator<Item = u64> + 'a {
        let next = |link: &u64| moment.word(*link).filter(|&next| next != 0);
        let links = std::iter::successors(moment.word(queue).filter(|&first| first != 0), next);
        links.take(MAX_REQUESTS).map(|link| link.wrapping_sub(self.link))
    }
}

fn is_in(names: &[&str], function: &Option<String>) -> bool {
    function.as_deref().is_some_and(|function| names.contains(&function))
}

impl Waits<'_> {
    /// Unwinds the stack of a vCPU in the kernel, with the function of each frame; empty for any other vCPU.
    fn stack_of(&self, number: usize) -> Vec<(UnwoundFrame, Option<String>)> {
        let registers = self.vcpus.get(number).and_then(Option::as_ref);
        let Some(registers) = registers.filter(|registers| registers.cpl == 0) else {
            return Vec::new();
        };
        let trace = self.symbols.unwind(&UnwindRegisters::from(registers), self.memory);
        let function = |frame: UnwoundFrame| {
            let function = self.symbols.function(&frame);
            (frame, function)
        };
        trace.frames.into_iter().map(function).collect()
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.memory.read_u64(VirtualAddress(at)).ok()
    }
}
