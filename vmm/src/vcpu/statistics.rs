//! KVM's own counters of a vCPU (KVM_GET_STATS_FD), read without stopping it.
//!
//! Owns the file's format and the choice of counters; refuses to own the opening of the file (`host`)
//! and its lifetime (the vCPU's handle). Called by `watch`.
//!
//! The file (Linux, Documentation/virt/kvm/api.rst, 4.133) is a header, descriptors with the counters'
//! names and offsets, and the counters. The set of counters differs between kernels, but not between the
//! vCPUs of one: the descriptors are read once, and then only a window of the counters.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Counters that KVM keeps of a vCPU. `None` if this host's KVM does not have the counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VcpuStatistics {
    /// Count of exits from the guest, most of which KVM handles by itself.
    pub exits: Option<u64>,
    /// Count of exits for a HLT instruction.
    pub halt_exits: Option<u64>,
    /// Count of interrupts injected into the guest. An injection that is retried, because the guest's page
    /// had to be mapped first, counts again.
    pub irq_injections: Option<u64>,
    /// Count of NMIs injected into the guest. A retried injection counts again here too.
    pub nmi_injections: Option<u64>,
    /// True if the vCPU's thread sleeps in KVM, because the vCPU is halted or not started.
    pub blocking: Option<bool>,
}

/// Offsets of the counters of [`VcpuStatistics`] in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StatisticsLayout {
    /// Window that has all of the counters: its file offset and its length, in bytes.
    at: u64,
    len: usize,
    /// Offset of each counter in the window, in the order of `NAMES`.
    places: [Option<usize>; NAMES.len()],
}

const NAMES: [&[u8]; 5] =
    [b"exits", b"halt_exits", b"irq_injections", b"nmi_injections", b"blocking"];

/// Bytes of a `kvm_stats_header`, and of a `kvm_stats_desc` without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;

/// Limits of a valid header: 15 times as many counters as Linux 6.18 has, and names five times as long.
const MAX_DESCRIPTORS: usize = 1024;
const MAX_NAME: usize = 256;

/// Length of the longest window in bytes: counters farther apart are not read.
const WINDOW: usize = 1024;

impl StatisticsLayout {
    /// Reads the header and the descriptors of a file.
    pub(crate) fn read(file: &File) -> io::Result<Self> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let header = Header::parse(&header).ok_or_else(malformed)?;
        let mut descriptors = vec![0; header.count * header.stride()];
        file.read_exact_at(&mut descriptors, header.descriptors_at)?;
        Self::parse(&header, &descriptors).ok_or_else(malformed)
    }

    /// Finds the counters among the descriptors; returns `None` if the file has none of them.
    fn parse(header: &Header, descriptors: &[u8]) -> Option<Self> {
        let mut offsets = [None; NAMES.len()];
        for descriptor in descriptors.chunks_exact(header.stride()) {
            let (fixed, name) = descriptor.split_at(DESCRIPTOR);
            let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            if let Some(index) = NAMES.iter().position(|wanted| *wanted == &name[..len]) {
                // An empty counter or a histogram is not the counter known by that name.
                let is_one = u16::from_le_bytes([fixed[6], fixed[7]]) == 1;
                offsets[index] = is_one.then(|| number(fixed, 8)).flatten();
            }
        }
        let first = *offsets.iter().flatten().min()?;
        let place = |offset: Option<u32>| {
            let place = (offset? - first) as usize;
            (place <= WINDOW - size_of::<u64>()).then_some(place)
        };
        let places = offsets.map(place);
        let last = places.iter().flatten().max()?;
        let at = header.counters_at + u64::from(first);
        Some(Self { at, len: last + size_of::<u64>(), places })
    }

    /// Reads the counters from a file with this layout.
    pub(crate) fn counters(&self, file: &File) -> io::Result<VcpuStatistics> {
        let mut buffer = [0; WINDOW];
        let window = &mut buffer[..self.len];
        file.read_exact_at(window, self.at)?;
        Ok(self.pick(window))
    }

    fn pick(&self, window: &[u8]) -> VcpuStatistics {
        let counter = |place: Option<usize>| {
            let bytes = window.get(place?..)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let [exits, halt_exits, irq_injections, nmi_injections, blocking] =
            self.places.map(counter);
        let blocking = blocking.map(|value| value != 0);
        VcpuStatistics { exits, halt_exits, irq_injections, nmi_injections, blocking }
    }
}

