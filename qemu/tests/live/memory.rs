//! Tests of guest memory: compared with QEMU's own `pmemsave`, and without allocating untouched pages.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory as _, ReadError};
use nmiscope_qemu::{Address, GuestMemory, Qemu, Qmp};

use crate::common::guardian;
use crate::vm::{Vm, patient, pmemsave, wait_until};

const CHUNK: usize = 64 << 10;

/// Pseudo-random numbers, the same in every run (Marsaglia's xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Returns addresses within the ranges, including both ends of each.
fn addresses(memory: &GuestMemory, length: usize) -> Vec<u64> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut addresses = Vec::new();
    for range in memory.ranges() {
        let Some(last) = range.length.checked_sub(length as u64) else { continue };
        addresses.extend([range.start.0, range.start.0 + last]);
        addresses.extend((0..8).map(|_| range.start.0 + numbers.below(last + 1)));
    }
    addresses
}

/// Compares memory from the process and memory through the monitor with `pmemsave`.
fn assert_equals_pmemsave(vm: &Vm) {
    let mut qemu = vm.open();
    let sources = [qemu.memory(), qemu.monitor_memory()].map(|memory| memory.expect("memory"));
    let mut stopped = qemu.stop(guardian()).expect("a stopped VM");
    let mut with_content = 0;
    for address in addresses(&sources[0], CHUNK) {
        let expected = pmemsave(&mut stopped.qemu().qmp(), address, CHUNK, &vm.path("memory"));
        with_content += usize::from(expected.iter().any(|&byte| byte != 0));
        for memory in &sources {
            let bytes = read(memory, address, CHUNK);
            assert!(bytes == expected, "64 KiB at {address:#x} differ: {memory:?}");
        }
    }
    assert!(with_content > 3, "{with_content} chunks are not zero");
}

fn read(memory: &GuestMemory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; length];
    memory.read(PhysicalAddress(address), &mut bytes).expect("memory");
    bytes
}

