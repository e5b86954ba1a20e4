//! The map from guest-physical addresses to addresses in QEMU's process.
//!
//! Owns the parsers of two HMP commands, `info mtree -f` and `gpa2hva` (QEMU, softmmu/memory.c and
//! monitor/misc.c), and the check that their answers agree. Refuses to own reads (`process_memory`).
//!
//! A map is valid for one moment: below 1 MiB it changes while a PC boots, and memory may be hot-plugged
//! or unplugged. Make a new map for each capture.

use std::time::Duration;

use nmiscope_machine::PhysicalAddress;
use serde::Deserialize;

use crate::qmp::{Qmp, QmpError, excerpt};
use crate::status::query;

/// Maximum number of ranges in a map: a VM with all memory slots in use has some 300.
const MAX_RANGES: usize = 4096;
/// Number of attempts to query the map while firmware changes it.
const TRIES: usize = 5;
/// Names of the machine's own RAM and firmware blocks, which are no memory backends.
const MACHINE_BLOCKS: [&str; 4] = ["pc.ram", "pc.rom", "pc.bios", "microvm.ram"];

/// A range of guest-physical memory and the QEMU memory block mapped there: a line of `info mtree -f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatRange {
    /// First guest-physical address of the range.
    pub start: PhysicalAddress,
    /// Length in bytes, never 0.
    pub length: u64,
    /// Name of the QEMU memory block.
    pub block: String,
    /// Offset of the range's first byte in its block.
    pub offset: u64,
}

/// A range of guest-physical memory and its address in QEMU's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedRange {
    /// First guest-physical address of the range.
    pub start: PhysicalAddress,
    /// Length in bytes, never 0.
    pub length: u64,
    /// Virtual address of the first byte in QEMU's process.
    pub host: u64,
}

/// Error of determining the memory map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The text has no view of the address space `memory`, or more than one.
    #[error(
        "find the guest's memory in QEMU's: \"info mtree -f\" has {0} views of it instead of one"
    )]
    Views(usize),
    /// A line of the view could not be parsed; its beginning is quoted.
    #[error("find the guest's memory in QEMU's: \"info mtree -f\" has the line {0:?}")]
    Line(String),
    /// The range at this address overlaps the previous one, is out of order, or is one too many.
    #[error(
        "find the guest's memory in QEMU's: the range at {0} overlaps another, is out of order, or is one too many"
    )]
    Order(PhysicalAddress),
    /// The view contains no RAM or firmware.
    #[error("find the guest's memory in QEMU's: \"info mtree -f\" has no RAM in it")]
    NoMemory,
    /// The answer to `gpa2hva` could not be parsed or contradicts the view.
    #[error("find guest-physical {address} in QEMU's memory: \"gpa2hva\" answered {answer:?}")]
    Translation {
        /// The guest-physical address to translate.
        address: PhysicalAddress,
        /// The beginning of QEMU's answer.
        answer: String,
    },
    /// The QMP connection or a command on it failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

#[derive(Deserialize)]
struct Backend {
    id: Option<String>,
}

/// Queries the map of the guest's RAM and firmware, in ascending order. Device memory, such as video
/// memory, is omitted. Firmware may turn ROM into RAM between two of the commands, so that their answers
/// contradict each other: then the whole query is repeated.
pub(crate) fn query_map(qmp: &mut Qmp, within: Duration) -> Result<Vec<MappedRange>, MapError> {
    let backends: Vec<Backend> = query(qmp, "query-memdev", within)?;
    let backends: Vec<String> = backends.into_iter().filter_map(|backend| backend.id).collect();
    for _ in 1..TRIES {
        match query_once(qmp, &backends, within) {
            Err(MapError::Translation { .. }) => {}
            result => return result,
        }
    }
    query_once(qmp, &backends, within)
}

fn query_once(
    qmp: &mut Qmp,
    backends: &[String],
    within: Duration,
) -> Result<Vec<MappedRange>, MapError> {
    let ranges = parse_view(&qmp.execute_hmp("info mtree -f", within)?, backends)?;
    let mut mapped = Vec::with_capacity(ranges.len());
    for range in &ranges {
        let answer = qmp.execute_hmp(&format!("gpa2hva {:#x}", range.start.0), within)?;
        let host = parse_translation(&answer, range)?;
        mapped.push(MappedRange { start: range.start, length: range.length, host });
    }
    Ok(mapped)
}

