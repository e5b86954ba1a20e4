//! The bundled guest: where its structures lie.
//!
//! Two steps, since two different things have to be known. [`Bundled::find`] asks the image, once,
//! for virtual addresses. [`Bundled::locate`] asks a stopped guest for its page tables and per-CPU
//! offsets, and turns them into guest-physical addresses, which can then be read while it runs.

mod activity;

pub use activity::Depth;

use nmiscope_guest::abi::RESERVED_BY_HYPERVISOR;
use nmiscope_guest::printk;
use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalAddress, PhysicalMemory, ReadError, Registers,
    VirtualAddress, VirtualMemory, WalkError,
};
use nmiscope_symbolizer::{Image, Place, TypeError, Types};
use serde::{Deserialize, Serialize};

use crate::kernel::state::KernelState;
use crate::targets::{NoSuchWord, Words};

/// More CPUs than any kernel here has, and few enough to make a table of.
const MAX_CPUS: u64 = 4096;

/// Addresses in the image; of per-CPU variables, those in the template.
#[derive(Debug)]
pub struct Bundled {
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
    activity: activity::Activity,
    /// The kernel's data, and the template of its per-CPU data: address and length in bytes.
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

/// Guest-physical addresses, good for as long as the guest leaves its page tables alone. One that
/// does not gets wrong numbers, of itself only.
#[derive(Debug)]
pub struct Located {
    /// The page tables by which they were found.
    pub tables: PageTables,
    /// The reservation of the buffers.
    pub reservation: ReservationPlace,
    /// By CPU number; or why a CPU's variables are not to be found.
    pub cpus: Vec<Result<CpuPlaces, String>>,
    activity: activity::Places,
    data: Option<(VirtualAddress, u64)>,
    template: Option<(VirtualAddress, u64)>,
}

/// Where `nmi_print_flag` lies, and what dates it.
#[derive(Debug)]
pub struct ReservationPlace {
    owner: PhysicalAddress,
    wanted: PhysicalAddress,
    since: PhysicalAddress,
    clock_tsc_base: PhysicalAddress,
    clock_ns_per_tsc: PhysicalAddress,
}

/// One CPU's variables.
#[derive(Debug)]
pub struct CpuPlaces {
    /// From the template to this CPU's copy.
    offset: u64,
    online: PhysicalAddress,
    nmi_count: PhysicalAddress,
    /// Its NMI buffer.
    pub seq_buf: SeqBufPlace,
}

/// Where a CPU's `nmi_print_seq` lies.
#[derive(Debug)]
pub struct SeqBufPlace {
    owner: PhysicalAddress,
    missed: PhysicalAddress,
    len: PhysicalAddress,
    lost: PhysicalAddress,
    buffer: VirtualAddress,
    buffer_size: u64,
}

impl Bundled {
    /// The symbol that tells it from other kernels.
    pub const MARK: &str = "nmi_print_seq";

