//! Small guests and the VMs to run them in.

pub mod asm;
pub mod image;

use std::io::Write;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nmiscope_machine::{Outcome, VcpuState};
use nmiscope_vmm::{Config, Ports, Vm, VmEvent};
use vm_memory::{Bytes, GuestAddress};

use asm::Asm;
use image::{LoadSegment, PvhImage};

pub const EXIT: u16 = 0xf4;
pub const POST: u16 = 0x80;
pub const NMI_DONE: u16 = 0xf8;
pub const COM1: u16 = 0x3f8;

/// Address that the guests are linked at. Their data is on other pages than their code.
pub const CODE: u32 = 0x10_0000;
const HANDLER: u32 = 0x10_1000;
const TABLES: u32 = 0x10_2000;
const PAGE_TABLES: u32 = 0x10_3000;
pub const COUNTER: u32 = 0x11_0000;
pub const NMIS: u32 = 0x11_0004;
const STACK: u32 = 0x12_0000;
const END: u32 = 0x13_0000;

/// Deadline that nothing working misses, even on a busy host.
pub const LONG: Duration = Duration::from_secs(120);

/// Ends the whole test process if a test hangs, saying which.
struct Watchdog {
    _finished: Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (finished, watch) = mpsc::channel::<()>();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if watch.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Not eprintln, whose text the test harness keeps for a report that never comes.
                let _ = writeln!(std::io::stderr(), "{test} hangs; giving up on the whole run");
                std::process::abort();
            }
        });
        Self { _finished: finished }
    }
}

/// A writer that tests can read.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A started VM, with its events and its serial output.
pub struct TestVm {
    pub vm: Vm,
    pub events: Receiver<VmEvent>,
    console: Console,
    _watchdog: Watchdog,
}

impl TestVm {
    /// Boots one segment of code at [`CODE`].
    pub fn run(asm: Asm) -> Self {
        Self::boot(1, &PvhImage::from_code(&asm.code()))
    }

    pub fn boot(cpus: u32, image: &PvhImage) -> Self {
        Self::boot_with_initrd(cpus, image, None)
    }

    pub fn boot_with_initrd(cpus: u32, image: &PvhImage, initrd: Option<&[u8]>) -> Self {
        let console = Console::default();
        let machine = Self::boot_with(cpus, image, initrd, false, Box::new(console.clone()));
        Self { console, ..machine }
    }

    pub fn boot_with(
        cpus: u32,
        image: &PvhImage,
        initrd: Option<&[u8]>,
        pit: bool,
        serial_output: Box<dyn Write + Send>,
    ) -> Self {
        let watchdog = Watchdog::start();
        let (sender, events) = mpsc::channel();
        let mut vm = Vm::new(Config {
            cpus,
            memory: 4 << 20,
            image: &image.bytes(),
            initrd,
            cmdline: String::new(),
            serial_output,
            ports: Ports { debug_exit: EXIT, post: POST, nmi_done: NMI_DONE },
            pit,
            events: Box::new(move |event| {
                // A test that has seen enough has dropped its end.
                let _ = sender.send(event);
            }),
        })
        .expect("these tests need a /dev/kvm that works");
        vm.start();
        Self { vm, events, console: Console::default(), _watchdog: watchdog }
    }

    pub fn event(&self) -> VmEvent {
        self.events.recv_timeout(LONG).expect("the guest should have caused an event by now")
    }

    pub fn outcome(&self) -> Outcome {
        match self.event() {
            VmEvent::Ended(outcome) => outcome,
            other => panic!("the guest should have ended, not sent {other:?}"),
        }
    }

    pub fn wait_for_post(&self, code: u8) {
        match self.event() {
            VmEvent::Post { code: sent, .. } => assert_eq!(sent, code),
            other => panic!("the guest should have written {code:#x} to POST, not sent {other:?}"),
        }
    }

    pub fn output(&self) -> String {
        String::from_utf8(self.console.0.lock().unwrap().clone()).unwrap()
    }

    pub fn word(&self, address: u32) -> u32 {
        self.vm.memory().read_obj(GuestAddress(address.into())).unwrap()
    }

