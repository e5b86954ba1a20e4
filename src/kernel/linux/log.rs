//! The kernel's log: the printk ring buffer (kernel/printk/printk_ringbuffer.c).
//!
//! Owns the walk from the oldest descriptor to the newest and the finding of each record's text. Refuses to own
//! what records say. Kernels from 5.10 on have this buffer; a record that was being written is left out.

use std::time::Duration;

use nmiscope_machine::{VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError, Kallsyms};

use crate::kernel::{Log, LogError, LogRecord};

/// Bits of a descriptor's state variable that number it; the two above have its state (`DESC_ID_MASK`).
const ID_MASK: u64 = (1 << 62) - 1;
/// States of a descriptor whose text is whole (`enum desc_state`).
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// The most descriptors that a buffer is believed to have: CONFIG_LOG_BUF_SHIFT is 25 at most, and a record takes
/// 32 bytes.
const MAX_COUNT_BITS: u32 = 20;
/// The most text bytes that a buffer is believed to have, by their exponent.
const MAX_SIZE_BITS: u32 = 31;
/// The longest text of a record: PRINTKRB_RECORD_MAX is 1 KiB.
const LONGEST_TEXT: u64 = 4 << 10;

/// The places of what the walk reads, in bytes from the beginning of each structure.
#[derive(Debug, Clone)]
pub(super) struct LogLayout {
    /// The guest-virtual address of `prb`, a pointer to the ring buffer in use.
    buffer: VirtualAddress,
    descriptors: u64,
    infos: u64,
    head: u64,
    tail: u64,
    count_bits: u64,
    data: u64,
    data_size_bits: u64,
    descriptor: Descriptor,
    info: Info,
}

#[derive(Debug, Clone, Copy)]
struct Descriptor {
    size: u64,
    state: u64,
    begin: u64,
}

#[derive(Debug, Clone, Copy)]
struct Info {
    size: u64,
    time: u64,
    sequence: u64,
    length: u64,
    /// The bits of the level: the byte, the lowest bit in it, and their number.
    level: (u64, u8, u8),
    caller: Option<u64>,
}

impl LogLayout {
    /// Finds the ring buffer of a kernel by its symbols and types.
    pub(super) fn new(symbols: &Kallsyms, btf: &Btf) -> Result<Option<Self>, BtfError> {
        let Some(buffer) = symbols.address_of("prb") else { return Ok(None) };
        let at = |structure: &str, path: &str| Ok(btf.field(structure, path)?.offset);
        let ring = at("printk_ringbuffer", "desc_ring")?;
        let text = at("printk_ringbuffer", "text_data_ring")?;
        let level = btf.field("printk_info", "level")?;
        Ok(Some(Self {
            buffer,
            descriptors: ring + at("prb_desc_ring", "descs")?,
            infos: ring + at("prb_desc_ring", "infos")?,
            head: ring + at("prb_desc_ring", "head_id")?,
            tail: ring + at("prb_desc_ring", "tail_id")?,
            count_bits: ring + at("prb_desc_ring", "count_bits")?,
            data: text + at("prb_data_ring", "data")?,
            data_size_bits: text + at("prb_data_ring", "size_bits")?,
            descriptor: Descriptor {
                size: btf.size_of("prb_desc")?,
                state: at("prb_desc", "state_var")?,
                begin: at("prb_desc", "text_blk_lpos.begin")?,
            },
            info: Info {
                size: btf.size_of("printk_info")?,
                time: at("printk_info", "ts_nsec")?,
                sequence: at("printk_info", "seq")?,
                length: at("printk_info", "text_len")?,
                level: (level.offset, level.bit, level.bits),
                caller: at("printk_info", "caller_id").ok(),
            },
        }))
    }

