//! Structures of the bundled guest, located in one guest's memory, and the operations on them.
//!
//! Owns the guest-physical addresses; refuses to own how they are found (the parent module) and when they
//! are used (`capture`, `session`).

use nmiscope_guest::abi::RESERVED_BY_HYPERVISOR;
use nmiscope_guest::printk;
use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalAddress, PhysicalMemory, ReadError, Registers,
    VirtualAddress, VirtualMemory,
};
use nmiscope_symbolizer::TypeError;

use super::activity::ActivityPlaces;
use super::addresses::MAX_CPUS;
use super::log::LogPlace;
use crate::kernel::adapter::{Depth, Located};
use crate::kernel::log::{Log, LogError};
use crate::kernel::nmi_buffers::{BufferOwner, Holder, NmiBuffers, NoBuffer, SeqBuf};
use crate::kernel::state::KernelState;
use crate::targets::{NoSuchWord, Words};

/// The largest NMI buffer, in bytes; a larger one is garbage.
const MAX_BUFFER: u64 = 1 << 20;

/// Located structures of the bundled guest.
#[derive(Debug)]
pub(super) struct LocatedBundled {
    /// The page tables through which they were found.
    pub(super) tables: PageTables,
    pub(super) reservation: ReservationPlace,
    /// The places by CPU number, or the reason why a CPU's variables were not found.
    pub(super) cpus: Vec<Result<CpuPlaces, TypeError>>,
    pub(super) activity: ActivityPlaces,
    pub(super) log: LogPlace,
    /// The kernel's data, and the template of its per-CPU data: guest-virtual address and length in
    /// bytes.
    pub(super) data: Option<(VirtualAddress, u64)>,
    pub(super) template: Option<(VirtualAddress, u64)>,
}

/// Addresses of `nmi_print_flag`, and of the clock that dates it.
#[derive(Debug)]
pub(super) struct ReservationPlace {
    pub(super) owner: PhysicalAddress,
    pub(super) wanted: PhysicalAddress,
    pub(super) since: PhysicalAddress,
    pub(super) clock_tsc_base: PhysicalAddress,
    pub(super) clock_ns_per_tsc: PhysicalAddress,
}

/// Addresses of one CPU's variables.
#[derive(Debug)]
pub(super) struct CpuPlaces {
    /// The distance from the template to this CPU's copy, in bytes.
    pub(super) offset: u64,
    pub(super) online: PhysicalAddress,
    pub(super) nmi_count: PhysicalAddress,
    pub(super) seq_buf: SeqBufPlace,
}

/// Addresses of a CPU's `nmi_print_seq`.
#[derive(Debug)]
pub(super) struct SeqBufPlace {
    pub(super) owner: PhysicalAddress,
    pub(super) missed: PhysicalAddress,
    pub(super) len: PhysicalAddress,
    pub(super) lost: PhysicalAddress,
    pub(super) buffer: VirtualAddress,
    pub(super) buffer_size: u64,
}

impl Located for LocatedBundled {
    fn state(
        &self,
        memory: &dyn PhysicalMemory,
        _vcpus: &[Option<Registers>],
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        self.activity.read(memory, self.tables, depth)
    }

    fn address_space(&self) -> PageTables {
        self.tables
    }

    /// Returns the kernel's own data, which includes its log, and each CPU's.
    fn own_memory(&self) -> Vec<(VirtualAddress, u64)> {
        let copies = self.template.into_iter().flat_map(|(start, length)| {
            let cpus = self.cpus.iter().flatten();
            cpus.map(move |cpu| (start.wrapping_add(cpu.offset), length))
        });
        self.data.into_iter().chain(copies).collect()
    }

    fn log(&self, memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        Some(self.log.read(&GuestVirtual::new(memory, self.tables)))
    }

    fn nmi_buffers(&self) -> Option<&dyn NmiBuffers> {
        Some(self)
    }
}

