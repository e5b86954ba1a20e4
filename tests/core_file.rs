//! Core files: what goes in comes out, other programs read the same, and nothing that can be in a
//! file makes reading it fail in any other way than with an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nmiscope::core_file::{
    self, Contents, Core, CoreError, CpuRegisters, Extent, Extents, Finding, Kind, UserRegisters,
    Written, write,
};
use nmiscope_symbolizer::{
    Image, Mapping, PhysicalAddress, PhysicalMemory, ReadError, VirtualAddress,
};
use object::LittleEndian as LE;
use object::elf::{FileHeader64, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use proptest::prelude::*;

const PAGE: u64 = 4096;

/// Memory as 4 KiB pages, those that are there at all.
#[derive(Debug, Clone, Default)]
struct Pages(BTreeMap<u64, Vec<u8>>);

impl Pages {
    fn set(&mut self, page: u64, bytes: &[u8]) {
        let mut whole = bytes.to_vec();
        whole.resize(PAGE as usize, 0);
        self.0.insert(page, whole);
    }
}

impl PhysicalMemory for Pages {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        for (at, byte) in (address.0..).zip(buffer) {
            let page = self.0.get(&(at / PAGE));
            *byte = page.ok_or(ReadError::Unbacked { address, length })?[(at % PAGE) as usize];
        }
        Ok(())
    }
}

fn extents(ranges: &[(u64, u64)]) -> Extents {
    let extent = |&(start, length)| Extent { start: PhysicalAddress(start), length };
    ranges.iter().map(extent).collect()
}

fn view(virtual_start: u64, physical_start: u64, length: u64) -> Mapping {
    Mapping {
        virtual_start: VirtualAddress(virtual_start),
        physical_start: PhysicalAddress(physical_start),
        length,
    }
}

/// Registers that are all different, so that none can be taken for another.
fn registers(cpu: u32) -> CpuRegisters {
    let n = u64::from(cpu) << 32;
    let registers = UserRegisters {
        r15: n + 15,
        r14: n + 14,
        r13: n + 13,
        r12: n + 12,
        rbp: n + 105,
        rbx: n + 103,
        r11: n + 11,
        r10: n + 10,
        r9: n + 9,
        r8: n + 8,
        rax: n + 100,
        rcx: n + 101,
        rdx: n + 102,
        rsi: n + 106,
        rdi: n + 107,
        orig_rax: u64::MAX,
        rip: n + 116,
        cs: 0x10,
        eflags: 2,
        rsp: n + 104,
        ss: 0x18,
        fs_base: n + 120,
        gs_base: n + 121,
        ds: 0,
        es: 0x20,
        fs: 0x28,
        gs: 0x30,
    };
    CpuRegisters { cpu, registers }
}

/// A core with some of everything: three extents, of which one is mapped twice, one once in part,
/// and one not at all; zero pages at both ends and in the middle.
struct Sample {
    memory: Pages,
    extents: Extents,
    views: Vec<Mapping>,
    cpus: Vec<CpuRegisters>,
}

const STACK: u64 = 0xffff_c900_0000_2000;
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

fn sample() -> Sample {
    let mut memory = Pages::default();
    for page in 0..64 {
        memory.set(page, &[]);
    }
    for page in [1, 2, 4, 8, 33] {
        memory.set(page, &page.to_le_bytes().repeat(512));
    }
    Sample {
        memory,
        extents: extents(&[(0, 6 * PAGE), (8 * PAGE, PAGE + 100), (32 * PAGE, 4 * PAGE)]),
        views: vec![
            view(STACK, 2 * PAGE, 2 * PAGE),
            view(DIRECT_MAP, 0, 16 * PAGE),
            view(0xffff_ffff_8000_0000, 34 * PAGE, PAGE),
        ],
        cpus: vec![registers(0), registers(3)],
    }
}

impl Sample {
    fn contents(&self) -> Contents<'_> {
        Contents {
            cpus: &self.cpus,
            note: b"everything else",
            vmcoreinfo: Some(b"OSRELEASE=6.1\n"),
            build_id: Some(&[0xab; 20]),
            extents: &self.extents,
            views: &self.views,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        written(&self.contents(), &self.memory).1
    }
}

