//! A virtual machine: its parts, and the order in which they are created.
//!
//! Owns creation and the parts' lifetimes; refuses to own control over a running VM (`world`), the
//! image (`boot`) and the vCPUs' insides (`vcpu`). Called by the crate's users.

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use kvm_bindings::{
    CpuId, KVM_CAP_X2APIC_API, KVM_PIT_SPEAKER_DUMMY, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::cpuid::{self, Identity};
use crate::devices::{Devices, Ports, SerialInputFull};
use crate::error::CreateError;
use crate::event::VmEvent;
use crate::exits::ExitCounts;
use crate::kvm::{self, KvmError};
use crate::vcpu::{self, SharedState, StatisticsLayout, VcpuHandle};
use crate::{boot, layout, memory, open_files};

/// The most vCPUs that this VMM gives a VM; a host may allow fewer.
pub const MAX_VCPUS: u32 = 512;

/// Configuration of a VM to create.
pub struct Config<'image> {
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub cpus: u32,
    /// RAM in bytes: whole 4 KiB pages, at least [`crate::MIN_BYTES`].
    pub memory: u64,
    /// Bytes of the guest image: an x86-64 ELF file with a PVH entry point.
    pub image: &'image [u8],
    /// Bytes of the initial RAM disk, if the guest gets one: the first module of the PVH start info.
    pub initrd: Option<&'image [u8]>,
    /// Command line of the kernel; at most 2047 bytes without a NUL.
    pub cmdline: String,
    /// Writer for the guest's serial output. It is written and flushed byte by byte, with a lock held, on
    /// the thread of the vCPU that prints: a writer that blocks holds that vCPU up, and `Vm::pause` cannot
    /// stop it until the writer returns.
    pub serial_output: Box<dyn Write + Send>,
    /// I/O port numbers of the doorbells.
    pub ports: Ports,
    /// True to give the guest an i8254 timer (KVM_CREATE_PIT2). A guest that takes its clock frequencies
    /// from CPUID and its ticks from the local APIC does not need one. Without a PIT, KVM closes the VM 10
    /// to 15 ms sooner: it waits for two RCU grace periods to free one.
    pub pit: bool,
    /// Callback for the VM's events. It runs on the thread of the vCPU that caused the event, and should
    /// only pass the event on.
    pub events: Box<dyn Fn(VmEvent) + Send + Sync>,
}

/// A virtual machine, controlled by one thread at a time.
///
/// Dropping it stops and joins its threads, for at most [`Vm::DROP_DEADLINE`]; [`Vm::shutdown`] does the
/// same and reports threads that did not end.
#[derive(Debug)]
pub struct Vm {
    pub(crate) vcpus: Vec<VcpuHandle>,
    /// True once the vCPUs have been resumed, so that a command needs a kick to be noticed.
    pub(crate) running: bool,
    /// Layout of the files of KVM's statistics, read at the first use; `None` if it cannot be read.
    pub(crate) statistics: OnceLock<Option<StatisticsLayout>>,
    pub(crate) shared: Arc<SharedState>,
    pub(crate) fd: VmFd,
}

impl Vm {
    /// Creates a VM with its guest loaded and its vCPUs paused before their first instruction.
    ///
    /// The configuration is checked before KVM creates a VM. For more than some 200 vCPUs, raises this
    /// process's soft limit on open files, so that they can be watched.
    ///
    /// # Errors
    /// [`CreateError`] names what was refused or failed: the number of vCPUs, KVM, memory or the image.
    pub fn new(config: Config<'_>) -> Result<Self, CreateError> {
        check_vcpus(config.cpus, MAX_VCPUS)?;
        let kvm = kvm::open()?;
        check_vcpus(config.cpus, u32::try_from(kvm.get_max_vcpus()).unwrap_or(MAX_VCPUS))?;
        let supported = kvm::supported_cpuid(&kvm)?;
        let memory = memory::allocate(config.memory, cpuid::physical_address_bits(&supported))?;
        let (image, initrd) = (config.image, config.initrd);
        let entry =
            boot::load(&memory, config.memory, image, initrd, &config.cmdline, config.cpus)?;

        let keeps_files = open_files::raise_limit(config.cpus);
        let fd = kvm::create_vm(&kvm)?;
        register_memory(&fd, &memory)?;
        create_irqchip(&fd, config.cpus)?;
        if config.pit {
            create_pit(&fd)?;
        }
        let interrupt = serial_interrupt(&fd)?;
        let shared = Arc::new(SharedState {
            devices: Devices::new(config.ports, interrupt, config.serial_output),
            events: config.events,
            ended: AtomicBool::new(false),
            memory,
        });
        let vcpus = create_vcpus(&kvm, &fd, &supported, config.cpus, entry)?
            .into_iter()
            .zip(0..)
            .map(|(vcpu, cpu)| VcpuHandle::spawn(cpu, vcpu, shared.clone(), keeps_files))
            .collect::<Result<_, _>>()
            .map_err(|source| CreateError::Host { what: "start a vCPU thread", source })?;
        Ok(Self { vcpus, running: false, statistics: OnceLock::new(), shared, fd })
    }

