//! Tests of cores that are damaged or cut, and of files that are no core.

use nmiscope::elf_core::{Core, CoreError, Damage, Extent, FileKind};
use object::LittleEndian as LE;
use object::read::elf::ProgramHeader as _;

use super::support::*;

/// Returns the file offset of `field` in program header `index` (gABI, "Program Header").
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

/// Index of the sample's first PT_LOAD, which is the direct map's: physical 0, six pages. The next one is
/// its other part, at page 8.
const FIRST: usize = 1;

#[test]
fn segments_with_overflowing_sizes_are_left_out_and_reported() {
    for (at, value) in [(P_MEMSZ, u64::MAX), (P_PADDR, u64::MAX - 1), (P_FILESZ, u64::MAX)] {
        let bytes = patched(sample().bytes(), field(FIRST + 1, at), value);
        let core = Core::parse(&bytes).expect("a core");
        assert_eq!(core.findings(), [Damage::ImpossibleSegments { count: 1 }]);
        assert_eq!(read(&core, 2 * PAGE, 8), Ok(2_u64.to_le_bytes().to_vec()));
        assert!(read(&core, 8 * PAGE, 8).is_err());
    }
}

#[test]
fn memory_beyond_a_segments_bytes_in_the_file_is_zero() {
    // 32 pages on, where no other segment is.
    let last = program_headers(&sample().bytes()).len() - 1;
    let bytes = patched(sample().bytes(), field(last, P_MEMSZ), 1 << 60);
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), []);
    assert_eq!(read(&core, 1 << 59, 4), Ok(vec![0; 4]));
    assert_eq!(read(&core, 36 * PAGE - 2, 4), Ok(vec![0; 4]));
    assert!(read(&core, (1 << 60) + 36 * PAGE, 1).is_err());
}

#[test]
fn zeros_of_one_segment_do_not_hide_bytes_of_another() {
    let bytes = patched(sample().bytes(), field(FIRST, P_MEMSZ), 1 << 60);
    let core = Core::parse(&bytes).expect("a core");
    let expected: Vec<u8> = [0; 8].into_iter().chain(8_u64.to_le_bytes()).collect();
    assert_eq!(read(&core, 8 * PAGE - 8, 16), Ok(expected));
}

#[test]
fn contradictory_segments_are_reported() {
    let bytes = patched(sample().bytes(), field(FIRST, P_OFFSET), 0);
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), [Damage::ContradictorySegments { count: 1 }]);
    // The segment that begins first takes precedence.
    assert_eq!(read(&core, 0, 4), Ok(b"\x7fELF".to_vec()));
}

#[test]
fn a_cut_core_keeps_the_rest_of_its_memory() {
    let whole = sample().bytes();
    let length = whole.len() - 3 * PAGE as usize;
    let core = Core::parse(&whole[..length]).expect("a core");
    let Damage::Truncated { length: at, expected, segments } = core.findings()[0] else {
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
fn a_core_cut_anywhere_is_refused_or_reported_as_truncated() {
    let sample = sample();
    let whole = sample.bytes();
    for length in (0..whole.len()).filter(|at| *at < 0x1800 || at % 61 == 0) {
        match Core::parse(&whole[..length]) {
            Ok(core) => {
                assert_eq!((core.note(), core.cpus()), (&b"everything else"[..], &sample.cpus[..]));
                assert!(matches!(core.findings(), [.., Damage::Truncated { .. }]), "{length}");
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
fn damaged_registers_are_left_out_and_reported() {
    let bytes = sample().bytes();
    let notes = program_headers(&bytes)[0].p_offset(LE) as usize;
    let note = 12 + 8 + 336;
    // pr_pid of the second vCPU, at byte 32 of elf_prstatus.
    for pid in [0_u32, 1] {
        let mut bytes = bytes.clone();
        let at = notes + note + 20 + 32;
        bytes[at..at + 4].copy_from_slice(&pid.to_le_bytes());
        let core = Core::parse(&bytes).expect("a core");
        assert_eq!(core.cpus(), [registers(0)]);
        assert_eq!(core.findings(), [Damage::DamagedRegisters { count: 1 }]);
    }
}

#[test]
fn a_note_longer_than_its_segment_ends_the_notes() {
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
fn zeros_after_the_last_note_are_ignored() {
    let mut bytes = sample().bytes();
    // p_filesz of the first segment, which is followed by zeros.
    let length = u64::from_le_bytes(bytes[96..104].try_into().expect("8 bytes"));
    bytes[96..104].copy_from_slice(&(length + 5).to_le_bytes());
    let core = Core::parse(&bytes).expect("a core");
    assert_eq!(core.findings(), [Damage::DamagedNotes]);
    assert_eq!(core.note(), b"everything else");
    assert!(core.vmcoreinfo().is_some());
}

#[test]
fn a_core_of_another_version_is_refused_with_its_number() {
    let mut bytes = sample().bytes();
    let at = bytes.windows(8).position(|name| name == b"nmiscope").expect("a note");
    bytes[at + 12..at + 16].copy_from_slice(&7_u32.to_le_bytes());
    let error = Core::parse(&bytes).expect_err("another version");
    assert_eq!(error, CoreError::Version { found: 7 });
    assert_eq!(
        error.to_string(),
        "core format version 7, and this nmiscope reads versions 3 to 4: use the nmiscope that wrote it, or one as new"
    );
}

/// Returns a core whose only note is one of another program.
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
fn a_core_of_another_program_is_refused_with_its_kind() {
    for (name, kind, expected) in [
        (&b"QEMU"[..], 0, FileKind::Qemu),
        (b"VMCOREINFO", 0, FileKind::LinuxKernel),
        (b"CORE", 3, FileKind::Process),
        (b"CORE", 1, FileKind::Core),
        (b"nmiscope", 1, FileKind::Core),
    ] {
        assert_eq!(Core::parse(&foreign(name, kind)).err(), Some(CoreError::NotOurs(expected)));
    }
    let error = Core::parse(&foreign(b"QEMU", 0)).expect_err("QEMU's").to_string();
    assert_eq!(error, "not a core of nmiscope: a guest's memory as QEMU dumps it");
}

#[test]
fn a_file_that_is_no_core_is_refused_with_its_kind() {
    let parse = |bytes: &[u8]| Core::parse(bytes).expect_err("no core").to_string();
    assert_eq!(parse(b""), "not a dump that nmiscope can read: an empty file");
    assert_eq!(parse(b"hello"), "not a dump that nmiscope can read: not an ELF file");
    assert_eq!(
        parse(b"\x28\xb5\x2f\xfd..."),
        "not a dump that nmiscope can read: a file compressed by zstd; uncompress it first"
    );
    assert_eq!(
        parse(nmiscope::bundled::image()),
        "not a dump that nmiscope can read: an ELF executable, and no core"
    );
    let mut arm = sample().bytes();
    arm[18] = 183;
    assert_eq!(
        parse(&arm),
        "not a dump that nmiscope can read: an ELF file, but not one for x86-64"
    );
    // EM_386, gABI "Machine".
    arm[18] = 3;
    assert!(parse(&arm).contains("32-bit x86"));
    for (magic, what) in [
        (&b"QEVM\0\0\0\x03"[..], "a migration stream"),
        (b"LibvirtQemudSave\x02", "a migration stream"),
        (b"makedumpfile\0\0\0\0", "kdump's compressed format"),
        (b"KDUMP   \x06", "kdump's compressed format"),
        (b"PAGEDU64", "Windows's format"),
    ] {
        let error = parse(magic);
        assert!(error.contains(what) && error.contains("--memory-only --format elf"), "{error}");
    }
}
