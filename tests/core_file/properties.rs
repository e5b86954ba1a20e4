//! Property tests: cores of arbitrary memory, and arbitrary bytes as a core.

use nmiscope::elf_core::{Core, CoreContents, Extents};
use nmiscope_machine::{Mapping, PhysicalAddress, PhysicalMemory as _};
use proptest::prelude::*;

use super::support::*;

/// Ranges of pages, by number, for a core, and their virtual addresses.
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
    /// Compares a core with the simplest model of memory, byte by byte.
    #[test]
    fn a_core_has_the_memory_that_it_was_made_of(model in model()) {
        let sample = sample();
        let contents =
            CoreContents { extents: &model.extents, views: &model.views, ..sample.contents() };
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

    /// Changes bytes of a core at random, most of them in its headers and notes.
    #[test]
    fn a_core_with_changed_bytes_is_read_or_refused(
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
    fn extents_behave_as_sets_of_bytes(
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
