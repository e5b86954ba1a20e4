//! Log of the bundled guest: a ring of records (`guest/src/printk/log.rs`).
//!
//! Owns its layout and the walk along it. The guest may have overwritten it: no number in it is trusted
//! beyond the ring.

use std::time::Duration;

use nmiscope_machine::{VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::{Place, TypeError, Types};

use crate::kernel::log::{Log, LogError, LogRecord};

/// The largest ring, in bytes; a larger one is garbage.
const MAX_RING: u64 = 1 << 20;

/// Guest-virtual addresses of the log's words and of its ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogPlace {
    head: VirtualAddress,
    tail: VirtualAddress,
    first_seq: VirtualAddress,
    next_seq: VirtualAddress,
    ring: VirtualAddress,
    ring_size: u64,
    header: HeaderLayout,
}

/// Offsets in a `RecordHeader`, in bytes.
#[derive(Debug, Clone, Copy)]
struct HeaderLayout {
    size: u64,
    ts_ns: u64,
    cpu: u64,
    text_len: u64,
    level: u64,
}

impl LogPlace {
    /// Finds the log's addresses in `PRINTK`.
    pub(super) fn find(printk: &Place<'_>, types: &Types<'_>) -> Result<Self, TypeError> {
        let log = printk.field("log.data")?;
        let part = |name| log.field(name).map(|part| part.address());
        let ring = log.field("buf")?;
        let ty = types.type_named("RecordHeader")?;
        let size = ty.size().unwrap_or(0);
        let header = Place::new(VirtualAddress(0), ty);
        let offset = |name| header.field(name).map(|part| part.address().0);
        Ok(Self {
            head: part("head")?,
            tail: part("tail")?,
            first_seq: part("first_seq")?,
            next_seq: part("next_seq")?,
            ring: ring.address(),
            ring_size: ring.ty().size().unwrap_or(0),
            header: HeaderLayout {
                size,
                ts_ns: offset("ts_ns")?,
                cpu: offset("cpu")?,
                text_len: offset("text_len")?,
                level: offset("level")?,
            },
        })
    }

    /// Reads all records that have not been overwritten.
    pub(super) fn read(&self, memory: &dyn VirtualMemory) -> Result<Log, LogError> {
        if !self.ring_size.is_power_of_two() || self.ring_size > MAX_RING || self.header.size == 0 {
            return Err(LogError::Malformed("its ring has an impossible size"));
        }
        let (head, mut tail) = (memory.read_u64(self.head)?, memory.read_u64(self.tail)?);
        let (first, next) = (memory.read_u64(self.first_seq)?, memory.read_u64(self.next_seq)?);
        if head.wrapping_sub(tail) > self.ring_size {
            return Err(LogError::Malformed("it has more in its ring than the ring can hold"));
        }
        let mut bytes = vec![0; self.ring_size as usize];
        memory.read(self.ring, &mut bytes)?;
        let ring = Ring(&bytes);
        let mut log = Log { records: Vec::new(), lost: first };
        // Each record is at least as long as its header, so that this ends with the ring.
        while head.wrapping_sub(tail) >= self.header.size {
            let length = u64::from(u16::from_le_bytes(ring.at(tail + self.header.text_len)));
            let text = tail.wrapping_add(self.header.size);
            tail = text.wrapping_add(length);
            if head.wrapping_sub(text) < length {
                return Err(LogError::Malformed("a record is longer than what is in the ring"));
            }
            log.records.push(self.record(&ring, text, length));
        }
        match next.wrapping_sub(first) == log.records.len() as u64 {
            true => Ok(log),
            false => Err(LogError::Malformed("it has another number of records than it says")),
        }
    }

    fn record(&self, ring: &Ring<'_>, text: u64, length: u64) -> LogRecord {
        let at = |offset: u64| text.wrapping_sub(self.header.size).wrapping_add(offset);
        let bytes: Vec<u8> = (0..length).map(|index| ring.byte(text.wrapping_add(index))).collect();
        LogRecord {
            uptime: Duration::from_nanos(u64::from_le_bytes(ring.at(at(self.header.ts_ns)))),
            cpu: Some(u32::from_le_bytes(ring.at(at(self.header.cpu)))),
            level: ring.byte(at(self.header.level)),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

/// Bytes of the ring, indexed by the number of bytes written before; their number is a power of two.
struct Ring<'a>(&'a [u8]);

impl Ring<'_> {
    fn byte(&self, position: u64) -> u8 {
        self.0[position as usize & (self.0.len() - 1)]
    }

    fn at<const N: usize>(&self, position: u64) -> [u8; N] {
        std::array::from_fn(|index| self.byte(position.wrapping_add(index as u64)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nmiscope_machine::ReadError;

    use super::*;

    /// Memory with bytes at guest-virtual addresses; all others are zero.
    struct Memory(BTreeMap<u64, u8>);

    impl VirtualMemory for Memory {
        fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
            for (at, byte) in (address.0..).zip(buffer) {
                *byte = self.0.get(&at).copied().unwrap_or(0);
            }
            Ok(())
        }
    }

    fn place() -> LogPlace {
        let word = |index: u64| VirtualAddress(index * 8);
        LogPlace {
            head: word(0),
            tail: word(1),
            first_seq: word(2),
            next_seq: word(3),
            ring: word(4),
            ring_size: 512,
            header: HeaderLayout { size: 24, ts_ns: 8, cpu: 16, text_len: 20, level: 22 },
        }
    }

    fn put(memory: &mut Memory, at: u64, bytes: &[u8]) {
        memory.0.extend((at..).zip(bytes.iter().copied()));
    }

    /// Makes a ring of 512 bytes with these lines in it, after `before` bytes.
    fn memory(lines: &[&str], before: u64) -> Memory {
        let mut memory = Memory(BTreeMap::new());
        let mut position = before;
        for (seq, line) in (0..).zip(lines) {
            let seq: u64 = seq;
            let mut record = Vec::new();
            record.extend(seq.to_le_bytes());
            record.extend((seq * 1_000_000).to_le_bytes());
            record.extend(3_u32.to_le_bytes());
            record.extend((line.len() as u16).to_le_bytes());
            record.extend([6, 0]);
            record.extend(line.bytes());
            for byte in record {
                put(&mut memory, 32 + position % 512, &[byte]);
                position += 1;
            }
        }
        for (index, word) in (0..).zip([position, before, 5, 5 + lines.len() as u64]) {
            let index: u64 = index;
            put(&mut memory, index * 8, &word.to_le_bytes());
        }
        memory
    }

    fn texts(log: &Log) -> Vec<&str> {
        log.records.iter().map(|record| record.text.as_str()).collect()
    }

    #[test]
    fn records_are_read_across_the_end_of_the_ring() {
        let log = place().read(&memory(&["first", "", "third"], 500)).expect("a log");
        assert_eq!(texts(&log), ["first", "", "third"]);
        assert_eq!(log.lost, 5);
        let third = &log.records[2];
        assert_eq!((third.uptime, third.cpu, third.level), (Duration::from_millis(2), Some(3), 6));
    }

    #[test]
    fn contradicting_numbers_are_refused() {
        // The head, a record's length, the number of records.
        for (at, value) in [(0, 0xff), (32 + 20, 0xff), (3 * 8, 0x55)] {
            let mut memory = memory(&["first", "second"], 0);
            put(&mut memory, at, &[value, 0xff]);
            let error = place().read(&memory).expect_err("it is damaged");
            assert!(matches!(error, LogError::Malformed(_)), "{error}");
        }
    }
}
