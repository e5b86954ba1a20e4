//! This process as a guest: its memory, and the registers of a function in it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nmiscope_machine::{
    PhysicalAddress, ReadError, Register, UnwindRegisters, VirtualAddress, VirtualMemory,
};

/// This process's memory, where it lies.
pub struct Own(File);

impl Own {
    pub fn open() -> Self {
        Self(File::open("/proc/self/mem").expect("procfs"))
    }
}

impl VirtualMemory for Own {
    fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        self.0.read_exact_at(buffer, address.0).map_err(|error| {
            let address = PhysicalAddress(address.0);
            ReadError::Target { address, length, reason: error.to_string() }
        })
    }
}

/// Reads the callee-saved registers of the calling function.
#[inline(always)]
pub fn registers() -> UnwindRegisters {
    let mut values = [0_u64; 8];
    // SAFETY: stores eight registers in eight words, and changes nothing but RAX.
    unsafe {
        std::arch::asm!(
            "lea rax, [rip]",
            "mov [{to}], rax",
            "mov [{to} + 8], rsp",
            "mov [{to} + 16], rbp",
            "mov [{to} + 24], rbx",
            "mov [{to} + 32], r12",
            "mov [{to} + 40], r13",
            "mov [{to} + 48], r14",
            "mov [{to} + 56], r15",
            to = in(reg) values.as_mut_ptr(),
            out("rax") _,
            options(nostack),
        );
    }
    use Register::{R12, R13, R14, R15, Rbp, Rbx, Rip, Rsp};
    [Rip, Rsp, Rbp, Rbx, R12, R13, R14, R15].into_iter().zip(values).collect()
}
