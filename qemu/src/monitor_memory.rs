//! Guest-physical memory that QEMU itself reads and returns through its monitor.
//!
//! Owns the two commands that read memory, the choice between them, and a cache. Refuses to own when to
//! use it (`qemu`): memory of the process (`process_memory`) is faster and needs no help from QEMU, but
//! yama, another user or another PID namespace may forbid it.
//!
//! | the VM | command | 64 KiB take about |
//! |---|---|---|
//! | runs | HMP `xp`, which returns a page as text and stops no vCPU | 15 ms |
//! | is stopped for this visit | `dump-guest-memory` of a range into a descriptor passed with `getfd`. No path is named, so QEMU may run in another mount namespace or a sandbox | 1 to 3 ms |
//! | is stopped, and libvirt has a monitor of it | `xp`: the event `DUMP_COMPLETED` of a dump that it did not start crashes libvirt 9.0.0 | 15 ms |
//!
//! A dump would stop and resume a running VM, which this module must not do; it uses `xp` there.
//!
//! Every page is read once and cached until [`MonitorMemory::refresh`], since unwinding reads 8 bytes at a
//! time. Where guest memory is shared (memfd), the read allocates a page that the guest never touched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::Duration;

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, ReadCache};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use serde_json::json;

use crate::memory_map::MappedRange;
use crate::monitor::SharedMonitor;
use crate::qmp::{QmpError, excerpt};

/// Bytes that one `xp` reads, which occupies QEMU's main loop for about a millisecond.
const TEXT_BLOCK: u64 = 4 << 10;
/// Bytes of guest memory in one dump.
const DUMP_BLOCK: u64 = 64 << 10;
/// Bytes reserved for a dump's headers and its notes of some 1 KiB per vCPU.
const DUMP_OVERHEAD: u64 = 1 << 20;
/// Size limit of the cache, in bytes. A capture reads less than a tenth of it.
const MAX_CACHED_BYTES: usize = 64 << 20;
/// Name under which QEMU keeps the passed descriptor.
const DESCRIPTOR: &str = "nmiscope";

