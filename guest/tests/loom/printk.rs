//! The NMI backtrace protocol.
//!
//! A CPU in its NMI handler, a client in the guest and the hypervisor are a thread each. The code
//! is the kernel's own; only the buffers are smaller, and the console is off. loom itself reports
//! two threads that touch the buffers, the log or `since_ns` without an order between them.

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

/// CPUs 0 and 1 have NMI handlers.
const CPUS: usize = 2;

/// What a CPU's handler prints; a reader must find all of it or none.
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

/// The guest, and what the models watch it with.
struct World {
    printk: Printk<Machine>,
    /// Written by whoever holds the reservation: loom reports a second one.
    witness: UnsafeCell<u32>,
    /// Set when a CPU's handler is over and the hypervisor has stopped it.
    stopped: [AtomicU32; CPUS],
}

// SAFETY: `witness` is what the reservation is to protect; if it does not, loom says so.
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

    /// An NMI on `cpu`: its handler prints the two lines of its trace as two messages.
    fn nmi(&self, cpu: usize) {
        become_cpu(cpu);
        self.printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
        for line in TRACES[cpu].split_inclusive('\n') {
            self.printk.vprintk(LogLevel::Info, format_args!("{line}"));
        }
        self.printk.printk_nmi_backtrace_this_cpu_end().unwrap();
        // The exit to the hypervisor, which does not let the CPU go on.
        self.stopped[cpu].store(1, Ordering::Release);
    }

    /// A client in the guest, on `cpu`, that waits for nobody: every handler may be late.
    fn client(&self, cpu: usize, release: Ordering) -> bool {
        become_cpu(cpu);
        if self.printk.printk_nmi_backtrace_prepare().is_err() {
            return false;
        }
        self.touch_witness();
        self.printk.printk_nmi_backtrace_complete_with(release);
        true
    }

    /// The hypervisor: reads the buffers of the CPUs that it has stopped after their handlers.
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
            // SAFETY: the CPU has set `stopped` as the last thing it does, and the reservation is
            // the host's.
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

    /// Prints what is left once everyone is done, and checks that the reservation is free and that
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

/// What has come out of one CPU's buffer, wherever it was read.
#[derive(Debug)]
struct Seen {
    text: String,
    lost: u64,
}

impl Seen {
    /// Of any CPU.
    const NOTHING: [Self; CPUS] = [const { Self { text: String::new(), lost: 0 } }; CPUS];

    fn add(&mut self, text: &[u8], lost: u64) {
        self.text.push_str(std::str::from_utf8(text).unwrap());
        self.lost += lost;
    }

    /// Adds a line of the log: of the trace, of the count, or of neither.
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

/// Everyone at once: two CPUs in their handlers, the host, and a client in the guest that frees
/// its reservation with a store of the given ordering.
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
fn two_cpus_in_nmi_a_guest_client_and_the_host_lose_and_tear_nothing() {
    explore(3, || everyone(Ordering::Release));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_same_fails_if_the_final_release_is_relaxed() {
    explore(3, || everyone(Ordering::Relaxed));
}

#[test]
fn two_guest_clients_and_the_host_are_never_in_at_once() {
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
    // Few threads, so every interleaving that there is: no bound on preemptions.
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