    /// Starts the guest: every vCPU runs from its first instruction. The same as [`Vm::resume`].
    pub fn start(&mut self) {
        self.resume();
    }

    /// Returns the number of vCPUs, which are numbered from 0.
    pub fn cpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    /// Returns guest-physical memory, which can be read at any time. A value that a running guest writes
    /// meanwhile may be torn unless it is read atomically. [`PhysicalMemory`] has plain reads too.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.shared.memory
    }

    /// Queues bytes for the guest's serial port.
    ///
    /// # Errors
    /// The queue is full: the guest reads too slowly. The error has the number of bytes left out.
    pub fn serial_input(&self, bytes: &[u8]) -> Result<(), SerialInputFull> {
        self.shared.devices.serial().input(bytes)
    }

    /// Returns the counts of returns from KVM_RUN, summed over all vCPUs.
    pub fn exit_counts(&self) -> ExitCounts {
        self.vcpus.iter().map(VcpuHandle::exit_counts).sum()
    }
}

impl PhysicalMemory for Vm {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let read = self.memory().read_slice(buffer, GuestAddress(address.0));
        read.map_err(|_| ReadError::Unbacked { address, length })
    }
}

fn check_vcpus(asked: u32, max: u32) -> Result<(), CreateError> {
    match asked {
        0 => Err(CreateError::NoVcpus),
        _ if asked > max => Err(CreateError::TooManyVcpus { asked, max }),
        _ => Ok(()),
    }
}

/// Creates PICs, IOAPIC and local APICs in the kernel, so that a guest's interrupts cost no exits.
fn create_irqchip(fd: &VmFd, cpus: u32) -> Result<(), KvmError> {
    if needs_x2apic(cpus) {
        enable_x2apic_ids(fd)?;
    }
    fd.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))
}

/// Creates the PIT, with its speaker port: system control port B gates the channel that guests calibrate
/// their clocks against, and its parity bits read as 0 in KVM.
fn create_pit(fd: &VmFd) -> Result<(), KvmError> {
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    fd.create_pit2(pit).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))
}

/// Returns true if some APIC id is 255 or more, which an xAPIC's 8-bit id cannot address.
pub(crate) fn needs_x2apic(cpus: u32) -> bool {
    cpus > 255
}

/// Lets MSIs have 32-bit destinations, of which 0xff is one CPU rather than a broadcast.
fn enable_x2apic_ids(fd: &VmFd) -> Result<(), KvmError> {
    let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X2APIC_API,
        args: [u64::from(flags), 0, 0, 0],
        ..Default::default()
    };
    fd.enable_cap(&cap).map_err(KvmError::ioctl("KVM_ENABLE_CAP(KVM_CAP_X2APIC_API)"))
}

/// Gives KVM all memory slots, and the addresses of the two that it makes for itself.
///
/// Call this before creating the irqchip: that adds devices to an I/O bus, whose old version KVM frees
/// after an SRCU grace period, and each slot registered later waits for it: 6 ms instead of 0.1.
fn register_memory(fd: &VmFd, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    fd.set_identity_map_address(layout::KVM_IDENTITY_MAP.raw_value())
        .map_err(KvmError::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
    fd.set_tss_address(layout::KVM_TSS.raw_value() as usize)
        .map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a private mapping that holds nothing of Rust's. It stays mapped for
        // as long as a vCPU can run: every vCPU thread shares the `SharedState` that owns `memory`.
        unsafe { fd.set_user_memory_region(region) }
            .map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// Makes COM1's interrupt line: an eventfd at whose writes KVM raises the line.
fn serial_interrupt(fd: &VmFd) -> Result<EventFd, CreateError> {
    let host = |source: io::Error| CreateError::Host { what: "create an eventfd", source };
    let interrupt = EventFd::new(EFD_NONBLOCK).map_err(host)?;
    fd.register_irqfd(&interrupt, layout::COM1_GSI).map_err(KvmError::ioctl("KVM_IRQFD"))?;
    Ok(interrupt)
}

fn create_vcpus(
    kvm: &Kvm,
    fd: &VmFd,
    supported: &CpuId,
    cpus: u32,
    entry: GuestAddress,
) -> Result<Vec<VcpuFd>, KvmError> {
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let create = |apic_id| {
        let vcpu =
            fd.create_vcpu(u64::from(apic_id)).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        let tsc_khz = vcpu.get_tsc_khz().ok().filter(|khz| *khz != 0);
        let identity = Identity { apic_id, cpus, tsc_khz, tsc_deadline };
        vcpu::set_up(&vcpu, supported, identity, entry)?;
        Ok(vcpu)
    };
    (0..cpus).map(create).collect()
}
