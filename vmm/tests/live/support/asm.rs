//! An assembler for a dozen instructions, so that a test's guest reads as a program.
//!
//! Unless said otherwise an instruction is encoded so that it means the same in 32-bit and in
//! 64-bit mode: absolute addresses have an SIB byte, as without it 64-bit mode takes them to be
//! relative to RIP.

/// Code to be loaded at `base`.
pub struct Asm {
    base: u32,
    code: Vec<u8>,
}

impl Asm {
    pub fn at(base: u32) -> Self {
        Self { base, code: Vec::new() }
    }

    /// The address of the next instruction.
    pub fn here(&self) -> u32 {
        self.base + self.code.len() as u32
    }

    pub fn code(self) -> Vec<u8> {
        self.code
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.code.extend(bytes);
        self
    }

    fn word(self, opcode: &[u8], operand: u32) -> Self {
        self.raw(opcode).raw(&operand.to_le_bytes())
    }

    /// Appends `mov edx, port`, which the port instructions begin with.
    fn port(self, port: u16) -> Self {
        self.word(&[0xba], port.into())
    }

    /// Appends `out dx, al` with `value` in AL.
    pub fn out8(self, port: u16, value: u8) -> Self {
        self.port(port).raw(&[0xb0, value, 0xee])
    }

    /// Appends `out dx, eax` with `value` in EAX.
    pub fn out32(self, port: u16, value: u32) -> Self {
        self.port(port).word(&[0xb8], value).raw(&[0xef])
    }

    /// Appends `out dx, al` without setting AL.
    pub fn out_al(self, port: u16) -> Self {
        self.port(port).raw(&[0xee])
    }

    /// Appends `in al, dx` for this port.
    pub fn in_al(self, port: u16) -> Self {
        self.port(port).raw(&[0xec])
    }

    /// `mov esi, from; mov ecx, count; cld; rep outsb`
    pub fn rep_outsb(self, port: u16, from: u32, count: u32) -> Self {
        self.port(port).word(&[0xbe], from).word(&[0xb9], count).raw(&[0xfc, 0xf3, 0x6e])
    }

    /// Appends `mov dword [address], value` for a fixed address.
    pub fn store(self, address: u32, value: u32) -> Self {
        self.word(&[0xc7, 0x04, 0x25], address).raw(&value.to_le_bytes())
    }

    /// Appends `inc dword [address]` for a fixed address.
    pub fn inc(self, address: u32) -> Self {
        self.word(&[0xff, 0x04, 0x25], address)
    }

    /// Appends `mov esp, value`, which sets up a stack.
    pub fn stack(self, value: u32) -> Self {
        self.word(&[0xbc], value)
    }

    /// `lgdt [address]`, in 32-bit mode.
    pub fn lgdt(self, address: u32) -> Self {
        self.word(&[0x0f, 0x01, 0x15], address)
    }

    /// `lidt [address]`, in 32-bit mode.
    pub fn lidt(self, address: u32) -> Self {
        self.word(&[0x0f, 0x01, 0x1d], address)
    }

    /// `jmp selector:next`, from 32-bit mode.
    pub fn reload_cs(self, selector: u16) -> Self {
        let next = self.here() + 7;
        self.word(&[0xea], next).raw(&selector.to_le_bytes())
    }

    /// Appends a near `jmp` to an address.
    pub fn jump(self, target: u32) -> Self {
        let next = self.here() + 5;
        self.word(&[0xe9], target.wrapping_sub(next))
    }

    /// `test al, mask; jz target`
    pub fn test_al_jz(self, mask: u8, target: u32) -> Self {
        let next = self.here() + 8;
        self.raw(&[0xa8, mask]).word(&[0x0f, 0x84], target.wrapping_sub(next))
    }

    /// `cmp dword [address], value; jne target`
    pub fn wait_for(self, address: u32, value: u8) -> Self {
        let start = self.here();
        let next = start + 14;
        self.word(&[0x83, 0x3c, 0x25], address)
            .raw(&[value])
            .word(&[0x0f, 0x85], start.wrapping_sub(next))
    }

    /// Appends an endless loop of `inc dword [address]`.
    pub fn spin(self, address: u32) -> Self {
        let top = self.here();
        self.inc(address).jump(top)
    }

    /// Appends an endless loop of `cli; hlt`.
    pub fn halt_for_good(self) -> Self {
        let top = self.here();
        self.raw(&[0xfa, 0xf4]).jump(top)
    }

    /// Appends `iretq`, which also unmasks NMIs.
    pub fn iretq(self) -> Self {
        self.raw(&[0x48, 0xcf])
    }

    /// `mov eax, value; mov crN, eax`, in 32-bit mode.
    pub fn control_register(self, number: u8, value: u32) -> Self {
        self.word(&[0xb8], value).raw(&[0x0f, 0x22, 0xc0 | number << 3])
    }

    /// `mov ecx, msr; mov eax, value; xor edx, edx; wrmsr`
    pub fn wrmsr(self, msr: u32, value: u32) -> Self {
        self.word(&[0xb9], msr).word(&[0xb8], value).raw(&[0x31, 0xd2, 0x0f, 0x30])
    }

    /// Appends `ud2`, which raises an exception.
    pub fn ud2(self) -> Self {
        self.raw(&[0x0f, 0x0b])
    }
}