fn events(qmp: &mut Qmp) -> Vec<String> {
    qmp.take_events().into_iter().map(|event| event.name).collect()
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn monitor_reads_a_running_guest_without_stopping_it() {
    let vm = Vm::guest("idle", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut qemu = vm.open();
    let memory = qemu.monitor_memory().expect("memory");
    let firmware = memory.ranges().last().expect("a range").start.0;
    let read_while_running = read(&memory, firmware + 0xff8, 5000);
    assert_eq!(events(&mut qemu.qmp()), [""; 0]);
    let expected = pmemsave(&mut qemu.qmp(), firmware + 0xff8, 5000, &vm.path("memory"));
    assert!(read_while_running == expected);
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn monitor_uses_no_dump_beside_libvirt() {
    let monitor = ["-chardev", "null,id=charmonitor"];
    let machine = ["-M", "pc", "-m", "64M", "-cpu", "max"];
    let vm = Vm::guest("idle", &[&machine[..], &monitor].concat());
    let mut qemu = vm.open();
    let memory = qemu.monitor_memory().expect("memory");
    let mut stopped = qemu.stop(guardian()).expect("a stopped VM");
    let bytes = read(&memory, 2 << 20, CHUNK);
    let expected = pmemsave(&mut stopped.qemu().qmp(), 2 << 20, CHUNK, &vm.path("memory"));
    assert!(bytes == expected);
    let events = events(&mut stopped.qemu().qmp());
    assert!(!events.iter().any(|name| name == "DUMP_COMPLETED"), "{events:?}");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn monitor_memory_is_kept_until_it_is_refreshed() {
    let vm = Vm::guest("spin-irqs-on", &["-M", "pc", "-m", "64M", "-cpu", "max"]);
    let mut qemu = vm.open();
    let process = qemu.memory().expect("memory");
    let memory = qemu.monitor_memory().expect("memory");
    // The guest counts its timer ticks in some page.
    let all = || read(&process, 1 << 20, 32 << 20);
    let before = all();
    let mut page = None;
    wait_until("memory changes", || {
        page = all().chunks(4096).zip(before.chunks(4096)).position(|(now, then)| now != then);
        page.is_some()
    });
    let address = (1 << 20) + page.expect("a page that changed") as u64 * 4096;
    let kept = read(&memory, address, 4096);
    wait_until("the page changes again", || read(&process, address, 4096) != kept);
    assert!(read(&memory, address, 4096) == kept);
    memory.refresh();
    assert!(read(&memory, address, 4096) != kept);
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn memory_of_every_layout_equals_pmemsave() {
    let accelerator = ["-accel", "tcg", "-cpu", "max", "-smp", "2"];
    let layouts: [&[&str]; 5] = [
        &["-M", "pc", "-m", "64M"],
        &["-M", "q35", "-m", "6G"],
        &["-M", "q35,memory-backend=m", "-m", "3G", "-object", "memory-backend-memfd,id=m,size=3G"],
        &[
            "-M",
            "pc,memory-backend=m",
            "-m",
            "4G",
            "-object",
            "memory-backend-ram,id=m,size=4G,share=on",
        ],
        &[
            "-M",
            "q35",
            "-m",
            "6G",
            "-object",
            "memory-backend-ram,id=a,size=1G",
            "-object",
            "memory-backend-memfd,id=b,size=5G,share=off",
            "-numa",
            "node,memdev=a",
            "-numa",
            "node,memdev=b",
        ],
    ];
    for layout in layouts {
        assert_equals_pmemsave(&Vm::guest("abba-deadlock", &[&accelerator, layout].concat()));
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn memory_of_a_file_equals_pmemsave() {
    let directory = tempfile::tempdir().expect("a directory");
    for share in ["on", "off"] {
        let path = directory.path().join(share).display().to_string();
        let object = format!("memory-backend-file,id=m,size=256M,mem-path={path},share={share}");
        let arguments =
            ["-M", "q35,memory-backend=m", "-m", "256M", "-cpu", "max", "-object", &object];
        assert_equals_pmemsave(&Vm::guest("idle", &arguments));
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn private_backing_file_is_read_where_the_guest_has_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("memory");
    let pattern: Vec<u8> = (0..64 << 20).map(|index: u32| (index / 4096) as u8).collect();
    fs::write(&path, &pattern).expect("a file");
    let object = format!("memory-backend-file,id=m,size=64M,mem-path={},share=off", path.display());
    let arguments = ["-M", "q35,memory-backend=m", "-m", "64M", "-object", &object, "-S"];
    let vm = Vm::start(&arguments);
    let memory = vm.open().memory().expect("memory");
    let mut bytes = vec![0; 1 << 20];
    memory.read(PhysicalAddress(32 << 20), &mut bytes).expect("memory");
    assert!(bytes == pattern[32 << 20..33 << 20]);
}

/// Size of QEMU's memfds in KiB: RSS does not count allocated pages that are not mapped.
fn memfd_kib(vm: &Vm) -> u64 {
    let mut kib = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", vm.pid())).expect("a directory").flatten() {
        let is_memfd = fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:memory-backend"));
        if is_memfd {
            kib += fs::metadata(entry.path()).expect("a file").blocks() / 2;
        }
    }
    kib
}

/// Reads 1 MiB of each 64 MiB, and the first byte of every page in the last 64 MiB.
fn read_widely(memory: &GuestMemory) {
    let mut bytes = vec![0; 1 << 20];
    let range = memory.ranges().last().expect("a range");
    for offset in (0..range.length).step_by(64 << 20) {
        memory.read(PhysicalAddress(range.start.0 + offset), &mut bytes).expect("memory");
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
    let end = range.start.0 + range.length;
    for address in (end - (64 << 20)..end).step_by(4096) {
        memory.read(PhysicalAddress(address), &mut bytes[..1]).expect("memory");
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn reading_untouched_memory_allocates_none() {
    let backends = [
        "memory-backend-memfd,id=m,size=8G,share=on",
        "memory-backend-memfd,id=m,size=8G,share=off",
        "memory-backend-ram,id=m,size=8G,share=on",
        "memory-backend-ram,id=m,size=8G,share=off",
    ];
    for backend in backends {
        let arguments = ["-M", "q35,memory-backend=m", "-m", "8G", "-object", backend, "-S"];
        let vm = Vm::start(&arguments);
        let memory = vm.open().memory().expect("memory");
        let before = (vm.kib("VmRSS:"), memfd_kib(&vm));
        read_widely(&memory);
        let after = (vm.kib("VmRSS:"), memfd_kib(&vm));
        assert!(after.0 <= before.0 + 8192, "{backend}: RSS was {before:?}, is {after:?} KiB");
        assert!(after.1 <= before.1 + 8192, "{backend}: was {before:?}, is {after:?} KiB");
    }
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn hole_in_guest_memory_is_unbacked() {
    let vm = Vm::start(&["-M", "q35", "-m", "64M", "-S"]);
    let memory = vm.open().memory().expect("memory");
    let mut bytes = [0; 16];
    for address in [64 << 20, (64 << 20) - 8, 0xb000_0000, u64::MAX - 4] {
        let result = memory.read(PhysicalAddress(address), &mut bytes);
        assert!(matches!(result, Err(ReadError::Unbacked { .. })), "{address:#x}: {result:?}");
    }
    memory.read(PhysicalAddress((64 << 20) - 16), &mut bytes).expect("the last bytes");
}

#[test]
#[ignore = "needs qemu-system-x86_64"]
fn memory_of_an_ended_qemu_is_an_error() {
    let vm = Vm::start(&["-M", "q35", "-m", "64M", "-cpu", "max"]);
    let qemu_memory = vm.open().memory().expect("memory");
    let firmware = qemu_memory.ranges().last().expect("a range").start;
    drop(vm);
    let result = qemu_memory.read(firmware, &mut [0; 16]);
    assert!(matches!(result, Err(ReadError::Target { .. })), "{result:?}");
}

const READER: &str = "NMISCOPE_TEST_READER";
/// Address of the firmware in the machine `pc`: the last 256 KiB below 4 GiB.
const FIRMWARE: u64 = (4 << 30) - (256 << 10);
/// User ID that owns no files.
const NOBODY: u32 = 65534;

/// The process of another user: it reads the VM whose QMP socket is in the environment.
#[test]
fn reader_process() {
    let Some(path) = std::env::var_os(READER) else { return };
    let mut qemu = Qemu::open(&Address::Path(path.into()), patient()).expect("a monitor");
    let memory = qemu.memory().expect("memory");
    let source = match &memory {
        GuestMemory::Process(_) => "process",
        GuestMemory::Monitor(_) => "monitor",
    };
    let firmware = memory.ranges().last().expect("a range").start.0;
    println!("\n{source} {:?}", read(&memory, firmware, 64));
}

#[test]
#[ignore = "needs qemu-system-x86_64 and root"]
fn another_user_reads_memory_through_the_monitor() {
    let vm = Vm::start(&["-M", "pc", "-m", "64M", "-S"]);
    let everybody = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("permissions");
    };
    let (program, socket) = (vm.path("reader"), vm.path("qmp"));
    fs::copy(std::env::current_exe().expect("a test program"), &program).expect("a copy");
    for path in [&vm.path(""), &program, &socket] {
        everybody(path);
    }
    let read_as = |user| {
        let mut reader = Command::new(&program);
        reader.args(["--exact", "memory::reader_process", "--nocapture"]).env(READER, &socket);
        let output = reader.current_dir("/").uid(user).gid(user).output().expect("a reader");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let expected = pmemsave(&mut vm.second(), FIRMWARE, 64, &vm.path("memory"));
    for (user, source) in [(NOBODY, "monitor"), (0, "process")] {
        let said = read_as(user);
        let line = format!("{source} {expected:?}");
        assert!(said.lines().any(|said| said == line), "{said}");
    }
}
