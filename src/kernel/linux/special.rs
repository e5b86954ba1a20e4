//! Special states of a Linux kernel, which its name in a report has: a kdump kernel, and one that kgdb has
//! stopped.
//!
//! Owns how these are told, by two variables of the kernel. Refuses to own whether anything hangs. Called by
//! the parent module when it recognises a kernel.

use nmiscope_machine::{VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::Kallsyms;

/// Bytes of the command line that are read: COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h).
const COMMAND_LINE: usize = 2048;

/// Returns the states of a kernel, each after a comma; empty for a kernel in none of them.
pub(super) fn marks(kallsyms: &Kallsyms, memory: &dyn VirtualMemory) -> String {
    let address = |name: &str| kallsyms.address_of(name);
    let pointer = address("saved_command_line").and_then(|at| memory.read_u64(at).ok());
    let command_line = pointer.map(|pointer| text_at(VirtualAddress(pointer), memory));
    let kdump =
        command_line.filter(|line| is_of_kdump(line)).map(|_| ", a kdump kernel".to_owned());
    let active = address("kgdb_active").and_then(|at| memory.read_u32(at).ok());
    let kgdb = active.and_then(|cpu| stopped_by_kgdb(cpu.cast_signed()));
    [kdump, kgdb].into_iter().flatten().collect()
}

/// Returns the bytes up to the first zero, as far as they can be read.
fn text_at(start: VirtualAddress, memory: &dyn VirtualMemory) -> Vec<u8> {
    const PART: usize = 64;
    let mut text = Vec::new();
    while text.len() < COMMAND_LINE && !text.contains(&0) {
        let mut part = [0; PART];
        let at = VirtualAddress(start.0.wrapping_add(text.len() as u64));
        if memory.read(at, &mut part).is_err() {
            break;
        }
        text.extend_from_slice(&part);
    }
    text.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

/// Returns true for the command line of a kdump kernel, to which kexec adds the place of the crashed kernel's core
/// (Documentation/admin-guide/kdump/kdump.rst).
fn is_of_kdump(command_line: &[u8]) -> bool {
    command_line.split(|&byte| byte == b' ').any(|word| word.starts_with(b"elfcorehdr="))
}

/// Returns the state that `kgdb_active` has: the number of the CPU in the debugger, or -1
/// (kernel/debug/debug_core.c).
fn stopped_by_kgdb(cpu: i32) -> Option<String> {
    (cpu >= 0).then(|| format!(", stopped in kgdb by cpu{cpu}"))
}

#[cfg(test)]
mod tests {
    use nmiscope_machine::{PhysicalAddress, ReadError};

    use super::*;

    /// Memory of bytes from one address on.
    struct At(u64, Vec<u8>);

    impl VirtualMemory for At {
        fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
            let start = address.0.checked_sub(self.0).and_then(|at| usize::try_from(at).ok());
            let bytes = start.and_then(|at| self.1.get(at..)?.get(..buffer.len()));
            let length = buffer.len();
            let unbacked = ReadError::Unbacked { address: PhysicalAddress(address.0), length };
            buffer.copy_from_slice(bytes.ok_or(unbacked)?);
            Ok(())
        }
    }

    #[test]
    fn kdump_kernel_is_told_by_its_command_line() {
        let rows = [
            ("console=ttyS0 elfcorehdr=867M", true),
            ("elfcorehdr=0x1000@0x2000 irqpoll", true),
            ("crashkernel=256M quiet", false),
            ("noelfcorehdr=1", false),
            ("", false),
        ];
        for (line, is_kdump) in rows {
            assert_eq!(is_of_kdump(line.as_bytes()), is_kdump, "{line}");
        }
    }

    #[test]
    fn kgdb_stops_a_kernel_by_the_cpu_that_is_active() {
        assert_eq!(stopped_by_kgdb(-1), None);
        assert_eq!(stopped_by_kgdb(3).as_deref(), Some(", stopped in kgdb by cpu3"));
    }

    #[test]
    fn command_line_ends_at_a_zero_or_its_bound() {
        let mut long = vec![b'a'; 8192];
        assert_eq!(text_at(VirtualAddress(0x1000), &At(0x1000, long.clone())).len(), COMMAND_LINE);
        assert_eq!(text_at(VirtualAddress(0x1000), &At(0x1000, vec![b'a'; 100])).len(), 64);
        assert_eq!(text_at(VirtualAddress(0), &At(0x1000, vec![b'a'; 100])), b"");
        long[70] = 0;
        assert_eq!(text_at(VirtualAddress(0x1000), &At(0x1000, long)).len(), 70);
        assert_eq!(text_at(VirtualAddress(u64::MAX), &At(u64::MAX, Vec::new())), b"");
    }
}