    /// Reads all records, oldest first.
    pub(super) fn read(&self, memory: &dyn VirtualMemory) -> Result<Log, LogError> {
        let buffer = memory.read_u64(self.buffer)?;
        let word = |at: u64| memory.read_u64(VirtualAddress(buffer.wrapping_add(at)));
        let bits = |at: u64| memory.read_u32(VirtualAddress(buffer.wrapping_add(at)));
        let (count_bits, size_bits) = (bits(self.count_bits)?, bits(self.data_size_bits)?);
        if count_bits > MAX_COUNT_BITS || size_bits > MAX_SIZE_BITS {
            return Err(LogError::Malformed("its ring buffer has an impossible size"));
        }
        let ring = Ring {
            layout: self,
            memory,
            descriptors: word(self.descriptors)?,
            infos: word(self.infos)?,
            data: word(self.data)?,
            count: 1 << count_bits,
            size: 1 << size_bits,
        };
        let (head, tail) = (word(self.head)? & ID_MASK, word(self.tail)? & ID_MASK);
        let live = (head.wrapping_sub(tail) & ID_MASK).saturating_add(1);
        if live > ring.count {
            return Err(LogError::Malformed("its oldest record is newer than its newest"));
        }
        let mut log = Log::default();
        let mut first = None;
        for number in 0..live {
            let Some((sequence, record)) = ring.record(tail.wrapping_add(number) & ID_MASK)? else {
                continue;
            };
            first.get_or_insert(sequence);
            let line = |text: &str| LogRecord { text: text.to_owned(), ..record.clone() };
            log.records.extend(record.text.split('\n').map(line));
        }
        log.lost = first.unwrap_or(0);
        Ok(log)
    }
}

/// A ring buffer at one moment. Addresses are guest-virtual.
struct Ring<'a> {
    layout: &'a LogLayout,
    memory: &'a dyn VirtualMemory,
    descriptors: u64,
    infos: u64,
    data: u64,
    count: u64,
    size: u64,
}

impl Ring<'_> {
    /// The record of a descriptor with its sequence number; `None` for one that holds no whole text.
    fn record(&self, id: u64) -> Result<Option<(u64, LogRecord)>, LogError> {
        let LogLayout { descriptor, info, .. } = self.layout;
        let index = id & (self.count - 1);
        let descriptor_at = self.descriptors.wrapping_add(index * descriptor.size);
        let info_at = self.infos.wrapping_add(index * info.size);
        let word = |at: u64| self.memory.read_u64(VirtualAddress(at));
        let state = word(descriptor_at.wrapping_add(descriptor.state))?;
        if state & ID_MASK != id || !matches!(state >> 62, COMMITTED | FINALIZED) {
            return Ok(None);
        }
        let begin = word(descriptor_at.wrapping_add(descriptor.begin))?;
        let next = word(descriptor_at.wrapping_add(descriptor.begin + 8))?;
        let mut length = [0; 2];
        self.memory.read(VirtualAddress(info_at.wrapping_add(info.length)), &mut length)?;
        // Odd positions mark a record whose text was dropped or is empty (`NO_LPOS`, `FAILED_LPOS`).
        let text = match begin & 1 {
            0 => self.text(begin, next, u16::from_le_bytes(length).into())?,
            _ => String::new(),
        };
        let (level_at, bit, bits) = info.level;
        let mut level = [0];
        self.memory.read(VirtualAddress(info_at.wrapping_add(level_at)), &mut level)?;
        let level = level[0].wrapping_shr(bit.into()) & ((1u16 << bits.min(8)) - 1) as u8;
        let caller =
            info.caller.map(|at| self.memory.read_u32(VirtualAddress(info_at.wrapping_add(at))));
        // Bit 31 marks a CPU; without it the number is a task's.
        let cpu = caller
            .transpose()?
            .filter(|caller| caller >> 31 != 0)
            .map(|caller| caller & !(1 << 31));
        let uptime = Duration::from_nanos(word(info_at.wrapping_add(info.time))?);
        let sequence = word(info_at.wrapping_add(info.sequence))?;
        Ok(Some((sequence, LogRecord { uptime, cpu, level, text })))
    }

    /// The text of a block between two logical positions. A block that would wrap lies at the beginning of the
    /// buffer instead. Its first word is the descriptor's number.
    fn text(&self, begin: u64, next: u64, length: u64) -> Result<String, LogError> {
        let (begin, next) = (begin & (self.size - 1), next & (self.size - 1));
        let begin = if begin > next { 0 } else { begin };
        let length = length.min(next.saturating_sub(begin + 8)).min(LONGEST_TEXT);
        let mut text = vec![0; length as usize];
        self.memory.read(VirtualAddress(self.data.wrapping_add(begin + 8)), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