impl LocatedBundled {
    fn cpu(&self, cpu: u32) -> Result<&CpuPlaces, NoBuffer> {
        match self.cpus.get(cpu as usize) {
            Some(Ok(places)) => Ok(places),
            Some(Err(reason)) => Err(NoBuffer::NotFound(reason.clone())),
            None => Err(NoBuffer::NoSuchCpu { cpus: self.cpus.len() }),
        }
    }
}

impl NmiBuffers for LocatedBundled {
    fn is_online(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<bool> {
        Some(memory.read_u32(self.cpu(cpu).ok()?.online).ok()? != 0)
    }

    fn nmi_count(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<u64> {
        memory.read_u64(self.cpu(cpu).ok()?.nmi_count).ok()
    }

    /// Reads the text through the kernel's page tables, and the words by their physical addresses.
    fn read(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Result<SeqBuf, NoBuffer> {
        let place = &self.cpu(cpu)?.seq_buf;
        let word = |address| memory.read_u32(address);
        let claimed_len = word(place.len)?;
        let capacity = place.buffer_size.min(MAX_BUFFER) as u32;
        let mut text = vec![0; claimed_len.min(capacity) as usize];
        GuestVirtual::new(memory, self.tables).read(place.buffer, &mut text)?;
        Ok(SeqBuf {
            text,
            claimed_len,
            capacity,
            lost: word(place.lost)?,
            missed: word(place.missed)?,
            owner: decode_owner(word(place.owner)?),
        })
    }

    fn peek(&self, memory: &dyn PhysicalMemory, cpu: u32) -> Option<(BufferOwner, u32)> {
        let place = &self.cpu(cpu).ok()?.seq_buf;
        Some((decode_owner(memory.read_u32(place.owner).ok()?), memory.read_u32(place.len).ok()?))
    }

    fn wipe(&self, words: &dyn Words, cpu: u32) -> bool {
        let Ok(CpuPlaces { seq_buf: place, .. }) = self.cpu(cpu) else { return false };
        let mut fields = [place.missed, place.lost, place.len].into_iter();
        fields.all(|field| words.store(field, 0).is_ok())
    }

    fn try_take(
        &self,
        memory: &dyn PhysicalMemory,
        words: &dyn Words,
    ) -> Result<Result<(), Holder>, NoSuchWord> {
        let place = &self.reservation;
        match words.compare_exchange(place.owner, 0, RESERVED_BY_HYPERVISOR)? {
            Ok(_) => Ok(Ok(())),
            Err(owner) => Ok(Err(Holder {
                cpu: owner.checked_sub(1).filter(|&cpu| u64::from(cpu) < MAX_CPUS),
                since_ns: memory.read_u64(place.since).ok(),
            })),
        }
    }

    fn set_wanted(&self, words: &dyn Words, wanted: bool) -> Result<(), NoSuchWord> {
        words.store(self.reservation.wanted, wanted.into())
    }

    fn release(&self, words: &dyn Words) -> Result<(), NoSuchWord> {
        words.store(self.reservation.owner, 0)
    }

    fn clock_ns(&self, memory: &dyn PhysicalMemory, tsc: u64) -> Option<u64> {
        let base = memory.read_u64(self.reservation.clock_tsc_base).ok()?;
        let scale = memory.read_u64(self.reservation.clock_ns_per_tsc).ok()?;
        let scaled = u128::from(tsc.wrapping_sub(base)) * u128::from(scale);
        Some((scaled >> 32) as u64)
    }
}

fn decode_owner(word: u32) -> BufferOwner {
    match word {
        printk::NMI_PRINT_SEQ_FREE => BufferOwner::Free,
        printk::NMI_PRINT_SEQ_WRITER | printk::NMI_PRINT_SEQ_APPENDING => BufferOwner::Handler,
        printk::NMI_PRINT_SEQ_READER => BufferOwner::Reader,
        garbage => BufferOwner::Garbage(garbage),
    }
}