/// Writes, and reads back the file's bytes.
fn written(contents: &Contents<'_>, memory: &Pages) -> (Written, Vec<u8>) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    // What was in it is to be gone.
    file.write_all(&[0xcc; 100_000]).expect("room");
    let written = write(&file, contents, memory).expect("a core");
    file.rewind().expect("a file");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("the core");
    assert_eq!(written.bytes, bytes.len() as u64);
    (written, bytes)
}

fn read(memory: &impl PhysicalMemory, start: u64, length: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0xee; length as usize];
    memory.read(PhysicalAddress(start), &mut bytes).map(|()| bytes)
}

/// What a debugger reads at a virtual address: the first segment that has it.
fn through_segments(file: &[u8], address: u64, length: u64) -> Option<&[u8]> {
    let segments = program_headers(file).into_iter().filter(|header| header.p_type(LE) == PT_LOAD);
    for header in segments {
        if let Some(within) = address.checked_sub(header.p_vaddr(LE))
            && within + length <= header.p_filesz(LE)
        {
            return Some(&file[(header.p_offset(LE) + within) as usize..][..length as usize]);
        }
    }
    None
}

fn program_headers(file: &[u8]) -> Vec<ProgramHeader64<LE>> {
    let header = FileHeader64::<LE>::parse(file).expect("an ELF file");
    header.program_headers(LE, file).expect("program headers").to_vec()
}

#[test]
fn what_is_written_is_read() {
    let sample = sample();
    let bytes = sample.bytes();
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.cpus(), sample.cpus);
    assert_eq!(core.note(), b"everything else");
    assert_eq!(core.vmcoreinfo(), Some(&b"OSRELEASE=6.1\n"[..]));
    assert_eq!(core.build_id(), Some(&[0xab; 20][..]));
    assert_eq!(core.findings(), []);
    assert_eq!(core.extents(), sample.extents);
    for Extent { start, length } in sample.extents.iter() {
        assert_eq!(read(&core, start.0, length), read(&sample.memory, start.0, length));
    }
}

#[test]
fn memory_that_is_not_in_the_core_is_not_zero_but_missing() {
    let sample = sample();
    let bytes = sample.bytes();
    let core = Core::parse(&bytes).expect("a core");
    for (start, length) in [(6 * PAGE, 1), (6 * PAGE - 1, 2), (9 * PAGE + 99, 2), (u64::MAX, 2)] {
        let (address, length) = (PhysicalAddress(start), length as usize);
        assert_eq!(
            core.read(address, &mut vec![0; length]),
            Err(ReadError::Unbacked { address, length })
        );
    }
}

#[test]
fn a_core_needs_nothing_in_it() {
    let contents = Contents {
        cpus: &[],
        note: b"",
        vmcoreinfo: None,
        build_id: None,
        extents: &Extents::new(),
        views: &[view(DIRECT_MAP, 0, PAGE)],
    };
    let (written, bytes) = written(&contents, &Pages::default());
    assert_eq!((written.segments, written.memory_bytes, written.views_left_out), (0, 0, 0));
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!((core.cpus(), core.note()), (&[][..], &b""[..]));
    assert_eq!((core.vmcoreinfo(), core.build_id()), (None, None));
    assert!(core.extents().is_empty());
}

#[test]
fn views_of_the_same_memory_share_its_bytes() {
    let sample = sample();
    let bytes = sample.bytes();
    let stack = through_segments(&bytes, STACK, 16).expect("the stack");
    let direct = through_segments(&bytes, DIRECT_MAP + 2 * PAGE, 16).expect("the direct map");
    assert_eq!(stack, 2_u64.to_le_bytes().repeat(2));
    assert_eq!(stack.as_ptr(), direct.as_ptr());
    assert_eq!(through_segments(&bytes, DIRECT_MAP + 6 * PAGE, 1), None);
}

#[test]
fn what_is_not_mapped_has_a_physical_address_only() {
    let bytes = sample().bytes();
    let without: Vec<_> = program_headers(&bytes)
        .iter()
        .filter(|header| header.p_type(LE) == PT_LOAD && header.p_vaddr(LE) == u64::MAX)
        .map(|header| (header.p_paddr(LE), header.p_memsz(LE)))
        .collect();
    assert_eq!(without, [(32 * PAGE, 2 * PAGE), (35 * PAGE, PAGE)]);
}