/// A `kvm_stats_header` whose fields are within the limits.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    name_size: usize,
    count: usize,
    descriptors_at: u64,
    counters_at: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        // flags, name_size, num_desc, id_offset, desc_offset, data_offset
        let [_, name_size, count, _, descriptors_at, counters_at] =
            [0, 4, 8, 12, 16, 20].map(|at| number(bytes, at));
        let header = Self {
            name_size: name_size? as usize,
            count: count? as usize,
            descriptors_at: descriptors_at?.into(),
            counters_at: counters_at?.into(),
        };
        let is_valid = header.count <= MAX_DESCRIPTORS && header.name_size <= MAX_NAME;
        is_valid.then_some(header)
    }

    /// Returns the length of a descriptor with its name, in bytes.
    fn stride(&self) -> usize {
        DESCRIPTOR + self.name_size
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A counter's name, its number of values, and its offset.
    type Counter<'a> = (&'a str, u16, u32);

    const NAME_SIZE: usize = 20;

    /// Makes a file as api.rst, 4.133, describes it, with each counter's value at its offset.
    fn file(counters: &[Counter<'_>], numbers: &[u64]) -> Vec<u8> {
        let id = 24;
        let descriptors = id + NAME_SIZE;
        let data = descriptors + counters.len() * (16 + NAME_SIZE);
        let header = [0, NAME_SIZE, counters.len(), id, descriptors, data];
        let mut file: Vec<u8> = header.iter().flat_map(|n| (*n as u32).to_le_bytes()).collect();
        file.extend(name("kvm-1/vcpu-0"));
        for (counter, size, offset) in counters {
            file.extend(0u32.to_le_bytes()); // flags
            file.extend(0u16.to_le_bytes()); // exponent
            file.extend(size.to_le_bytes());
            file.extend(offset.to_le_bytes());
            file.extend(0u32.to_le_bytes()); // bucket_size
            file.extend(name(counter));
        }
        for ((_, _, offset), number) in counters.iter().zip(numbers) {
            let at = data + *offset as usize;
            file.resize(file.len().max(at + 8), 0xee);
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        file
    }

    fn name(name: &str) -> [u8; NAME_SIZE] {
        let mut padded = [0; NAME_SIZE];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        padded
    }

    fn parse_layout(file: &[u8]) -> Option<StatisticsLayout> {
        let header = Header::parse(file.first_chunk()?)?;
        let descriptors = file.get(header.descriptors_at as usize..)?;
        StatisticsLayout::parse(&header, descriptors.get(..header.count * header.stride())?)
    }

    fn parse_counters(file: &[u8]) -> Option<VcpuStatistics> {
        let layout = parse_layout(file)?;
        let window = file.get(layout.at as usize..)?.get(..layout.len)?;
        Some(layout.pick(window))
    }

    #[test]
    fn counters_are_found_by_name_at_any_offset() {
        let counters = [
            ("nmi_injections", 1, 40),
            ("exits_of_another", 1, 0),
            ("blocking", 1, 8),
            ("exits", 1, 64),
            ("irq_injections", 1, 24),
            ("halt_exits", 1, 16),
        ];
        let found = parse_counters(&file(&counters, &[3, 99, 1, u64::MAX, 5, 7]));
        let expected = VcpuStatistics {
            exits: Some(u64::MAX),
            halt_exits: Some(7),
            irq_injections: Some(5),
            nmi_injections: Some(3),
            blocking: Some(true),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn a_counter_that_is_missing_or_is_a_histogram_is_none() {
        let counters = [("halt_exits", 1, 8), ("exits", 32, 16)];
        let found = parse_counters(&file(&counters, &[7, 9]));
        let expected = VcpuStatistics { halt_exits: Some(7), ..Default::default() };
        assert_eq!(found, Some(expected));
        assert_eq!(parse_counters(&file(&[("pf_taken", 1, 0)], &[1])), None);
    }

    #[test]
    fn a_counter_beyond_the_window_is_not_read() {
        let counters = [("exits", 1, 80), ("halt_exits", 1, 80 + 1016), ("blocking", 1, 80 + 1024)];
        let file = file(&counters, &[1, 2, 1]);
        assert_eq!(parse_layout(&file).unwrap().len, 1024);
        let found = parse_counters(&file).unwrap();
        assert_eq!((found.exits, found.halt_exits, found.blocking), (Some(1), Some(2), None));
    }

    #[test]
    fn a_header_out_of_bounds_is_refused() {
        let header = |name_size: u32, count: u32| {
            let numbers = [0, name_size, count, 24, 72, 3080].map(u32::to_le_bytes);
            Header::parse(numbers.as_flattened().first_chunk().unwrap())
        };
        assert!(header(256, 1024).is_some());
        assert_eq!(header(257, 1), None);
        assert_eq!(header(48, 1025), None);
        assert_eq!(header(u32::MAX, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_counters_or_none(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            offset in any::<u32>(),
        ) {
            let _ = parse_counters(&bytes);
            // A valid beginning, so that the rest is parsed.
            let start = file(&[("exits", 1, 0), ("blocking", 1, offset % 4096)], &[]);
            bytes.splice(0..0, start);
            let _ = parse_counters(&bytes);
        }

        #[test]
        fn any_offsets_and_sizes_give_a_bounded_window(
            offsets in any::<[u32; 2]>(),
            sizes in any::<[u16; 2]>(),
        ) {
            let counters = [("exits", sizes[0], offsets[0]), ("blocking", sizes[1], offsets[1])];
            if let Some(layout) = parse_layout(&file(&counters, &[])) {
                prop_assert!(layout.len <= WINDOW);
            }
        }
    }
}