/// Error of reading a block through QEMU. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
enum BlockError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("make a file in memory for a dump")]
    File(#[from] std::io::Error),
    #[error("read memory with \"xp\": the line {0:?} is not understood")]
    Text(String),
    #[error("read memory with a dump: {0}")]
    Dump(&'static str),
}

/// Guest-physical memory, read through the monitor of a QEMU whose process may not be read.
#[derive(Debug)]
pub struct MonitorMemory {
    monitor: Rc<SharedMonitor>,
    ranges: Vec<MappedRange>,
    /// True if dumps may be used, since no other client is disturbed by their events.
    dumps: bool,
    within: Duration,
    /// Cached blocks by the guest-physical address of their first byte. No two overlap.
    blocks: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl MonitorMemory {
    pub(crate) fn new(
        monitor: Rc<SharedMonitor>,
        ranges: Vec<MappedRange>,
        dumps: bool,
        within: Duration,
    ) -> Self {
        Self { monitor, ranges, dumps, within, blocks: RefCell::default() }
    }

    /// The guest's RAM and firmware, in ascending order; device memory is omitted.
    pub fn ranges(&self) -> &[MappedRange] {
        &self.ranges
    }

    /// Drops the cache, so that later reads return the memory's content at that time.
    pub fn refresh(&self) {
        self.blocks.borrow_mut().clear();
    }

    /// Copies bytes at `address` from a cached block and returns their number; 0 if none is cached.
    fn copy_cached(&self, address: u64, buffer: &mut [u8]) -> usize {
        let blocks = self.blocks.borrow();
        let Some((start, block)) = blocks.range(..=address).next_back() else { return 0 };
        let kept = usize::try_from(address - start).ok().and_then(|skipped| block.get(skipped..));
        let kept = kept.unwrap_or_default();
        let length = kept.len().min(buffer.len());
        buffer[..length].copy_from_slice(&kept[..length]);
        length
    }

    /// Reads and caches the block around an address that lies in `range` and in no cached block.
    fn fetch(&self, address: u64, range: MappedRange) -> Result<(), BlockError> {
        let by_dump = self.dumps && self.monitor.vm_is_stopped();
        let size = if by_dump { DUMP_BLOCK } else { TEXT_BLOCK };
        let (start, end) = self.gap(address, size, range);
        let bytes =
            if by_dump { self.dump(start, end - start) } else { self.text(start, end - start) }?;
        let mut blocks = self.blocks.borrow_mut();
        if (blocks.len() + 1) * DUMP_BLOCK as usize > MAX_CACHED_BYTES {
            blocks.clear();
        }
        blocks.insert(start, bytes);
        Ok(())
    }

    /// Returns first address and end of the aligned block around `address`, clipped to `range` and to the
    /// gap between cached blocks.
    fn gap(&self, address: u64, size: u64, range: MappedRange) -> (u64, u64) {
        let blocks = self.blocks.borrow();
        let before = blocks.range(..=address).next_back();
        let before = before.map_or(0, |(start, block)| start + block.len() as u64);
        let after = blocks.range(address..).next().map_or(u64::MAX, |(start, _)| *start);
        let aligned = address & !(size - 1);
        // `memory_map` has checked that ranges lie within the address space.
        let range_end = range.start.0 + range.length;
        let end = aligned.saturating_add(size).min(range_end).min(after);
        (aligned.max(range.start.0).max(before), end)
    }

    fn text(&self, start: u64, length: u64) -> Result<Vec<u8>, BlockError> {
        let width = if length.is_multiple_of(8) { 8 } else { 1 };
        let unit = if width == 8 { 'g' } else { 'b' };
        let command = format!("xp /{}{unit}x {start:#x}", length / width as u64);
        let text = self.monitor.qmp().execute_hmp(&command, self.within)?;
        parse_text(&text, start, length as usize, width).map_err(BlockError::Text)
    }

    fn dump(&self, start: u64, length: u64) -> Result<Vec<u8>, BlockError> {
        let descriptor = memfd_create("nmiscope", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(std::io::Error::from)?;
        // The seals make larger writes by QEMU fail, so that it cannot fill the host's memory.
        ftruncate(&descriptor, length + DUMP_OVERHEAD).map_err(std::io::Error::from)?;
        fcntl_add_seals(&descriptor, SealFlags::GROW | SealFlags::SHRINK)
            .map_err(std::io::Error::from)?;
        let mut qmp = self.monitor.qmp();
        qmp.pass_descriptor(DESCRIPTOR, descriptor.as_fd(), self.within)?;
        let protocol = format!("fd:{DESCRIPTOR}");
        let arguments =
            json!({ "paging": false, "protocol": protocol, "begin": start, "length": length });
        qmp.execute_with("dump-guest-memory", &arguments, self.within)?;
        read_dump(&File::from(descriptor), start, length).map_err(BlockError::Dump)
    }
}

impl PhysicalMemory for MonitorMemory {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let mut done = 0;
        while done < length {
            let at = address.0.checked_add(done as u64);
            let range = at.and_then(|at| Some((at, range_at(&self.ranges, at)?)));
            let Some((at, range)) = range else {
                return Err(ReadError::Unbacked { address, length });
            };
            let copied = self.copy_cached(at, &mut buffer[done..]);
            if copied == 0 {
                self.fetch(at, range).map_err(|error| {
                    let reason = match std::error::Error::source(&error) {
                        Some(cause) => format!("{error}: {cause}"),
                        None => error.to_string(),
                    };
                    ReadError::Target { address, length, reason }
                })?;
            }
            done += copied;
        }
        Ok(())
    }
}

fn range_at(ranges: &[MappedRange], address: u64) -> Option<MappedRange> {
    let behind = ranges.partition_point(|range| range.start.0 <= address);
    let range = *ranges.get(behind.checked_sub(1)?)?;
    (address - range.start.0 < range.length).then_some(range)
}

/// Parses the text of `xp` into `length` bytes. A line looks like
/// `0000000000100000: 0x0000000000000000 0x0000000000000000`; each value has `width` bytes. The error is
/// the first unexpected line.
fn parse_text(text: &str, start: u64, length: usize, width: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(length);
    for line in text.lines() {
        parse_line(line, start, length, width, &mut bytes)
            .ok_or_else(|| excerpt(line.as_bytes()))?;
    }
    if bytes.len() == length { Ok(bytes) } else { Err("(end of the text)".to_owned()) }
}

/// Appends the bytes of a line to `bytes`; `None` if it does not continue them or is malformed.
fn parse_line(
    line: &str,
    start: u64,
    length: usize,
    width: usize,
    bytes: &mut Vec<u8>,
) -> Option<()> {
    let (address, values) = line.split_once(": ")?;
    let expected = start.checked_add(bytes.len() as u64)?;
    (u64::from_str_radix(address, 16).ok()? == expected).then_some(())?;
    for value in values.trim_end().split(' ') {
        let digits = value.strip_prefix("0x").filter(|digits| digits.len() == 2 * width)?;
        // `from_str_radix` would accept a sign.
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        let value = u64::from_str_radix(digits, 16).ok()?.to_le_bytes();
        (bytes.len() + width <= length).then_some(())?;
        bytes.extend_from_slice(&value[..width]);
    }
    Some(())
}

/// Reads one range of guest-physical memory from an ELF core of QEMU. The error names the defect.
fn read_dump(file: &File, start: u64, length: u64) -> Result<Vec<u8>, &'static str> {
    let cache = ReadCache::new(file);
    let header =
        FileHeader64::<Endianness>::parse(&cache).map_err(|_| "it is not a 64-bit ELF file")?;
    let endian = header.endian().map_err(|_| "its byte order is unknown")?;
    let segments =
        header.program_headers(endian, &cache).map_err(|_| "its program headers are cut off")?;
    let memory = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD);
    let offset = memory
        .filter_map(|segment| {
            let skipped = start.checked_sub(segment.p_paddr(endian))?;
            let end = skipped.checked_add(length)?;
            (end <= segment.p_filesz(endian))
                .then_some(segment.p_offset(endian).checked_add(skipped)?)
        })
        .next()
        .ok_or("it lacks the range")?;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset).map_err(|_| "its memory is cut off")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_LINES: &str = "0000000000001000: 0x0123456789abcdef 0x00000000000000ff\n\
                             0000000000001010: 0x8000000000000001\n";

    #[test]
    fn text_of_xp_becomes_little_endian_bytes() {
        let bytes = parse_text(TWO_LINES, 0x1000, 24, 8).expect("memory");
        assert_eq!(bytes[..8], [0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
        assert_eq!(bytes[8..], [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x80]);
        let bytes = parse_text("00000007: 0x01 0x02 0x03\n", 7, 3, 1).expect("memory");
        assert_eq!(bytes, [1, 2, 3]);
    }

    #[test]
    fn text_of_another_length_or_address_is_refused() {
        for (start, length, width) in
            [(0x1000, 16, 8), (0x1000, 32, 8), (0x1008, 24, 8), (0x1000, 24, 1)]
        {
            parse_text(TWO_LINES, start, length, width).expect_err("refused");
        }
        for text in ["", "Cannot access memory\n", "1000: 0x+123456789abcde\n", "1000:\n"] {
            parse_text(text, 0x1000, 8, 8).expect_err("refused");
        }
    }
}