#[test]
fn of_views_that_disagree_the_first_counts() {
    let sample = sample();
    let views = [
        view(STACK + PAGE, 4 * PAGE, PAGE),
        view(STACK, PAGE, 3 * PAGE),
        // The last page of the address space, and one that runs over its end.
        view(0u64.wrapping_sub(PAGE), 8 * PAGE, PAGE),
        view(0u64.wrapping_sub(PAGE), 8 * PAGE, 2 * PAGE),
        view(0x1001, 0, PAGE),
    ];
    let (written, bytes) =
        written(&Contents { views: &views, ..sample.contents() }, &sample.memory);
    let at = |page: u64| through_segments(&bytes, STACK + page * PAGE, 1).map(|bytes| bytes[0]);
    assert_eq!([at(0), at(1), at(2)], [Some(1), Some(4), Some(0)]);
    assert_eq!(through_segments(&bytes, 0u64.wrapping_sub(PAGE), 1), Some(&[8][..]));
    assert_eq!(written.views_left_out, 2, "one wraps, one is skewed");
}

#[test]
fn memory_that_cannot_be_read_is_left_out_and_said() {
    let mut sample = sample();
    for page in [2, 3, 33] {
        sample.memory.0.remove(&page);
    }
    let (written, bytes) = written(&sample.contents(), &sample.memory);
    assert_eq!(written.unreadable, extents(&[(2 * PAGE, 2 * PAGE), (33 * PAGE, PAGE)]));
    let core = Core::parse(&bytes).expect("a core");
    let mut expected = sample.extents.clone();
    expected.remove(PhysicalAddress(2 * PAGE), 2 * PAGE);
    expected.remove(PhysicalAddress(33 * PAGE), PAGE);
    assert_eq!(core.extents(), expected);
    assert_eq!(read(&core, PAGE, 8), Ok(1_u64.to_le_bytes().to_vec()));
}

/// Memory without end in which one page is not zero.
struct Vast;

impl PhysicalMemory for Vast {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        assert!(buffer.len() <= 64 << 10, "memory is not to be copied at once");
        buffer.fill(0);
        let within = 0x1234_5000_u64.checked_sub(address.0);
        if let Some(byte) = within.and_then(|within| buffer.get_mut(within as usize)) {
            *byte = 7;
        }
        Ok(())
    }
}

#[test]
fn zeros_take_no_room_on_the_disk() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("core");
    let extents = extents(&[(0, 1 << 30)]);
    let sample = sample();
    let contents = Contents { extents: &extents, views: &[], ..sample.contents() };
    let written = core_file::write_path(&path, &contents, &Vast).expect("a core");
    assert_eq!(written.memory_bytes, PAGE);
    let metadata = path.metadata().expect("a file");
    assert_eq!(metadata.len(), written.bytes);
    assert!(metadata.len() > 1 << 30);
    assert!(metadata.blocks() * 512 < 256 << 10, "{} blocks", metadata.blocks());
}

#[test]
fn a_core_takes_the_place_of_its_name_at_once_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let names = || -> Vec<_> {
        let entries = folder.path().read_dir().expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let path = folder.path().join("core");
    std::fs::write(&path, "older").expect("a file");
    let sample = sample();
    let memory = Flaky(std::cell::Cell::new(0));
    let error = core_file::write_path(&path, &sample.contents(), &memory).expect_err("no memory");
    assert_eq!(
        error.to_string(),
        "failed to read the guest's memory: it goes away while it is read"
    );
    assert_eq!(std::fs::read(&path).expect("the file"), b"older");
    assert_eq!(names(), ["core"]);
    core_file::write_path(&path, &sample.contents(), &sample.memory).expect("a core");
    assert!(Core::parse(&std::fs::read(&path).expect("the file")).is_ok());
    assert_eq!(names(), ["core"]);

    let missing = folder.path().join("no/core");
    let error = core_file::write_path(&missing, &sample.contents(), &sample.memory)
        .expect_err("there is no such folder");
    assert_eq!(error.to_string(), format!("failed to make a file beside {}", missing.display()));
}

#[test]
fn a_core_takes_the_place_of_nothing_but_a_file() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let link = folder.path().join("link");
    symlink(&socket, &link).expect("a link");
    let sample = sample();
    for path in [folder.path(), &socket, &link] {
        let expected = format!("failed to make {}: what is there is not a file", path.display());
        let error = core_file::check_path(path).expect_err("no file");
        assert_eq!(error.to_string(), expected);
        let error = core_file::write_path(path, &sample.contents(), &sample.memory);
        assert_eq!(error.expect_err("no file").to_string(), expected);
    }
    assert!(socket.metadata().expect("the socket").file_type().is_socket());

    let path = folder.path().join("core");
    core_file::check_path(&path).expect("it can be written");
    assert!(!path.exists());
    std::fs::remove_file(&link).expect("the link");
    symlink("core", &link).expect("a link");
    std::fs::write(&path, "older").expect("a file");
    core_file::write_path(&link, &sample.contents(), &sample.memory).expect("a core");
    assert!(link.is_symlink());
    assert!(Core::parse(&std::fs::read(&path).expect("the file")).is_ok());
}

