//! Adapter of the bundled guest.
//!
//! Locates structures in two steps, from two sources. [`BundledKernel::find`] gets virtual addresses from
//! the image, once. Its `locate` gets page tables and per-CPU offsets from a stopped guest, and
//! translates the addresses to guest-physical ones (`located`), which can then be read while the guest
//! runs.
//!
//! Owns the lookup of both; refuses to own operations on the structures (`located`) and the meaning of
//! codes (`vocabulary`). Called through the traits of `kernel::adapter`.

mod activity;
mod addresses;
mod call_trace;
mod located;
mod log;
mod vocabulary;

use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalMemory, Registers, VirtualAddress, VirtualMemory,
};
use nmiscope_symbolizer::{Image, TypeError, Types};

use self::addresses::{MAX_CPUS, address, physical};
use self::located::{CpuPlaces, LocatedBundled, ReservationPlace, SeqBufPlace};
use self::log::LogPlace;
use super::adapter::{KernelAdapter, LocateError, Located};
use super::vocabulary::Vocabulary;
use crate::targets::NoAnswer;
pub(super) use vocabulary::BundledVocabulary;
pub use vocabulary::{DOORBELLS, Doorbells};

/// Addresses in the image; for per-CPU variables, those in the template.
#[derive(Debug)]
pub struct BundledKernel {
    nr_cpu_ids: VirtualAddress,
    per_cpu_offset: VirtualAddress,
    per_cpu_offset_stride: u64,
    per_cpu_offset_count: u64,
    reservation_owner: VirtualAddress,
    reservation_wanted: VirtualAddress,
    reservation_since: VirtualAddress,
    clock_tsc_base: VirtualAddress,
    clock_ns_per_tsc: VirtualAddress,
    per_cpu: PerCpu,
    activity: activity::ActivityLayout,
    log: LogPlace,
    /// The kernel's data, and the template of its per-CPU data: guest-virtual address and length in
    /// bytes.
    data: Option<(VirtualAddress, u64)>,
    template: Option<(VirtualAddress, u64)>,
}

#[derive(Debug)]
struct PerCpu {
    cpu_online: VirtualAddress,
    nmi_count: VirtualAddress,
    seq_owner: VirtualAddress,
    seq_missed: VirtualAddress,
    seq_len: VirtualAddress,
    seq_lost: VirtualAddress,
    seq_buffer: VirtualAddress,
    seq_buffer_size: u64,
}

impl BundledKernel {
    /// The symbol that distinguishes the bundled guest from other kernels.
    pub const MARK: &str = "nmi_print_seq";

    /// Finds the structures by name in the image's debug information.
    ///
    /// # Errors
    /// A structure is not in the image. The error is the first one's.
    pub fn find(image: &Image<'_>) -> Result<Self, TypeError> {
        let types = Types::new(image)?;
        let offsets = types.variable("__per_cpu_offset")?;
        let printk = types.variable("PRINTK")?;
        let clock = types.variable("sched_clock")?;
        let seq = types.variable(Self::MARK)?;
        let buffer = seq.field("seq.buffer")?;
        Ok(Self {
            nr_cpu_ids: address(&types, "nr_cpu_ids")?,
            per_cpu_offset: offsets.address(),
            per_cpu_offset_stride: offsets.index(1)?.address().0 - offsets.address().0,
            per_cpu_offset_count: offsets.ty().count()?.unwrap_or(0).min(MAX_CPUS),
            reservation_owner: printk.field("nmi_print_flag.owner")?.address(),
            reservation_wanted: printk.field("nmi_print_flag.hypervisor_waits")?.address(),
            reservation_since: printk.field("nmi_print_flag.since_ns")?.address(),
            clock_tsc_base: clock.field("tsc_base")?.address(),
            clock_ns_per_tsc: clock.field("ns_per_tsc_shifted")?.address(),
            per_cpu: PerCpu {
                cpu_online: address(&types, "cpu_online")?,
                nmi_count: address(&types, "nmi_count")?,
                seq_owner: seq.field("owner")?.address(),
                seq_missed: seq.field("missed")?.address(),
                seq_len: seq.field("seq.len")?.address(),
                seq_lost: seq.field("seq.lost")?.address(),
                seq_buffer: buffer.address(),
                seq_buffer_size: buffer.ty().size().unwrap_or(0),
            },
            activity: activity::ActivityLayout::find(&types)?,
            log: LogPlace::find(&printk, &types)?,
            data: range(image, "_sdata", "_end"),
            template: range(image, "__per_cpu_start", "__per_cpu_end"),
        })
    }

