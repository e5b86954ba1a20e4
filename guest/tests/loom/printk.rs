//! The NMI backtrace protocol.
//!
//! A CPU in its NMI handler, a client in the guest and the hypervisor are a thread each. The code
//! is the kernel's own; only the buffers are smaller, and the console is off. loom itself reports
//! two threads that access the buffers, the log or `since_ns` without an order between them.

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};
use nmiscope_guest::printk::{LogLevel, NmiPrintSeq, Platform, Printk, PrintkFuncCell};

use super::{Machine, become_cpu, explore};

/// Number of CPUs with NMI handlers: CPUs 0 and 1.
const CPUS: usize = 2;

/// Text that each CPU's handler prints; a reader must find all of it or none.
const TRACES: [&str; CPUS] = ["a1\na2\n", "b1\nb2\n"];

impl Platform for Machine {
    fn possible_cpus(&self) -> usize {
        CPUS
    }

    fn nmi_print_seq(&self, cpu: usize) -> &NmiPrintSeq {
        &self.per_cpu[cpu].0
    }

    fn printk_func(&self, cpu: usize) -> &PrintkFuncCell {
        &self.per_cpu[cpu].1
    }

    fn console_write(&self, _bytes: &[u8]) {
        unreachable!("the console is off");
    }
}

/// The guest, and the state that the models observe it with.
struct World {
    printk: Printk<Machine>,
    /// Cell that the holder of the reservation writes: loom reports a second writer.
    witness: UnsafeCell<u32>,
    /// 1, for each CPU, once its handler is over and the hypervisor has stopped it.
    stopped: [AtomicU32; CPUS],
}

// SAFETY: the reservation is to protect `witness`; if it does not, loom reports it.
unsafe impl Sync for World {}