/// Memory of which another page goes away each time that page 32 is read.
struct Flaky(std::cell::Cell<u64>);

impl PhysicalMemory for Flaky {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let pages = address.0 / PAGE..(address.0 + length as u64).div_ceil(PAGE);
        let gone = self.0.get();
        self.0.set(gone + u64::from(pages.contains(&32)));
        buffer.fill(1);
        if pages.contains(&gone) { Err(ReadError::Unbacked { address, length }) } else { Ok(()) }
    }
}

#[test]
fn more_segments_than_a_header_can_count_are_counted_elsewhere() {
    let mut memory = Pages::default();
    for page in 0..140 {
        memory.set(page, &[page as u8 + 1; PAGE as usize]);
    }
    // Every other word is mapped.
    let views: Vec<_> =
        (0..140 * PAGE).step_by(16).map(|at| view(DIRECT_MAP + at, at, 8)).collect();
    let held = extents(&[(0, 140 * PAGE)]);
    let sample = sample();
    let contents = Contents { extents: &held, views: &views, ..sample.contents() };
    let (written, bytes) = written(&contents, &memory);
    assert_eq!(written.segments, 2 * views.len());
    // The gABI: e_phnum is PN_XNUM, and the number is in sh_info of the first section header.
    assert_eq!(bytes[56..58], [0xff, 0xff]);
    assert_eq!(program_headers(&bytes).len(), 1 + written.segments);
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), []);
    assert_eq!(core.extents(), held);
    assert_eq!(core.views(), views);
    assert_eq!(read(&core, 0, 140 * PAGE), read(&memory, 0, 140 * PAGE));
}

#[test]
fn another_parser_sees_the_same_notes() {
    let bytes = sample().bytes();
    let header = FileHeader64::<LE>::parse(&bytes[..]).expect("an ELF file");
    let mut seen = Vec::new();
    for segment in header.program_headers(LE, &bytes[..]).expect("program headers") {
        let mut notes = segment.notes(LE, &bytes[..]).expect("notes").into_iter().flatten();
        while let Some(note) = notes.next().transpose().expect("a note") {
            let name = String::from_utf8(note.name().to_vec()).expect("UTF-8");
            seen.push((name, note.n_type(LE).0, note.desc().len()));
        }
    }
    let expected: Vec<(String, u32, usize)> = [
        ("CORE", 1, 336),
        ("CORE", 1, 336),
        ("GNU", 3, 20),
        ("VMCOREINFO", 0, 14),
        ("nmiscope", u32::from_le_bytes(*b"nmis"), 8 + 15),
    ]
    .map(|(name, kind, length)| (name.into(), kind, length))
    .into();
    assert_eq!(seen, expected);
}

/// What `readelf` prints, or nothing where it is not installed.
fn readelf(arguments: &[&str], path: &Path) -> Option<String> {
    let output = Command::new("readelf").args(arguments).arg(path).output().ok()?;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn readelf_finds_nothing_to_warn_of() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("core");
    let sample = sample();
    core_file::write_path(&path, &sample.contents(), &sample.memory).expect("a core");
    let Some(text) = readelf(&["-W", "-h", "-l", "-n"], &path) else { return };
    for wanted in [
        "CORE (Core file)",
        "Advanced Micro Devices X86-64",
        "NT_PRSTATUS (prstatus structure)",
        "Build ID: abababababababababababababababababababab",
        "VMCOREINFO",
        "0xffffc90000002000 0x0000000000002000 0x002000 0x002000",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is to be in {text}");
    }
}

/// The offset of `field` in program header `index` (gABI, "Program Header").
fn field(index: usize, field: usize) -> usize {
    64 + 56 * index + field
}

const P_OFFSET: usize = 8;
const P_PADDR: usize = 24;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;