    /// Waits until a word of guest memory has grown beyond `value`.
    pub fn wait_beyond(&self, address: u32, value: u32) {
        let until = Instant::now() + LONG;
        while self.word(address) <= value {
            assert!(Instant::now() < until, "the word at {address:#x} stays at {value}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn pause(&mut self) -> Vec<VcpuState> {
        let states = self.vm.pause(LONG).into_iter();
        states.map(|state| state.expect("the guest should have stopped")).collect()
    }

    pub fn rip(&self) -> u64 {
        self.vm.state(0).unwrap().registers.rip
    }
}

/// Boots a guest whose one CPU counts, and waits until it has begun to.
pub fn spinning() -> TestVm {
    let machine = TestVm::run(Asm::at(CODE).spin(COUNTER));
    machine.wait_beyond(COUNTER, 0);
    machine
}

/// Boots a guest whose boot CPU starts all others, each of which adds one to a count and spins.
pub fn all_spinning(cpus: u32) -> TestVm {
    const TRAMPOLINE: u32 = 0x8000;
    const STARTED: u32 = 0x9000;
    const ICR: u32 = 0xfee0_0300;
    const INIT_ALL_OTHERS: u32 = 0xc_4500;
    const SIPI_ALL_OTHERS: u32 = 0xc_4600 | TRAMPOLINE >> 12;
    let boot = Asm::at(CODE)
        .store(ICR, INIT_ALL_OTHERS)
        .store(ICR, SIPI_ALL_OTHERS)
        .wait_for(STARTED, (cpus - 1) as u8)
        .out8(POST, 1)
        .spin(COUNTER)
        .code();
    // Real mode: lock inc word [STARTED]; jmp $
    let others = [0xf0, 0xff, 0x06, STARTED as u8, (STARTED >> 8) as u8, 0xeb, 0xfe].to_vec();
    let segment =
        |at: u32, data: Vec<u8>| LoadSegment { at: at.into(), len: data.len() as u64, data };
    let segments = vec![segment(CODE, boot), segment(TRAMPOLINE, others)];
    let machine = TestVm::boot(cpus, &PvhImage { segments, entry: Some(CODE) });
    machine.wait_for_post(1);
    machine
}

/// Makes an image that runs `body` in 64-bit mode, with a stack and with `handler` behind vector 2.
///
/// The mode is 64-bit because IRET unmasks NMIs, and a KVM that emulates everything supports only the
/// 64-bit IRETQ.
pub fn with_nmi_handler(
    body: impl FnOnce(Asm) -> Asm,
    handler: impl FnOnce(Asm) -> Asm,
) -> PvhImage {
    const GDTR: u32 = TABLES + 0x100;
    const IDTR: u32 = TABLES + 0x110;
    const IDT: u32 = TABLES + 0x200;
    const EFER: u32 = 0xc000_0080;
    const PAE: u32 = 1 << 5;
    const LONG_MODE_ENABLE: u32 = 1 << 8;
    const PAGING_AND_PROTECTION: u32 = 1 << 31 | 1 << 4 | 1;
    let prologue = Asm::at(CODE)
        .lgdt(GDTR)
        .lidt(IDTR)
        .stack(STACK)
        .control_register(4, PAE)
        .control_register(3, PAGE_TABLES)
        .wrmsr(EFER, LONG_MODE_ENABLE)
        .control_register(0, PAGING_AND_PROTECTION)
        .reload_cs(8);
    let mut data = body(prologue).code();
    let mut place = |at: u32, bytes: &[u8]| {
        let at = (at - CODE) as usize;
        assert!(data.len() <= at, "the guest's parts overlap");
        data.resize(at, 0);
        data.extend(bytes);
    };
    place(HANDLER, &handler(Asm::at(HANDLER)).code());
    // Null, 64-bit code, and flat data twice: the VMM starts the boot CPU with SS 0x18, which
    // IRETQ loads again.
    let gdt = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9300_0000_ffff];
    place(TABLES, &words(&gdt));
    place(GDTR, &pseudo_descriptor(31, TABLES));
    place(IDTR, &pseudo_descriptor(3 * 16 - 1, IDT));
    // Vector 2: a 64-bit interrupt gate to 8:HANDLER.
    let gate = u64::from(HANDLER & 0xffff) | 8 << 16 | 0x8e << 40 | u64::from(HANDLER >> 16) << 48;
    place(IDT, &words(&[0, 0, 0, 0, gate, 0]));
    // The first 4 MiB, mapped to themselves: PML4, PDPT, PD with two large pages.
    const TABLE: u64 = 3;
    const LARGE_PAGE: u64 = 0x83;
    place(PAGE_TABLES, &words(&[u64::from(PAGE_TABLES) + 0x1000 + TABLE]));
    place(PAGE_TABLES + 0x1000, &words(&[u64::from(PAGE_TABLES) + 0x2000 + TABLE]));
    place(PAGE_TABLES + 0x2000, &words(&[LARGE_PAGE, 0x20_0000 + LARGE_PAGE]));

    let segment = LoadSegment { at: CODE.into(), len: (END - CODE).into(), data };
    PvhImage { segments: vec![segment], entry: Some(CODE) }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn pseudo_descriptor(limit: u16, base: u32) -> Vec<u8> {
    [limit.to_le_bytes().to_vec(), base.to_le_bytes().to_vec()].concat()
}

/// An NMI handler that counts, writes the nmi_done port, and returns.
pub fn counting(asm: Asm) -> Asm {
    asm.inc(NMIS).out8(NMI_DONE, 0).iretq()
}
