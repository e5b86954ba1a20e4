//! Healthy: two kernel threads on each of the first eight CPUs pass items from CPU to CPU. A sorter takes
//! an item out of its station's inbox, processes it, and puts it into the outbox; a carrier takes it from
//! there to the next CPU's inbox, one item after each tick. Between ticks they sleep.
//!
//! Expect: healthy
//! Frames: 0: cpu_main|task_main
//! Frames: others: cpu_main|task_main

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use nmiscope_guest::sched::{self, MAX_TASKS};

use super::{Next, Workload};
use crate::machine::{self, X86};
use crate::sync::{Mutex, TicketLock, WaitQueue};
use crate::{kthread, work_done, work_queued};

pub static WORKLOAD: Workload = Workload { name: "tasks", min_cpus: 1, step };

const STATIONS: usize = MAX_TASKS / 2;
const ITEMS_PER_STATION: usize = 2;
/// Room in a tray: enough for all items at once.
const TRAY_SIZE: usize = STATIONS * ITEMS_PER_STATION;

/// A CPU's station: its trays and its tick.
struct Station {
    opened: AtomicBool,
    inbox: Tray,
    outbox: Tray,
    /// Count of the CPU's ticks that its main loop has seen.
    ticks: AtomicU64,
    /// Tasks that wait for the next tick.
    tick: WaitQueue,
}

static OFFICE: [Station; STATIONS] = [const {
    Station {
        opened: AtomicBool::new(false),
        inbox: Tray::new(),
        outbox: Tray::new(),
        ticks: AtomicU64::new(0),
        tick: WaitQueue::new(),
    }
}; STATIONS];

/// Number of items carried, on all CPUs, up to each CPU's last audit.
static LEDGER: TicketLock<u64> = TicketLock::new(0);

/// A tray of items, and the tasks that wait for one.
struct Tray {
    items: Mutex<Items>,
    /// Number of items, which can be read without the mutex.
    count: AtomicU32,
    filled: WaitQueue,
}

struct Items {
    len: usize,
    numbers: [u64; TRAY_SIZE],
}

impl Tray {
    const fn new() -> Self {
        Self {
            items: Mutex::new(Items { len: 0, numbers: [0; TRAY_SIZE] }),
            count: AtomicU32::new(0),
            filled: WaitQueue::new(),
        }
    }

    fn put(&self, item: u64) {
        let mut items = self.items.lock();
        let len = items.len;
        items.numbers[len] = item;
        items.len += 1;
        self.count.store(items.len as u32, Relaxed);
        drop(items);
        self.filled.wake_up();
    }

    #[inline(never)]
    fn take(&self) -> u64 {
        loop {
            self.filled.wait_event(|| self.count.load(Relaxed) > 0);
            let mut items = self.items.lock();
            if items.len > 0 {
                items.len -= 1;
                self.count.store(items.len as u32, Relaxed);
                return items.numbers[items.len];
            }
        }
    }
}

fn stations() -> usize {
    machine::possible_cpus().min(STATIONS)
}

fn step(cpu: usize) -> Next {
    if cpu < stations() {
        let station = &OFFICE[cpu];
        if !station.opened.swap(true, Relaxed) {
            kthread::spawn("sorter", cpu, sort, cpu);
            kthread::spawn("carrier", cpu, carry, cpu);
        }
        let ticks = machine::ticks();
        if station.ticks.swap(ticks, Relaxed) != ticks {
            station.tick.wake_up_all();
        }
    }
    Next::Wait
}

/// Gives an item to a station, and counts it as queued work.
fn hand_to(cpu: usize, item: u64) {
    work_queued.on(cpu).fetch_add(1, Relaxed);
    OFFICE[cpu].inbox.put(item);
}

#[inline(never)]
fn sort(cpu: usize) {
    for item in 0..ITEMS_PER_STATION {
        hand_to(cpu, (cpu * ITEMS_PER_STATION + item) as u64);
    }
    loop {
        let item = OFFICE[cpu].inbox.take();
        let sorted = (0..20).fold(item, |item, _| core::hint::black_box(item.rotate_left(1)));
        OFFICE[cpu].outbox.put(sorted);
        // Yields, because there may be a next item already and other tasks are ready.
        sched::yield_now::<X86>();
    }
}

#[inline(never)]
fn carry(cpu: usize) {
    const CARRIED_BETWEEN_AUDITS: u64 = 64;
    let station = &OFFICE[cpu];
    let next = (cpu + 1) % stations();
    for carried in 1.. {
        let item = station.outbox.take();
        let now = station.ticks.load(Relaxed);
        station.tick.wait_event(|| station.ticks.load(Relaxed) != now);
        work_done.this().fetch_add(1, Relaxed);
        hand_to(next, item);
        if carried % CARRIED_BETWEEN_AUDITS == 0 {
            *LEDGER.lock() += CARRIED_BETWEEN_AUDITS;
            audit(cpu);
            machine::smp_call_function(audit, cpu);
            machine::smp_call_function_single(next, audit, cpu);
        }
    }
}

/// Checks that a CPU has not finished more work than was queued. Runs on each CPU, in an interrupt handler
/// on all but `asker`.
fn audit(asker: usize) {
    let done = work_done.this().load(Relaxed);
    let queued = work_queued.this().load(Relaxed);
    assert!(done <= queued, "{done} of {queued} items are done, says cpu{asker}'s audit");
}