fn patched(mut bytes: Vec<u8>, at: usize, value: u64) -> Vec<u8> {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// The first PT_LOAD of the sample, which is the direct map's: physical 0, six pages. The next one
/// is its other part, at page 8.
const FIRST: usize = 1;

#[test]
fn sizes_that_overflow_are_passed_over_and_said() {
    for (at, value) in [(P_MEMSZ, u64::MAX), (P_PADDR, u64::MAX - 1), (P_FILESZ, u64::MAX)] {
        let bytes = patched(sample().bytes(), field(FIRST + 1, at), value);
        let core = Core::parse(&bytes).expect("a core");
        assert_eq!(core.findings(), [Finding::ImpossibleSegments { count: 1 }]);
        assert_eq!(read(&core, 2 * PAGE, 8), Ok(2_u64.to_le_bytes().to_vec()));
        assert!(read(&core, 8 * PAGE, 8).is_err());
    }
}

#[test]
fn memory_beyond_what_the_file_has_of_a_segment_is_zero() {
    // 32 pages on, where nothing else is.
    let last = program_headers(&sample().bytes()).len() - 1;
    let bytes = patched(sample().bytes(), field(last, P_MEMSZ), 1 << 60);
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), []);
    assert_eq!(read(&core, 1 << 59, 4), Ok(vec![0; 4]));
    assert_eq!(read(&core, 36 * PAGE - 2, 4), Ok(vec![0; 4]));
    assert!(read(&core, (1 << 60) + 36 * PAGE, 1).is_err());
}

#[test]
fn zeros_do_not_hide_what_the_file_has() {
    let bytes = patched(sample().bytes(), field(FIRST, P_MEMSZ), 1 << 60);
    let core = Core::parse(&bytes).expect("a core");
    let expected: Vec<u8> = [0; 8].into_iter().chain(8_u64.to_le_bytes()).collect();
    assert_eq!(read(&core, 8 * PAGE - 8, 16), Ok(expected));
}

#[test]
fn segments_that_contradict_each_other_are_said() {
    let bytes = patched(sample().bytes(), field(FIRST, P_OFFSET), 0);
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), [Finding::ContradictorySegments { count: 1 }]);
    // The one that begins first counts.
    assert_eq!(read(&core, 0, 4), Ok(b"\x7fELF".to_vec()));
}

#[test]
fn a_cut_core_keeps_what_is_left_of_its_memory() {
    let whole = sample().bytes();
    let length = whole.len() - 3 * PAGE as usize;
    let core = Core::parse(&whole[..length]).expect("a core");
    let Finding::Truncated { length: at, expected, segments } = core.findings()[0] else {
        panic!("{:?}", core.findings());
    };
    assert_eq!((at, expected, segments), (length as u64, whole.len() as u64, 3));
    assert_eq!(
        core.findings()[0].to_string(),
        format!("truncated at byte {at} of {expected}: 3 segments of memory are missing or cut")
    );
    assert_eq!(read(&core, 8 * PAGE, 8), Ok(8_u64.to_le_bytes().to_vec()));
    assert!(read(&core, 33 * PAGE, 1).is_err(), "it is not zero, it is gone");
}

#[test]
fn a_core_cut_anywhere_is_an_error_or_says_so() {
    let sample = sample();
    let whole = sample.bytes();
    for length in (0..whole.len()).filter(|at| *at < 0x1800 || at % 61 == 0) {
        match Core::parse(&whole[..length]) {
            Ok(core) => {
                assert_eq!((core.note(), core.cpus()), (&b"everything else"[..], &sample.cpus[..]));
                assert!(matches!(core.findings(), [.., Finding::Truncated { .. }]), "{length}");
                for Extent { start, length } in core.extents().iter() {
                    let expected = read(&sample.memory, start.0, length);
                    assert_eq!(read(&core, start.0, length), expected);
                }
            }
            Err(CoreError::Truncated { length: at, end, .. }) => {
                assert_eq!(at, length as u64);
                assert!(end > at);
            }
            Err(CoreError::NotElf(_)) => assert!(length < 4, "{length}"),
            Err(error) => panic!("cut at {length}: {error}"),
        }
    }
}