impl World {
    fn new() -> Arc<Self> {
        let printk = Printk::new(Machine::default());
        printk.set_console_loglevel(0);
        Arc::new(Self {
            printk,
            witness: UnsafeCell::new(0),
            stopped: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

    /// Runs an NMI on `cpu`, whose handler prints the two lines of its trace as two messages.
    fn nmi(&self, cpu: usize) {
        become_cpu(cpu);
        self.printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
        for line in TRACES[cpu].split_inclusive('\n') {
            self.printk.vprintk(LogLevel::Info, format_args!("{line}"));
        }
        self.printk.printk_nmi_backtrace_this_cpu_end().unwrap();
        // The exit to the hypervisor, which does not resume the CPU.
        self.stopped[cpu].store(1, Ordering::Release);
    }

    /// Runs a client in the guest, on `cpu`, that waits for no handler: every handler may be late.
    fn client(&self, cpu: usize, release: Ordering) -> bool {
        become_cpu(cpu);
        if self.printk.printk_nmi_backtrace_prepare().is_err() {
            return false;
        }
        self.touch_witness();
        self.printk.printk_nmi_backtrace_complete_with(release);
        true
    }

    /// Runs the hypervisor, which reads the buffers of the CPUs that it has stopped after their handlers.
    fn host(&self) -> Option<[Seen; CPUS]> {
        if self.printk.nmi_print_flag().host_try_take(0).is_err() {
            return None;
        }
        self.touch_witness();
        let mut seen = Seen::NOTHING;
        for (cpu, seen) in seen.iter_mut().enumerate() {
            if self.stopped[cpu].load(Ordering::Acquire) == 0 {
                continue;
            }
            let keep = |text: &[u8], lost| seen.add(text, lost);
            // SAFETY: the CPU has set `stopped` as its last step, and the host has the reservation.
            let wiped =
                unsafe { self.printk.platform().nmi_print_seq(cpu).host_read_and_wipe(keep) };
            assert!(wiped, "a CPU that has left its handler has left its buffer");
        }
        self.printk.nmi_print_flag().host_free();
        Some(seen)
    }

    fn touch_witness(&self) {
        // SAFETY: the caller holds the reservation; whether that is enough is what loom checks.
        self.witness.with_mut(|witness| unsafe { *witness += 1 });
    }

    /// Prints the remaining text after all threads are done. Checks that the reservation is free, and that
    /// each CPU's trace was seen once and whole, by the host or in the log, or counted as lost.
    fn check(&self, mut seen: [Seen; CPUS]) {
        assert!(self.client(0, Ordering::Release), "the reservation is free in the end");
        for record in self.printk.log().lock().records() {
            seen[record.header.cpu as usize].add_logged(record.text());
        }
        for (seen, trace) in seen.iter().zip(TRACES) {
            let whole = (seen.text == trace && seen.lost == 0)
                || (seen.text.is_empty() && seen.lost == trace.lines().count() as u64);
            assert!(whole, "{seen:?} of {trace:?}");
        }
    }
}

/// Text and count of lost messages read from a CPU's buffer, by the host or from the log.
#[derive(Debug)]
struct Seen {
    text: String,
    lost: u64,
}

impl Seen {
    /// State before any CPU's buffer is read.
    const NOTHING: [Self; CPUS] = [const { Self { text: String::new(), lost: 0 } }; CPUS];

    fn add(&mut self, text: &[u8], lost: u64) {
        self.text.push_str(std::str::from_utf8(text).unwrap());
        self.lost += lost;
    }

    /// Adds a line of the log: a line of the trace, a count of lost messages, or neither.
    fn add_logged(&mut self, line: &[u8]) {
        let line = std::str::from_utf8(line).unwrap();
        let lost = line.strip_prefix("... ").and_then(|rest| rest.strip_suffix(" messages lost"));
        match lost {
            Some(lost) => self.lost += lost.parse::<u64>().unwrap(),
            None if line.contains("NMI handler") => {}
            None => self.add(format!("{line}\n").as_bytes(), 0),
        }
    }
}

/// Runs all at once: two CPUs in their handlers, the host, and a client in the guest that frees its
/// reservation with a store of the given ordering.
fn everyone(release: Ordering) {
    let world = World::new();
    let [cpu0, cpu1] = [0, 1].map(|cpu| {
        let world = world.clone();
        thread::spawn(move || world.nmi(cpu))
    });
    let host = {
        let world = world.clone();
        thread::spawn(move || world.host())
    };
    world.client(0, release);
    cpu0.join().unwrap();
    cpu1.join().unwrap();
    let seen = host.join().unwrap();
    world.check(seen.unwrap_or(Seen::NOTHING));
}

#[test]
fn two_handlers_a_guest_client_and_the_host_lose_nothing() {
    explore(3, || everyone(Ordering::Release));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_final_store_is_a_data_race() {
    explore(3, || everyone(Ordering::Relaxed));
}

#[test]
fn two_guest_clients_and_the_host_exclude_each_other() {
    explore(3, || {
        let world = World::new();
        let clients = [0, 1].map(|cpu| {
            let world = world.clone();
            thread::spawn(move || world.client(cpu, Ordering::Release))
        });
        let seen = world.host();
        let got_in = clients.map(|client| client.join().unwrap());
        assert!(seen.is_some() || got_in.contains(&true), "someone gets in");
        assert!(seen.iter().flatten().all(|seen| seen.text.is_empty()));
        assert_eq!(world.printk.nmi_print_flag().owner(), 0);
    });
}

#[test]
fn a_late_handler_and_complete_lose_and_tear_nothing() {
    // Few threads, so all interleavings, without a bound on preemptions.
    loom::model(|| {
        let world = World::new();
        let late = {
            let world = world.clone();
            thread::spawn(move || world.nmi(1))
        };
        world.nmi(0);
        world.client(0, Ordering::Release);
        late.join().unwrap();
        world.check(Seen::NOTHING);
    });
}

#[test]
fn two_cpus_that_print_at_once_both_reach_the_log() {
    loom::model(|| {
        let world = World::new();
        let print = |world: &World, cpu, line: &str| {
            become_cpu(cpu);
            world.printk.vprintk(LogLevel::Info, format_args!("{line}\n"));
        };
        let other = {
            let world = world.clone();
            thread::spawn(move || print(&world, 1, "b"))
        };
        print(&world, 0, "a");
        other.join().unwrap();
        let log = world.printk.log().lock();
        let mut lines: Vec<_> = log.records().map(|record| record.text().to_vec()).collect();
        lines.sort();
        assert_eq!(lines, [b"a", b"b"]);
    });
}