    /// Finds the structures by name in the image's debug information.
    ///
    /// # Errors
    /// The first one that is not there.
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
            activity: activity::Activity::find(&types)?,
            data: range(image, "_sdata", "_end"),
            template: range(image, "__per_cpu_start", "__per_cpu_end"),
        })
    }

    /// Finds the physical addresses, in the address space of the first CPU that runs the kernel.
    /// `registers` are those of its CPUs, or why there are none.
    ///
    /// # Errors
    /// In none of them the image's own variables are mapped: why not in the last. A CPU whose
    /// per-CPU ones are not says so in its own entry.
    pub fn locate(
        &self,
        memory: &dyn PhysicalMemory,
        registers: impl IntoIterator<Item = Result<Registers, String>>,
    ) -> Result<Located, String> {
        let mut last = Err(String::from("no vCPU has registers"));
        for registers in registers {
            last = registers.and_then(|registers| {
                let tables = registers.page_tables().map_err(|error| crate::error_chain(&error))?;
                self.locate_by(memory, tables).map_err(|error| crate::error_chain(&error))
            });
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn locate_by(
        &self,
        memory: &dyn PhysicalMemory,
        tables: PageTables,
    ) -> Result<Located, TypeError> {
        let memory = GuestVirtual::new(memory, tables);
        let reservation = ReservationPlace {
            owner: physical(&memory, self.reservation_owner)?,
            wanted: physical(&memory, self.reservation_wanted)?,
            since: physical(&memory, self.reservation_since)?,
            clock_tsc_base: physical(&memory, self.clock_tsc_base)?,
            clock_ns_per_tsc: physical(&memory, self.clock_ns_per_tsc)?,
        };
        let possible = u64::from(memory.read_u32(self.nr_cpu_ids)?);
        let cpus: Vec<Result<CpuPlaces, String>> = (0..possible.min(self.per_cpu_offset_count))
            .map(|cpu| self.locate_cpu(&memory, cpu).map_err(|error| crate::error_chain(&error)))
            .collect();
        let offsets = cpus.iter().map(|cpu| Some(cpu.as_ref().ok()?.offset));
        let activity = self.activity.locate(&memory, offsets)?;
        let (data, template) = (self.data, self.template);
        Ok(Located { tables, reservation, cpus, activity, data, template })
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

/// What lies between two symbols of the linker script, and so possibly nonsense; no kernel has as
/// much as the bound.
fn range(image: &Image<'_>, start: &str, end: &str) -> Option<(VirtualAddress, u64)> {
    const MOST: u64 = 16 << 20;
    let (start, end) = (image.symbol(start)?.address, image.symbol(end)?.address);
    Some((start, end.0.checked_sub(start.0)?.min(MOST)))
}

fn address(types: &Types<'_>, name: &str) -> Result<VirtualAddress, TypeError> {
    types.variable(name).map(|place: Place<'_>| place.address())
}

fn physical<M: PhysicalMemory + ?Sized>(
    memory: &GuestVirtual<'_, M>,
    address: VirtualAddress,
) -> Result<PhysicalAddress, TypeError> {
    let unmapped =
        |walk: WalkError| ReadError::Unmapped { address, length: 1, walk: Box::new(walk) };
    Ok(memory.physical(address).map_err(unmapped)?)
}

impl Located {
    /// The kernel's own data, its log among them, and each CPU's: where it begins, guest-virtual,
    /// and its length in bytes.
    pub fn own_memory(&self) -> Vec<(VirtualAddress, u64)> {
        let copies = self.template.into_iter().flat_map(|(start, length)| {
            let cpus = self.cpus.iter().flatten();
            cpus.map(move |cpu| (start.wrapping_add(cpu.offset), length))
        });
        self.data.into_iter().chain(copies).collect()
    }

    /// What the kernel says of what it is doing.
    ///
    /// # Errors
    /// There is no memory where its structures were.
    pub fn activity(
        &self,
        memory: &dyn PhysicalMemory,
        depth: Depth,
    ) -> Result<KernelState, ReadError> {
        self.activity.read(memory, self.tables, depth)
    }
}

impl CpuPlaces {
    /// Whether the CPU runs the kernel, and so has an NMI handler.
    ///
    /// # Errors
    /// The word cannot be read.
    pub fn is_online(&self, memory: &dyn PhysicalMemory) -> Result<bool, ReadError> {
        Ok(memory.read_u32(self.online)? != 0)
    }

    /// How many NMIs the CPU has taken.
    ///
    /// # Errors
    /// The word cannot be read.
    pub fn nmi_count(&self, memory: &dyn PhysicalMemory) -> Result<u64, ReadError> {
        memory.read_u64(self.nmi_count)
    }
}

/// What stands in `nmi_print_flag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The guest CPU that holds it; `None` where the value is no CPU's.
    pub cpu: Option<u32>,
    /// When it took it, in nanoseconds of the guest's clock; `None` where that cannot be read.
    pub since_ns: Option<u64>,
}

impl ReservationPlace {
    /// Takes the buffers for the hypervisor: one atomic test-and-set, as a client inside the guest
    /// does it.
    ///
    /// # Errors
    /// Outer: there is no such word. Inner: who has them.
    pub fn try_take(
        &self,
        memory: &dyn PhysicalMemory,
        words: &dyn Words,
    ) -> Result<Result<(), Holder>, NoSuchWord> {
        match words.compare_exchange(self.owner, 0, RESERVED_BY_HYPERVISOR)? {
            Ok(_) => Ok(Ok(())),
            Err(owner) => Ok(Err(Holder {
                cpu: owner.checked_sub(1).filter(|&cpu| u64::from(cpu) < MAX_CPUS),
                since_ns: memory.read_u64(self.since).ok(),
            })),
        }
    }

    /// Asks the clients inside the guest to stand back, or no longer to.
    ///
    /// # Errors
    /// There is no such word.
    pub fn set_wanted(&self, words: &dyn Words, wanted: bool) -> Result<(), NoSuchWord> {
        words.store(self.wanted, wanted.into())
    }

    /// Gives them back.
    ///
    /// # Errors
    /// There is no such word.
    pub fn release(&self, words: &dyn Words) -> Result<(), NoSuchWord> {
        words.store(self.owner, 0)
    }

    /// The guest's clock, in nanoseconds, when its time-stamp counter is `tsc`.
    ///
    /// # Errors
    /// The clock's parameters cannot be read.
    pub fn clock_ns(&self, memory: &dyn PhysicalMemory, tsc: u64) -> Result<u64, ReadError> {
        let base = memory.read_u64(self.clock_tsc_base)?;
        let scale = memory.read_u64(self.clock_ns_per_tsc)?;
        let scaled = u128::from(tsc.wrapping_sub(base)) * u128::from(scale);
        Ok((scaled >> 32) as u64)
    }
}

/// A CPU's NMI buffer, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqBuf {
    /// The text: as much as `claimed_len` says, but no more than there is room for.
    #[serde(with = "bytes_as_text")]
    pub text: Vec<u8>,
    /// The length that the guest claims.
    pub claimed_len: u32,
    /// How much the buffer can hold.
    pub capacity: u32,
    /// Messages that did not fit.
    pub lost: u32,
    /// Messages that came while the buffer was somebody else's.
    pub missed: u32,
    /// Who is using it.
    pub owner: BufferOwner,
}

/// Bytes as a string of the characters U+0000 to U+00FF: what is text remains readable.
mod bytes_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|&byte| char::from(byte)).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = text.chars().map(u8::try_from).collect::<Result<_, _>>();
        bytes.map_err(|_| D::Error::custom("a character beyond U+00FF"))
    }
}