#[test]
fn damaged_registers_are_passed_over_and_said() {
    let bytes = sample().bytes();
    let notes = program_headers(&bytes)[0].p_offset(LE) as usize;
    let note = 12 + 8 + 336;
    // pr_pid of the second, at byte 32 of elf_prstatus.
    for pid in [0_u32, 1] {
        let mut bytes = bytes.clone();
        let at = notes + note + 20 + 32;
        bytes[at..at + 4].copy_from_slice(&pid.to_le_bytes());
        let core = Core::parse(&bytes).expect("a core");
        assert_eq!(core.cpus(), [registers(0)]);
        assert_eq!(core.findings(), [Finding::DamagedRegisters { count: 1 }]);
    }
}

#[test]
fn a_note_that_claims_more_than_there_is_ends_the_notes() {
    let claims_more = |name: &[u8]| {
        let mut bytes = sample().bytes();
        let at = bytes.windows(name.len()).position(|at| at == name).expect("a note") - 12;
        bytes[at + 4..at + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    for name in [&b"VMCOREINFO"[..], b"nmiscope"] {
        let error = Core::parse(&claims_more(name)).unwrap_err();
        assert!(matches!(error, CoreError::Malformed(_)), "{error}");
    }
}

#[test]
fn what_follows_the_last_note_is_passed_over() {
    let mut bytes = sample().bytes();
    // p_filesz of the first segment, which is followed by zeros.
    let length = u64::from_le_bytes(bytes[96..104].try_into().expect("8 bytes"));
    bytes[96..104].copy_from_slice(&(length + 5).to_le_bytes());
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), [Finding::DamagedNotes]);
    assert_eq!(core.note(), b"everything else");
    assert!(core.vmcoreinfo().is_some());
}

#[test]
fn a_core_of_another_version_is_refused_by_its_number() {
    let mut bytes = sample().bytes();
    let at = bytes.windows(8).position(|name| name == b"nmiscope").expect("a note");
    bytes[at + 12..at + 16].copy_from_slice(&7_u32.to_le_bytes());
    let error = Core::parse(&bytes).expect_err("another version");
    assert_eq!(error, CoreError::Version { found: 7 });
    assert_eq!(error.to_string(), "core format version 7, and this nmiscope reads version 2");
}

/// A core with one note, of somebody else.
fn foreign(name: &[u8], kind: u32) -> Vec<u8> {
    let mut bytes = sample().bytes();
    let own = bytes.windows(8).position(|name| name == b"nmiscope").expect("a note") - 12;
    let mut note = (name.len() as u32 + 1).to_le_bytes().to_vec();
    note.extend_from_slice(&4_u32.to_le_bytes());
    note.extend_from_slice(&kind.to_le_bytes());
    note.extend_from_slice(name);
    note.resize(note.len() + 1, 0);
    note.resize(note.len().next_multiple_of(4) + 4, 0);
    bytes[own..own + note.len()].copy_from_slice(&note);
    let bytes = patched(bytes, field(0, P_OFFSET), own as u64);
    patched(bytes, field(0, P_FILESZ), note.len() as u64)
}

#[test]
fn a_core_of_somebody_else_is_named() {
    for (name, kind, expected) in [
        (&b"QEMU"[..], 0, Kind::Qemu),
        (b"VMCOREINFO", 0, Kind::LinuxKernel),
        (b"CORE", 3, Kind::Process),
        (b"CORE", 1, Kind::Core),
        (b"nmiscope", 1, Kind::Core),
    ] {
        assert_eq!(Core::parse(&foreign(name, kind)).err(), Some(CoreError::NotOurs(expected)));
    }
    let error = Core::parse(&foreign(b"QEMU", 0)).expect_err("QEMU's").to_string();
    assert_eq!(error, "not a core of nmiscope: a guest's memory as QEMU dumps it");
}

#[test]
fn what_is_no_core_is_named() {
    let parse = |bytes: &[u8]| Core::parse(bytes).expect_err("no core").to_string();
    assert_eq!(parse(b""), "not a core of nmiscope: an empty file");
    assert_eq!(parse(b"hello"), "not a core of nmiscope: no ELF file");
    assert_eq!(
        parse(b"\x28\xb5\x2f\xfd..."),
        "not a core of nmiscope: a file compressed by zstd; uncompress it first"
    );
    assert_eq!(parse(nmiscope::bundled::image()), "not a core of nmiscope: an ELF executable");
    let mut arm = sample().bytes();
    arm[18] = 183;
    assert_eq!(parse(&arm), "not a core of nmiscope: an ELF file, but not one for x86-64");
}

/// Ranges of pages, by number, that are to go into a core, and where they are mapped.
#[derive(Debug, Clone)]
struct Model {
    memory: Pages,
    extents: Extents,
    views: Vec<Mapping>,
}

