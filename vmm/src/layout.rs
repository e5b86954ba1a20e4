//! The machine's layout: every fixed guest-physical address, I/O port and interrupt line.
//!
//! Owns the numbers and the reason for each; refuses to own any code that acts on them. Used by
//! `memory` (RAM ranges), `boot` (tables), `devices` (ports) and `vm` (irqchip set-up).
//!
//! ```text
//! 0x0000_0000 .. 0x0009_fc00   RAM, all of it the guest's: this VMM puts no table here, so that an
//!                              AP trampoline can go anywhere
//! 0x0009_fc00 .. 0x0010_0000   reserved: EBDA, VGA hole, and the VMM's boot data from 0xe0000 up
//! 0x0010_0000 .. RAM end       RAM, up to 3 GiB
//! 0xc000_0000 .. 4 GiB         the 32-bit hole: IOAPIC, LAPIC, KVM's TSS and identity map
//! 4 GiB ..                     the RAM that did not fit under 3 GiB
//! ```

use vm_memory::GuestAddress;

/// End of the low RAM: where a PC's extended BIOS data area starts.
pub const LOW_RAM_END: GuestAddress = GuestAddress(0x9_fc00);

/// Start of the boot data, which this VMM writes and the guest reads. A PC has its BIOS here, and an OS
/// that gets no RSDP pointer searches `0xe0000..0x100000` for one.
pub const BOOT_DATA_START: GuestAddress = GuestAddress(0xe_0000);

/// Root of the ACPI tables (RSDP, 36 bytes).
pub const RSDP: GuestAddress = BOOT_DATA_START;

/// The XSDT, which has one entry (44 bytes).
pub const XSDT: GuestAddress = GuestAddress(0xe_0040);

/// The MADT, the one table that grows: 8 to 16 bytes for each CPU, 7 KiB for 512 of them.
pub const MADT: GuestAddress = GuestAddress(0xe_0100);

/// `hvm_start_info` of the PVH boot protocol. EBX holds this address at the guest's entry point.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0xe_8000);

/// The memory map that `hvm_start_info` points to.
pub const PVH_MEMMAP: GuestAddress = GuestAddress(0xe_8100);

/// The list of modules that `hvm_start_info` points to: the initial RAM disk, if there is one.
pub const PVH_MODULES: GuestAddress = GuestAddress(0xe_8800);

/// The kernel's command line, NUL-terminated.
pub const CMDLINE: GuestAddress = GuestAddress(0xe_9000);

/// Longest command line in bytes, the final NUL included: Linux's own limit on x86.
pub const CMDLINE_MAX: usize = 2048;

/// End of the boot data, and start of the RAM above it.
pub const HIGH_RAM_START: GuestAddress = GuestAddress(0x10_0000);

/// Start of the hole in RAM below 4 GiB.
pub const HOLE_START: GuestAddress = GuestAddress(0xc000_0000);

/// End of the hole, and start of the RAM that did not fit below it.
pub const HOLE_END: GuestAddress = GuestAddress(0x1_0000_0000);

/// The in-kernel IOAPIC's registers (KVM fixes the address).
pub const IOAPIC: GuestAddress = GuestAddress(0xfec0_0000);

/// Every vCPU's local APIC in xAPIC mode, and the address range of MSIs (Intel SDM 3A, 12.4.1,
/// 12.11.1).
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);

/// KVM's identity map, one page (KVM_SET_IDENTITY_MAP_ADDR). Hosts without unrestricted guests need it.
pub const KVM_IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);

/// KVM's TSS, three pages after the identity map (KVM_SET_TSS_ADDR).
pub const KVM_TSS: GuestAddress = GuestAddress(0xfffb_d000);

/// COM1's eight I/O ports, first and last.
pub const COM1: std::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;

/// COM1's interrupt line, as a GSI of the in-kernel irqchip.
pub const COM1_GSI: u32 = 4;

/// The i8042's command and status port. Writing [`I8042_RESET`] pulses the CPU's reset line.
pub const I8042_COMMAND: u16 = 0x64;

/// The i8042 command that resets the machine.
pub const I8042_RESET: u8 = 0xfe;

/// System control port B. Bits 6 and 7 must read 0, or Linux takes an NMI for a PCI parity error.
pub const SYSTEM_CONTROL_B: u16 = 0x61;

/// The PIT's interrupt line (ISA IRQ 0), as a GSI. On a PC, GSI 0 is the 8259's output.
pub const PIT_GSI: u32 = 2;
