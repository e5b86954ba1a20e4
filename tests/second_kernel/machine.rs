//! Machine of the second kernel, and the kernel's memory.

use std::collections::BTreeMap;
use std::time::Duration;

use nmiscope::elf_core::Extents;
use nmiscope::targets::{States, Target};
use nmiscope_machine::{
    MpState, NmiState, PhysicalAddress, PhysicalMemory, ReadError, Registers, VcpuState,
};

// The machine: one 1 GiB page maps the kernel's half, another the modules'.

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SECONDOS");
/// Address that the kernel is linked at; [`BIAS`] is the distance from there to its load address.
pub(super) const LINKED: u64 = 0xffff_ffff_8000_0000;
pub(super) const BIAS: u64 = 0x1e0_0000;
pub(super) const BASE: u64 = LINKED + BIAS;
/// Guest-physical address of the first byte at `LINKED`; [`MODULES_PAGE`] is that of the first byte at
/// `MODULES`.
pub(super) const KERNEL_PAGE: u64 = 0x4000_0000;
pub(super) const MODULES: u64 = 0xffff_ffff_c000_0000;
pub(super) const MODULES_PAGE: u64 = 0x8000_0000;
pub(super) const CR3: u64 = 0x1000;

#[derive(Default)]
pub(super) struct Machine {
    pages: BTreeMap<u64, Vec<u8>>,
    pub(super) states: Vec<VcpuState>,
}

impl Machine {
    fn write(&mut self, physical: u64, bytes: &[u8]) {
        for (at, byte) in (physical..).zip(bytes) {
            let page = self.pages.entry(at >> 12).or_insert_with(|| vec![0; 4096]);
            page[at as usize & 0xfff] = *byte;
        }
    }

    /// Writes words at a virtual address of the kernel's half or the modules'.
    pub(super) fn put(&mut self, address: u64, words: &[u64]) {
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

/// Target without any of the optional powers.
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

// Addresses of the kernel's description of itself.

pub(super) const DESCRIPTOR: u64 = BASE;
pub(super) const SYMBOLS: u64 = BASE + 0x1000;
pub(super) const ROWS: u64 = BASE + 0x2000;
pub(super) const LAYOUT: u64 = BASE + 0x3000;
pub(super) const CPUS: u64 = BASE + 0x4000;
pub(super) const TASKS: u64 = BASE + 0x5000;
pub(super) const LOCKS: u64 = BASE + 0x6000;
pub(super) const LOG: u64 = BASE + 0x7000;
pub(super) const STACKS: u64 = BASE + 0x8000;
pub(super) const TEXT: u64 = LINKED + 0x10_0000;
pub(super) const DRIVER: u64 = MODULES + 0x2000;

/// Functions: name, address as linked, size, and bytes of the frame below the return address. The
/// driver's function is linked at 0.
pub(super) const FUNCTIONS: [(&str, u64, u64, u64); 6] = [
    ("idle_loop", TEXT, 0x100, 0),
    ("worker_loop", TEXT + 0x100, 0x100, 8),
    ("mutex_sleep", TEXT + 0x200, 0x100, 16),
    ("read_table", TEXT + 0x300, 0x100, 8),
    ("write_table", TEXT + 0x400, 0x100, 8),
    ("driver_poll", 0, 0x80, 24),
];

pub(super) fn name_word(name: &str) -> [u64; 2] {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    [0, 8].map(|at| u64::from_le_bytes(*bytes[at..].first_chunk().expect("8 bytes")))
}

pub(super) fn name_of(words: [u64; 2]) -> String {
    let bytes = words.map(u64::to_le_bytes);
    String::from_utf8_lossy(bytes.as_flattened()).trim_end_matches('\0').into()
}

/// Makes a machine with two CPUs, two tasks that wait for each other, and a worker in the driver.
pub(super) fn machine() -> Machine {
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
    // Holders, as task number plus one, and the times at which the locks were taken.
    machine.put(inodes, &[1, 1000]);
    machine.put(blocks, &[2, 2000]);

    // The log: the number of records, and for each its time in nanoseconds and 16 bytes of text.
    let [low, high] = name_word("writer sleeps");
    machine.put(LOG, &[1, 2_000_000, low, high]);

    // A sleeping task's stack: its return address, its frame in mutex_sleep, then its callers'.
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
        nmi: Some(NmiState {
            pending: false,
            injected: false,
            masked: false,
            interrupt_shadow: false,
        }),
        mp_state,
        smm: false,
        timer_armed: None,
    };
    machine.states = vec![
        state(0, MpState::Halted, running(0x20), STACKS + 0x700),
        state(1, MpState::Running, DRIVER + 0x40, STACKS + 0x500),
    ];
    machine
}