    fn locate_by(
        &self,
        memory: &dyn PhysicalMemory,
        tables: PageTables,
    ) -> Result<LocatedBundled, TypeError> {
        let memory = GuestVirtual::new(memory, tables);
        let reservation = ReservationPlace {
            owner: physical(&memory, self.reservation_owner)?,
            wanted: physical(&memory, self.reservation_wanted)?,
            since: physical(&memory, self.reservation_since)?,
            clock_tsc_base: physical(&memory, self.clock_tsc_base)?,
            clock_ns_per_tsc: physical(&memory, self.clock_ns_per_tsc)?,
        };
        let possible = u64::from(memory.read_u32(self.nr_cpu_ids)?);
        let cpus: Vec<Result<CpuPlaces, TypeError>> = (0..possible.min(self.per_cpu_offset_count))
            .map(|cpu| self.locate_cpu(&memory, cpu))
            .collect();
        let offsets = cpus.iter().map(|cpu| Some(cpu.as_ref().ok()?.offset));
        let activity = self.activity.locate(&memory, offsets)?;
        let (log, data, template) = (self.log, self.data, self.template);
        Ok(LocatedBundled { tables, reservation, cpus, activity, log, data, template })
    }

    fn locate_cpu<M: PhysicalMemory + ?Sized>(
        &self,
        memory: &GuestVirtual<'_, M>,
        cpu: u64,
    ) -> Result<CpuPlaces, TypeError> {
        let slot = self.per_cpu_offset.wrapping_add(cpu * self.per_cpu_offset_stride);
        let offset = memory.read_u64(slot)?;
        let place = |template: VirtualAddress| physical(memory, template.wrapping_add(offset));
        let per_cpu = &self.per_cpu;
        Ok(CpuPlaces {
            offset,
            online: place(per_cpu.cpu_online)?,
            nmi_count: place(per_cpu.nmi_count)?,
            seq_buf: SeqBufPlace {
                owner: place(per_cpu.seq_owner)?,
                missed: place(per_cpu.seq_missed)?,
                len: place(per_cpu.seq_len)?,
                lost: place(per_cpu.seq_lost)?,
                buffer: per_cpu.seq_buffer.wrapping_add(offset),
                buffer_size: per_cpu.seq_buffer_size,
            },
        })
    }
}

impl KernelAdapter for BundledKernel {
    fn unknown_because(&self) -> Option<&str> {
        None
    }

    fn vocabulary(&self) -> &dyn Vocabulary {
        &BundledVocabulary
    }

    /// Locates the structures. A CPU whose per-CPU variables are not mapped has the reason in its own
    /// entry.
    fn locate(
        &self,
        memory: &dyn PhysicalMemory,
        registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError> {
        let mut last = LocateError::NoRegisters;
        for registers in registers {
            let located = registers
                .map_err(LocateError::from)
                .and_then(|registers| Ok(self.locate_by(memory, registers.page_tables()?)?));
            match located {
                Ok(places) => return Ok(Box::new(places)),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }
}

/// Returns the range between two symbols of the linker script, bounded since they may be garbage; no
/// kernel has as much as the bound.
fn range(image: &Image<'_>, start: &str, end: &str) -> Option<(VirtualAddress, u64)> {
    const MOST: u64 = 16 << 20;
    let (start, end) = (image.symbol(start)?.address, image.symbol(end)?.address);
    Some((start, end.0.checked_sub(start.0)?.min(MOST)))
}