/// Who is using an NMI buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferOwner {
    /// Nobody.
    Free,
    /// A handler that has not returned.
    Handler,
    /// A client inside the guest, which prints it.
    Reader,
    /// The guest has something there that means nothing.
    Garbage(u32),
}

impl BufferOwner {
    fn decode(word: u32) -> Self {
        match word {
            printk::NMI_PRINT_SEQ_FREE => Self::Free,
            printk::NMI_PRINT_SEQ_WRITER | printk::NMI_PRINT_SEQ_APPENDING => Self::Handler,
            printk::NMI_PRINT_SEQ_READER => Self::Reader,
            garbage => Self::Garbage(garbage),
        }
    }
}

/// The largest buffer that is believed in.
const MAX_BUFFER: u64 = 1 << 20;

impl SeqBufPlace {
    /// Reads it, through the page tables of the CPU's kernel.
    ///
    /// # Errors
    /// Which part could not be read, and why.
    pub fn read(&self, memory: &dyn PhysicalMemory, tables: PageTables) -> Result<SeqBuf, String> {
        let word = |address| memory.read_u32(address).map_err(|error| error.to_string());
        let claimed_len = word(self.len)?;
        let capacity = self.buffer_size.min(MAX_BUFFER) as u32;
        let mut text = vec![0; claimed_len.min(capacity) as usize];
        GuestVirtual::new(memory, tables)
            .read(self.buffer, &mut text)
            .map_err(|error| crate::error_chain(&error))?;
        Ok(SeqBuf {
            text,
            claimed_len,
            capacity,
            lost: word(self.lost)?,
            missed: word(self.missed)?,
            owner: BufferOwner::decode(word(self.owner)?),
        })
    }

    /// Who is using the buffer, and how much text it is said to hold.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn peek(&self, memory: &dyn PhysicalMemory) -> Result<(BufferOwner, u32), ReadError> {
        Ok((BufferOwner::decode(memory.read_u32(self.owner)?), memory.read_u32(self.len)?))
    }

    /// Empties it, for the next one to use.
    ///
    /// # Errors
    /// There are no such words.
    pub fn wipe(&self, words: &dyn Words) -> Result<(), NoSuchWord> {
        words.store(self.missed, 0)?;
        words.store(self.lost, 0)?;
        words.store(self.len, 0)
    }
}