/// Parses the text of `info mtree -f` into the RAM and ROM ranges of the address space `memory`, in
/// ascending order and without overlaps. Only the machine's own blocks and those in `backends` count.
///
/// # Errors
/// [`MapError`] for a text that could not be parsed or is contradictory.
pub fn parse_view(text: &str, backends: &[String]) -> Result<Vec<FlatRange>, MapError> {
    let is_of_memory = |view: &&str| view.lines().any(|line| line.starts_with(" AS \"memory\","));
    let views: Vec<&str> = text.split("FlatView #").filter(is_of_memory).collect();
    let [view] = views[..] else { return Err(MapError::Views(views.len())) };
    let mut ranges: Vec<FlatRange> = Vec::new();
    for line in view.lines().filter(|line| line.starts_with("  ")) {
        let bad = || MapError::Line(excerpt(line.as_bytes()));
        let Some(range) = parse_range(line, backends).ok_or_else(bad)? else { continue };
        let end = ranges.last().map_or(0, |last| last.start.0.saturating_add(last.length));
        if range.start.0 < end || ranges.len() == MAX_RANGES {
            return Err(MapError::Order(range.start));
        }
        ranges.push(range);
    }
    if ranges.is_empty() { Err(MapError::NoMemory) } else { Ok(ranges) }
}

/// Parses a line such as
/// `  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @00000000c0000000 KVM`.
/// Returns the outer `None` for a malformed line, and the inner one for a range that is not guest memory.
fn parse_range(line: &str, backends: &[String]) -> Option<Option<FlatRange>> {
    let (range, rest) = line.trim_start().split_once(" (prio ")?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (hex16(first)?, hex16(last)?);
    let (_priority, rest) = rest.split_once(", ")?;
    let (kind, rest) = rest.split_once("): ")?;
    // "romd" is flash that a device emulates, and "ramd" is device memory: neither is guest memory.
    // The prefix "nv-" marks the nonvolatile memory of an NVDIMM.
    if !matches!(kind.strip_prefix("nv-").unwrap_or(kind), "ram" | "rom") {
        return Some(None);
    }
    let mut words = rest.split(' ');
    let block = words.next()?;
    if !MACHINE_BLOCKS.contains(&block) && !backends.iter().any(|id| id == block) {
        return Some(None);
    }
    let mut offset = 0;
    for word in words {
        match word.strip_prefix('@') {
            Some(number) => offset = hex16(number)?,
            // The name of the accelerator, such as KVM.
            None => word.bytes().all(|byte| byte.is_ascii_alphabetic()).then_some(())?,
        }
    }
    // A range over the whole 64-bit address space has a length that does not fit, and is no memory.
    let length = last.checked_sub(first)?.checked_add(1)?;
    offset.checked_add(length)?;
    let block = block.to_owned();
    Some(Some(FlatRange { start: PhysicalAddress(first), length, block, offset }))
}

fn hex16(text: &str) -> Option<u64> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok())?
}

/// Parses the answer to `gpa2hva` for a range's first address, such as
/// `Host virtual address for 0x100000 (pc.ram) is 0x7f3d3bf00000`, into the address in QEMU's process.
///
/// # Errors
/// [`MapError::Translation`] unless the answer names this address and this block, and the whole range
/// lies in the lower half of the address space, the half of user space.
pub fn parse_translation(answer: &str, range: &FlatRange) -> Result<u64, MapError> {
    let host = || {
        let rest = answer.trim_end().strip_prefix("Host virtual address for ")?;
        let rest = rest.strip_prefix(&format!("{:#x} (", range.start.0))?;
        let address = rest.strip_prefix(&range.block)?.strip_prefix(") is 0x")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let end = address.checked_add(range.length)?;
        (address >= range.offset && end <= 1 << 63).then_some(address)
    };
    host().ok_or_else(|| MapError::Translation {
        address: range.start,
        answer: excerpt(answer.as_bytes()),
    })
}
