//! Second opinions on the place of a kernel: its own VMCOREINFO, and the processors' interrupt tables.
//!
//! Owns the comparison of each with what page tables and symbols have shown. Refuses to own the search itself
//! (`image`). Each source may be missing, and then has no opinion; one that disagrees is a finding, since the memory of
//! a guest holds more kernels than the one that runs: the one before a kexec, that of a kdump, that of a nested guest.

use nmiscope_machine::{PhysicalAddress, Registers, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Kallsyms, VmcoreInfo};

use super::image::WINDOW;

/// The most bytes of a VMCOREINFO: one page (include/linux/vmcore_info.h, `VMCOREINFO_BYTES`).
const MAX_INFO: u64 = 4096;
/// The vector whose gate is read: every kernel has one for the division by zero.
const DIVIDE_ERROR: u64 = 0;
/// The size of a gate in the interrupt table (SDM volume 3, 7.14.1).
const GATE: u64 = 16;

/// A kernel as it was found.
pub(super) struct FoundKernel<'a> {
    /// The guest-virtual address of the image's first byte.
    pub(super) base: VirtualAddress,
    /// The guest-physical address of the same byte.
    pub(super) physical_base: PhysicalAddress,
    /// The release by the kernel's banner.
    pub(super) release: &'a str,
    /// The guest-virtual address of the symbol `_stext`; `None` if there is none.
    pub(super) stext: Option<u64>,
    /// The guest-virtual address of the end of the image.
    pub(super) end: u64,
}

/// Reads a kernel's VMCOREINFO through its own pointer (kernel/vmcore_info.c); `None` for a kernel without one.
pub(super) fn vmcoreinfo(symbols: &Kallsyms, memory: &dyn VirtualMemory) -> Option<VmcoreInfo> {
    let word = |name: &str| memory.read_u64(symbols.address_of(name)?).ok();
    let size = word("vmcoreinfo_size").filter(|size| (1..=MAX_INFO).contains(size))?;
    let mut text = vec![0; size as usize];
    memory.read(VirtualAddress(word("vmcoreinfo_data")?), &mut text).ok()?;
    Some(VmcoreInfo::parse(&text))
}

impl FoundKernel<'_> {
    /// Returns a sentence for each source that disagrees with the place of the kernel.
    pub(super) fn disagreements(
        &self,
        info: Option<&VmcoreInfo>,
        vcpus: &[Registers],
        memory: &dyn VirtualMemory,
    ) -> Vec<String> {
        let info = info.map(|info| self.by_info(info)).unwrap_or_default();
        let tables = vcpus.iter().filter_map(|registers| self.by_interrupts(registers, memory));
        // All CPUs share one table, or have copies of it: one sentence is enough.
        info.into_iter().chain(tables.take(1)).collect()
    }

    fn by_info(&self, info: &VmcoreInfo) -> Vec<String> {
        let mut found = Vec::new();
        let release = info.text("OSRELEASE").ok().filter(|release| *release != self.release);
        found.extend(release.map(|release| {
            format!("the kernel's VMCOREINFO is of {release}, and its banner of {}", self.release)
        }));
        let stext = info.symbol("_stext").ok().zip(self.stext);
        let stext = stext.filter(|(stext, symbol)| stext != symbol);
        found.extend(stext.map(|(stext, symbol)| {
            format!("the kernel's VMCOREINFO has _stext at {stext:016x}, and its symbols at {symbol:016x}")
        }));
        // The distance of the image's physical place from where its addresses begin (arch/x86/kernel/head64.c).
        let here = self.physical_base.0.wrapping_sub(self.base.0 - WINDOW) as i64;
        let said = info.number("phys_base").ok().filter(|said| *said != here);
        found.extend(said.map(|said| {
            format!(
                "the kernel's VMCOREINFO has phys_base {said:#x}, and its page tables {here:#x}"
            )
        }));
        found
    }

    /// Compares the handler of a vCPU's first exception with the kernel's code. Before a kernel has set it up, and with
    /// FRED, a table says nothing.
    fn by_interrupts(&self, registers: &Registers, memory: &dyn VirtualMemory) -> Option<String> {
        if u64::from(registers.idt_limit) < GATE * (DIVIDE_ERROR + 1) - 1 {
            return None;
        }
        let at = VirtualAddress(registers.idt_base.wrapping_add(GATE * DIVIDE_ERROR));
        let (low, high) = (memory.read_u64(at).ok()?, memory.read_u64(at.wrapping_add(8)).ok()?);
        let handler = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        let is_kernels = (self.base.0..self.end).contains(&handler);
        (handler != 0 && !is_kernels).then(|| {
            format!(
                "the first handler of the interrupt table is at {handler:016x}, outside the kernel that was found"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use nmiscope_machine::ReadError;

    use super::*;

    const BASE: u64 = 0xffff_ffff_9c00_0000;
    const KERNEL: FoundKernel<'_> = FoundKernel {
        base: VirtualAddress(BASE),
        physical_base: PhysicalAddress(0x1500_0000),
        release: "6.1.0",
        stext: Some(BASE),
        end: BASE + 0x300_0000,
    };

    /// Memory in which the first gate is this one, whatever the address.
    struct Gate([u64; 2]);

    impl VirtualMemory for Gate {
        fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
            let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = (address.0 % 16) as usize;
            buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
            Ok(())
        }
    }

    /// The gate of a handler (SDM volume 3, figure 7-8): offset 15..0, selector and type, offset 31..16, 63..32.
    fn gate(handler: u64) -> Gate {
        let low = handler & 0xffff | 0x8e00_0010_0000 | (handler & 0xffff_0000) << 32;
        Gate([low, handler >> 32])
    }

    fn said(text: &str, handler: u64) -> Vec<String> {
        let info = VmcoreInfo::parse(text.as_bytes());
        let registers = Registers { idt_base: 0x1000, idt_limit: 0xfff, ..Registers::default() };
        KERNEL.disagreements(Some(&info), &[registers, registers], &gate(handler))
    }

    // phys_base is -0x7000000: 0x15000000 less 0x1c000000, the distance of the image from where addresses begin.
    const AGREES: &str =
        "OSRELEASE=6.1.0\nSYMBOL(_stext)=ffffffff9c000000\nNUMBER(phys_base)=-117440512\n";

    #[test]
    fn sources_that_agree_or_are_missing_are_silent() {
        assert_eq!(said(AGREES, BASE + 0x12_3456), Vec::<String>::new());
        assert_eq!(said("", 0), Vec::<String>::new());
        assert_eq!(
            KERNEL.disagreements(None, &[Registers::default()], &gate(1)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_source_that_disagrees_has_a_sentence() {
        let other = "OSRELEASE=6.12.0\nSYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=0\n";
        let found = said(other, 0xffff_ffff_8100_0040);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains("6.12.0") && found[1].contains("ffffffff81000000"), "{found:?}");
        assert!(
            found[2].contains("phys_base 0x0") && found[3].contains("ffffffff81000040"),
            "{found:?}"
        );
    }
}
