//! Data that the PVH boot protocol passes to a guest: start info, memory map, command line, and the list
//! of modules, of which the first is the initial RAM disk.
//!
//! Owns these four and their places; refuses to own the image and the ACPI tables. Called by
//! `boot::load`. Source: Xen's `docs/misc/pvh.pandoc` and `arch-x86/hvm/start_info.h`.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_ACPI as ACPI, XEN_HVM_MEMMAP_TYPE_RAM as RAM,
    XEN_HVM_MEMMAP_TYPE_RESERVED as RESERVED, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry,
    hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::initrd::Initrd;
use crate::{layout, memory};

/// Reasons why the tables that a PVH guest reads could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PvhError {
    /// The command line is longer than Linux's limit on x86.
    #[error(
        "pass a kernel command line of {len} bytes: the limit is {} bytes; shorten it",
        layout::CMDLINE_MAX - 1
    )]
    CmdlineTooLong {
        /// Length of the command line in bytes.
        len: usize,
    },
    /// The command line has a NUL, at which the guest would stop reading.
    #[error("pass a kernel command line with a NUL byte at {at}: remove it")]
    CmdlineNul {
        /// Offset of the NUL in bytes.
        at: usize,
    },
    /// A table did not fit into guest memory.
    #[error("write the boot tables to guest memory")]
    Write(#[source] GuestMemoryError),
    /// linux-loader could not write the start info.
    #[error("write the PVH start info to guest memory")]
    StartInfo(#[source] linux_loader::configurator::Error),
}

/// Writes start info, memory map, modules and command line for a guest with `bytes` of RAM.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    bytes: u64,
    initrd: Option<Initrd>,
    cmdline: &str,
) -> Result<(), PvhError> {
    write_cmdline(memory, cmdline)?;
    let memmap = memmap(bytes);
    let module = |initrd: Initrd| hvm_modlist_entry {
        paddr: initrd.start.raw_value(),
        size: initrd.len,
        ..hvm_modlist_entry::default()
    };
    let modules: Vec<hvm_modlist_entry> = initrd.map(module).into_iter().collect();
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: layout::CMDLINE.raw_value(),
        rsdp_paddr: layout::RSDP.raw_value(),
        memmap_paddr: layout::PVH_MEMMAP.raw_value(),
        memmap_entries: memmap.len() as u32,
        nr_modules: modules.len() as u32,
        modlist_paddr: initrd.map_or(0, |_| layout::PVH_MODULES.raw_value()),
        ..hvm_start_info::default()
    };
    let mut params = BootParams::new(&start_info, layout::PVH_START_INFO);
    params.set_sections(&memmap, layout::PVH_MEMMAP);
    if !modules.is_empty() {
        params.set_modules(&modules, layout::PVH_MODULES);
    }
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(PvhError::StartInfo)
}

fn write_cmdline(memory: &GuestMemoryMmap, cmdline: &str) -> Result<(), PvhError> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(PvhError::CmdlineTooLong { len: cmdline.len() });
    }
    if let Some(at) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(PvhError::CmdlineNul { at });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, layout::CMDLINE).map_err(PvhError::Write)
}

/// The memory map, E820 types, sorted by address.
fn memmap(bytes: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |start: GuestAddress, end: u64, type_| hvm_memmap_table_entry {
        addr: start.raw_value(),
        size: end - start.raw_value(),
        type_,
        reserved: 0,
    };
    let boot_data = layout::BOOT_DATA_START.raw_value();
    let start_info = layout::PVH_START_INFO.raw_value();
    let mut map = vec![
        entry(GuestAddress(0), layout::LOW_RAM_END.raw_value(), RAM),
        entry(layout::LOW_RAM_END, boot_data, RESERVED),
        entry(layout::BOOT_DATA_START, start_info, ACPI),
        entry(layout::PVH_START_INFO, layout::HIGH_RAM_START.raw_value(), RESERVED),
    ];
    for (start, len) in memory::ranges(bytes) {
        let end = start.raw_value() + len;
        map.push(entry(start.max(layout::HIGH_RAM_START), end, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
    }

    #[test]
    fn the_start_info_points_at_all_tables() {
        let memory = guest();
        write(&memory, 2 << 20, None, "workload=idle").unwrap();
        let word = |offset: u64| memory.read_obj::<u64>(GuestAddress(0xe_8000 + offset)).unwrap();
        assert_eq!(word(0), 0x336e_c578 | 1 << 32, "magic, version");
        assert_eq!(word(8), 0, "flags, modules");
        assert_eq!([word(24), word(32), word(40)], [0xe_9000, 0xe_0000, 0xe_8100]);
        assert_eq!(word(48), 5, "memory map entries");
        let mut cmdline = [0xffu8; 14];
        memory.read_slice(&mut cmdline, layout::CMDLINE).unwrap();
        assert_eq!(&cmdline, b"workload=idle\0");
    }

    #[test]
    fn an_initrd_is_the_first_module() {
        let memory = guest();
        let initrd = Initrd { start: GuestAddress(0x1f_e000), len: 0x1234 };
        write(&memory, 2 << 20, Some(initrd), "").unwrap();
        let word = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(word(0xe_8008), 1 << 32, "flags, modules");
        let list = word(0xe_8010);
        let module = [0, 8, 16, 24].map(|offset| word(list + offset));
        assert_eq!(module, [0x1f_e000, 0x1234, 0, 0], "address, size, command line, reserved");
    }

    #[test]
    fn the_memory_map_has_no_overlap_and_no_gap_below_the_hole() {
        let map = memmap(5 << 30);
        for pair in map.windows(2) {
            let end = pair[0].addr + pair[0].size;
            assert!(end == pair[1].addr || end == 3 << 30, "{pair:x?}");
        }
        let ram: u64 = map.iter().filter(|e| e.type_ == RAM).map(|e| e.size).sum();
        assert_eq!(ram, (5 << 30) - (0x10_0000 - 0x9_fc00));
        assert_eq!(map.last().map(|e| (e.addr, e.size)), Some((4 << 30, 2 << 30)));
    }

    #[test]
    fn a_command_line_fits_exactly_or_is_refused() {
        let memory = guest();
        assert!(write_cmdline(&memory, &"x".repeat(2047)).is_ok());
        let error = write_cmdline(&memory, &"x".repeat(2048)).unwrap_err();
        assert!(matches!(error, PvhError::CmdlineTooLong { len: 2048 }));
        assert!(error.to_string().contains("the limit is 2047 bytes"), "{error}");
        let error = write_cmdline(&memory, "a\0b").unwrap_err();
        assert!(matches!(error, PvhError::CmdlineNul { at: 1 }));
    }
}