fn model() -> impl Strategy<Value = Model> {
    let content = prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 1..32)];
    let pages = prop::collection::btree_map(0..48_u64, content, 0..48);
    let ranges = prop::collection::vec((0..48 * PAGE, 0..6 * PAGE), 0..8);
    let views = prop::collection::vec((0..64_u64, 0..48_u64, 0..20_u64), 0..8);
    (pages, ranges, views).prop_map(|(pages, ranges, views)| {
        let mut memory = Pages::default();
        for (page, bytes) in pages {
            memory.set(page, &bytes);
        }
        let views = views
            .into_iter()
            .map(|(at, page, pages)| view(DIRECT_MAP + at * PAGE, page * PAGE, pages * PAGE))
            .collect();
        Model { memory, extents: extents(&ranges), views }
    })
}

proptest! {
    /// Against the plainest model: byte by byte.
    #[test]
    fn a_core_is_the_memory_that_it_was_made_of(model in model()) {
        let sample = sample();
        let contents =
            Contents { extents: &model.extents, views: &model.views, ..sample.contents() };
        let (written, bytes) = written(&contents, &model.memory);
        let core = Core::parse(&bytes).expect("a core");
        prop_assert_eq!(core.findings(), []);
        let wanted = |at: u64| {
            let mut held = model.extents.iter();
            held.any(|extent| (extent.start.0..extent.start.0 + extent.length).contains(&at))
        };
        for at in (0..56 * PAGE).step_by(1 << 9).flat_map(|at| [at, at + 3]) {
            let expected = wanted(at).then(|| read(&model.memory, at, 1).ok()).flatten();
            prop_assert_eq!(read(&core, at, 1).ok(), expected.clone(), "at {:x}", at);
            let lost = wanted(at) && expected.is_none();
            let said = written.unreadable.iter().any(|extent| {
                (extent.start.0..extent.start.0 + extent.length).contains(&at)
            });
            prop_assert_eq!(lost, said);
        }
        for at in (0..84 * PAGE).step_by(1 << 10) {
            let address = DIRECT_MAP + at;
            let view = model.views.iter().find(|view| {
                address.checked_sub(view.virtual_start.0).is_some_and(|within| within < view.length)
            });
            let physical = view.map(|view| address - view.virtual_start.0 + view.physical_start.0);
            let expected = physical
                .filter(|&at| wanted(at))
                .and_then(|at| read(&model.memory, at, 1).ok());
            prop_assert_eq!(through_segments(&bytes, address, 1), expected.as_deref());
        }
        for extent in model.extents.iter() {
            let (start, end) = (extent.start.0, extent.start.0 + extent.length);
            let whole =
                (start / PAGE..end.div_ceil(PAGE)).all(|page| model.memory.0.contains_key(&page));
            prop_assert_eq!(read(&core, start, extent.length).is_ok(), whole);
            prop_assert!(read(&core, start, extent.length + 1).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Core::parse(&bytes).is_err());
    }

    /// Bytes of a core changed at random, headers and notes for the most part.
    #[test]
    fn a_core_with_any_bytes_changed_is_an_answer(
        changes in prop::collection::vec((0..0x700_usize, any::<u8>()), 1..8),
        words in prop::collection::vec((0..0xe0_usize, any::<u64>()), 0..3),
        length in any::<prop::sample::Index>(),
        probes in prop::collection::vec((any::<u64>(), 0..9000_usize), 1..8),
    ) {
        let mut bytes = sample().bytes();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        for (at, word) in words {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes.truncate(bytes.len() - length.index(bytes.len() / 4));
        if let Ok(core) = Core::parse(&bytes) {
            for finding in core.findings() {
                prop_assert!(!finding.to_string().is_empty());
            }
            let _ = (core.extents().bytes(), core.views().len());
            for (at, length) in probes {
                let _ = core.read(PhysicalAddress(at), &mut vec![0; length]);
                let _ = core.read(PhysicalAddress(at % (40 * PAGE)), &mut vec![0; length]);
            }
        }
    }

    #[test]
    fn extents_are_sets_of_bytes(
        steps in prop::collection::vec((any::<bool>(), 0..60_u64, 0..20_u64), 0..30),
    ) {
        let mut set = Extents::new();
        let mut model = std::collections::BTreeSet::new();
        for (insert, start, length) in steps {
            if insert {
                set.insert(PhysicalAddress(start), length);
                model.extend(start..start + length);
            } else {
                set.remove(PhysicalAddress(start), length);
                model.retain(|at| !(start..start + length).contains(at));
            }
        }
        let bytes = |set: &Extents| -> Vec<u64> {
            set.iter().flat_map(|extent| extent.start.0..extent.start.0 + extent.length).collect()
        };
        prop_assert_eq!(bytes(&set), model.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(set.bytes(), model.len() as u64);
        let mut ends: Vec<u64> = Vec::new();
        for extent in set.iter() {
            prop_assert!(ends.last().is_none_or(|&end| end < extent.start.0));
            ends.push(extent.start.0 + extent.length);
        }
    }
}

/// The address and size of a function of the bundled guest.
fn function(name: &str) -> (u64, u64) {
    let image = Image::parse(nmiscope::bundled::image()).expect("the bundled image");
    let symbol = image.symbol(name).expect("a function of the bundled guest");
    (symbol.address.0, symbol.size)
}

/// Two vCPUs at the first instruction of `run_on_stack`'s callees, so that the return address is on
/// top of their stacks, in memory that two virtual ranges map.
#[test]
#[ignore = "needs gdb"]
fn gdb_lists_the_vcpus_and_reads_their_stacks() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (image, path) = (folder.path().join("guest.elf"), folder.path().join("hang.core"));
    std::fs::write(&image, nmiscope::bundled::image()).expect("an image");
    let (caller, caller_size) = function("run_on_stack");
    // It ends in HLT, one byte, and a short JMP, two: the call returns to the HLT.
    let returns_to = caller + caller_size - 3;
    let functions = ["kernel_main", "ap_main"];

    let mut memory = Pages::default();
    let mut cpus = Vec::new();
    for (cpu, name) in (0_u32..).zip(functions) {
        let page = u64::from(cpu) * 2;
        memory.set(16 + page, &[returns_to, 0xfeed_0000 + page].map(u64::to_le_bytes).concat());
        memory.set(17 + page, &[]);
        let rsp = STACK + page * PAGE;
        let registers = UserRegisters {
            rip: function(name).0,
            rsp,
            cs: 8,
            eflags: 2,
            orig_rax: u64::MAX,
            ..UserRegisters::default()
        };
        cpus.push(CpuRegisters { cpu, registers });
    }
    // Memory without a virtual address, which is not to hide any that has one.
    memory.set(64, b"unmapped");
    let contents = Contents {
        cpus: &cpus,
        note: b"",
        vmcoreinfo: None,
        build_id: None,
        extents: &extents(&[(16 * PAGE, 4 * PAGE), (64 * PAGE, PAGE)]),
        views: &[view(STACK, 16 * PAGE, 4 * PAGE), view(DIRECT_MAP, 0, 32 * PAGE)],
    };
    let file = File::create(&path).expect("a file");
    write(&file, &contents, &memory).expect("a core");

    let words = format!("x/2gx {:#x}", DIRECT_MAP + 18 * PAGE);
    let zeros = format!("x/1gx {:#x}", STACK + PAGE);
    let none = format!("x/1gx {:#x}", DIRECT_MAP + 64 * PAGE);
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set width 0", "-ex", "set debuginfod enabled off"]);
    for command in ["info threads", "thread apply all bt", &words, &zeros, &none] {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(&image).arg(&path).output().expect("gdb");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    for (cpu, name) in (1..).zip(functions) {
        let thread = format!("(LWP {cpu})");
        let trace = text
            .lines()
            .skip_while(|line| !(line.starts_with("Thread ") && line.contains(&thread)))
            .skip(1)
            .take_while(|line| line.starts_with('#'))
            .collect::<Vec<_>>();
        assert_eq!(trace.len(), 2, "{text}");
        assert!(trace[0].contains(name), "{text}");
        assert!(trace[1].contains("run_on_stack"), "{text}");
    }
    for wanted in [
        format!("{returns_to:#018x}\t0x00000000feed0002"),
        format!("{:#x}:\t0x0000000000000000", STACK + PAGE),
        format!("Cannot access memory at address {:#x}", DIRECT_MAP + 64 * PAGE),
    ] {
        assert!(text.contains(&wanted), "{wanted:?} is to be in {text}");
    }
    for unwanted in ["warning", "Warning"] {
        assert!(!text.contains(unwanted), "{text}");
    }
}
