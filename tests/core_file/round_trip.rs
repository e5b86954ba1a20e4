//! Tests that a core is read as it was written.

use nmiscope::elf_core::{Core, CoreContents, Extent, Extents};
use nmiscope_machine::{PhysicalAddress, PhysicalMemory as _, ReadError};
use object::LittleEndian as LE;
use object::elf::PT_LOAD;
use object::read::elf::ProgramHeader as _;

use super::support::*;

#[test]
fn a_core_is_read_as_it_was_written() {
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
fn memory_that_is_not_in_the_core_cannot_be_read() {
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
fn an_empty_core_can_be_written_and_read() {
    let contents = CoreContents {
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
fn memory_without_a_view_has_only_a_physical_address() {
    let bytes = sample().bytes();
    let without: Vec<_> = program_headers(&bytes)
        .iter()
        .filter(|header| header.p_type(LE) == PT_LOAD && header.p_vaddr(LE) == u64::MAX)
        .map(|header| (header.p_paddr(LE), header.p_memsz(LE)))
        .collect();
    assert_eq!(without, [(32 * PAGE, 2 * PAGE), (35 * PAGE, PAGE)]);
}

#[test]
fn the_first_of_contradictory_views_takes_precedence() {
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
        written(&CoreContents { views: &views, ..sample.contents() }, &sample.memory);
    let at = |page: u64| through_segments(&bytes, STACK + page * PAGE, 1).map(|bytes| bytes[0]);
    assert_eq!([at(0), at(1), at(2)], [Some(1), Some(4), Some(0)]);
    assert_eq!(through_segments(&bytes, 0u64.wrapping_sub(PAGE), 1), Some(&[8][..]));
    assert_eq!(written.views_left_out, 2, "one wraps, one is skewed");
}

#[test]
fn unreadable_memory_is_left_out_and_reported() {
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

#[test]
fn more_segments_than_e_phnum_holds_are_counted_in_a_section_header() {
    let mut memory = Pages::default();
    for page in 0..140 {
        memory.set(page, &[page as u8 + 1; PAGE as usize]);
    }
    // Every other word is mapped.
    let views: Vec<_> =
        (0..140 * PAGE).step_by(16).map(|at| view(DIRECT_MAP + at, at, 8)).collect();
    let held = extents(&[(0, 140 * PAGE)]);
    let sample = sample();
    let contents = CoreContents { extents: &held, views: &views, ..sample.contents() };
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
