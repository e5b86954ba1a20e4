//! Machine code that waits: loops that read one word of memory until it changes, and the stores to a word.
//!
//! Owns what instructions show; refuses to own where code lies and what it is called. A loop counts only if
//! it leaves nothing to guess: one word, at an address that the loop does not change, decides about an exit,
//! and the loop calls nothing and stores nothing but to that word. Called by the parent module.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register,
    UsedMemory,
};

/// The most instructions that are looked at around a program counter: far more than a loop that waits has.
const MAX_INSTRUCTIONS: usize = 64;
/// The longest instruction, in bytes (SDM vol. 2, 2.3.11).
const MAX_LENGTH: usize = 15;

/// Bytes of code from a guest-virtual address on; `None` where there is no code.
pub type CodeBytes<'a> = dyn Fn(u64) -> Option<&'a [u8]> + 'a;

/// Returns the guest-virtual addresses of the word that the loop around `pc` waits for. `register` returns the
/// value of a 64-bit register at `pc`. `None` for code that is no such loop.
pub fn awaited_word(
    pc: u64,
    code: &CodeBytes<'_>,
    register: impl Fn(Register) -> Option<u64>,
) -> Option<Range<u64>> {
    let instructions = loop_around(pc, code)?;
    let mut factory = InstructionInfoFactory::new();
    let mut changed = BTreeSet::new();
    for instruction in instructions.values() {
        changed.extend(registers(&mut factory, instruction, writes));
    }
    let value = |wanted: Register| register(wanted).filter(|_| !changed.contains(&wanted));
    let mut words = BTreeSet::new();
    for instruction in instructions.values() {
        let is_atomic =
            instruction.has_lock_prefix() || instruction.mnemonic() == iced_x86::Mnemonic::Xchg;
        for memory in factory.info(instruction).used_memory().to_vec() {
            if !is_used(memory.access()) {
                continue;
            }
            if writes(memory.access()) && !is_atomic {
                return None;
            }
            let word = address(&memory, &value)?;
            words.insert((word, word.checked_add(memory.memory_size().size() as u64)?));
        }
    }
    let mut words = words.into_iter();
    let (start, end) = words.next().filter(|_| words.next().is_none())?;
    decides_about_an_exit(&instructions, &mut factory).then_some(start..end)
}

/// Returns the address of the first instruction in a function that stores to the word at a fixed address.
pub fn store(word: &Range<u64>, function: Range<u64>, code: &CodeBytes<'_>) -> Option<u64> {
    let length = usize::try_from(function.end.checked_sub(function.start)?).ok()?;
    let bytes = code(function.start)?;
    let bytes = &bytes[..length.min(bytes.len())];
    let mut factory = InstructionInfoFactory::new();
    let decoder = Decoder::with_ip(64, bytes, function.start, DecoderOptions::NONE);
    let stores = |instruction: &Instruction| {
        factory.info(instruction).used_memory().iter().any(|memory| {
            let start = address(memory, &|_| None).filter(|_| writes(memory.access()));
            start.is_some_and(|start| {
                let end = start.saturating_add(memory.memory_size().size() as u64);
                start < word.end && word.start < end
            })
        })
    };
    decoder.into_iter().find(stores).map(|instruction| instruction.ip())
}

/// Returns the instructions on the ways from `pc` back to it, by address; `None` if there is no way back
/// without a call, a return or an indirect jump.
fn loop_around(pc: u64, code: &CodeBytes<'_>) -> Option<BTreeMap<u64, Instruction>> {
    let mut found: BTreeMap<u64, Instruction> = BTreeMap::new();
    let mut next = VecDeque::from([pc]);
    while let Some(at) = next.pop_front().filter(|_| found.len() < MAX_INSTRUCTIONS) {
        if found.contains_key(&at) {
            continue;
        }
        let Some(bytes) = code(at) else { continue };
        let bytes = &bytes[..MAX_LENGTH.min(bytes.len())];
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            continue;
        }
        next.extend(successors(&instruction));
        found.insert(at, instruction);
    }
    let mut back = BTreeSet::from([pc]);
    loop {
        let before = back.len();
        for (at, instruction) in &found {
            if successors(instruction).any(|next| back.contains(&next)) {
                back.insert(*at);
            }
        }
        if back.len() == before {
            break;
        }
    }
    found.retain(|at, _| back.contains(at));
    let returns = found.values().any(|instruction| successors(instruction).any(|next| next == pc));
    returns.then_some(found)
}

/// Returns the addresses of the instructions that may follow in the same function.
fn successors(instruction: &Instruction) -> impl Iterator<Item = u64> + use<> {
    let (falls_through, jumps) = match instruction.flow_control() {
        FlowControl::Next => (true, false),
        FlowControl::ConditionalBranch => (true, true),
        FlowControl::UnconditionalBranch => (false, true),
        _ => (false, false),
    };
    let target = jumps.then(|| instruction.near_branch_target());
    falls_through.then(|| instruction.next_ip()).into_iter().chain(target)
}

/// Returns true if what the loop reads from memory reaches the comparison before a branch out of it.
fn decides_about_an_exit(
    instructions: &BTreeMap<u64, Instruction>,
    factory: &mut InstructionInfoFactory,
) -> bool {
    let mut read: BTreeSet<Register> = BTreeSet::new();
    let mut compares: BTreeSet<u64> = BTreeSet::new();
    loop {
        let before = (read.len(), compares.len());
        for instruction in instructions.values() {
            let memory = factory.info(instruction).used_memory().iter();
            let mut depends = memory.into_iter().any(|memory| is_used(memory.access()));
            depends |= registers(factory, instruction, reads).any(|used| read.contains(&used));
            if depends {
                read.extend(registers(factory, instruction, writes));
                compares.extend((instruction.rflags_modified() != 0).then(|| instruction.ip()));
            }
        }
        if before == (read.len(), compares.len()) {
            break;
        }
    }
    let is_exit = |instruction: &&Instruction| {
        instruction.flow_control() == FlowControl::ConditionalBranch
            && successors(instruction).any(|next| !instructions.contains_key(&next))
    };
    instructions.values().filter(is_exit).any(|exit| {
        let sets_flags = |instruction: &&Instruction| instruction.rflags_modified() != 0;
        let before = instructions.range(..exit.ip()).map(|(_, instruction)| instruction);
        let last = before.rev().find(sets_flags);
        let last = last.or_else(|| instructions.values().rev().find(sets_flags));
        last.is_some_and(|compare| compares.contains(&compare.ip()))
    })
}

/// Returns the 64-bit registers that an instruction uses in a certain way.
fn registers(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    is_wanted: fn(OpAccess) -> bool,
) -> impl Iterator<Item = Register> + use<> {
    let used = factory.info(instruction).used_registers().to_vec();
    let used = used.into_iter().filter(move |used| is_wanted(used.access()));
    used.map(|used| used.register().full_register())
}

/// Returns the guest-virtual address of an operand; `None` if it depends on a register without a known value.
fn address(memory: &UsedMemory, register: &impl Fn(Register) -> Option<u64>) -> Option<u64> {
    let has_own_base = matches!(memory.segment(), Register::FS | Register::GS);
    let value = |wanted: Register| match wanted {
        Register::None | Register::RIP => Some(0),
        wanted if wanted.is_gpr64() => register(wanted),
        _ => None,
    };
    let index = value(memory.index())?.wrapping_mul(u64::from(memory.scale()));
    let base = value(memory.base())?;
    (!has_own_base).then(|| base.wrapping_add(index).wrapping_add(memory.displacement()))
}

fn reads(access: OpAccess) -> bool {
    use OpAccess::{CondRead, Read, ReadCondWrite, ReadWrite};
    matches!(access, Read | CondRead | ReadWrite | ReadCondWrite)
}

fn writes(access: OpAccess) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}

fn is_used(access: OpAccess) -> bool {
    reads(access) || writes(access)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xffff_ffff_8020_0000;
    const WORD: u64 = 0xffff_ffff_8060_0000;

    /// Finds the word of the loop around the instruction at `offset` in code at `AT`. RDI has the address of the
    /// word, all other registers have 0.
    fn word(code: &[u8], offset: u64) -> Option<Range<u64>> {
        let bytes = |at: u64| code.get(usize::try_from(at.checked_sub(AT)?).ok()?..);
        let register = |register| Some(if register == Register::RDI { WORD } else { 0 });
        awaited_word(AT + offset, &bytes, register)
    }

    /// Code as objdump prints it.
    #[test]
    fn loops_that_read_one_word_are_recognised_at_each_instruction() {
        let rows: [(&[u8], &[u64], u64); 6] = [
            // cmpb $0,(%rdi); jne .+4; pause; jmp
            (&[0x80, 0x3f, 0, 0x75, 4, 0xf3, 0x90, 0xeb, 0xf7, 0xc3], &[0, 3, 5, 7], 1),
            // mov 0x3ffff9(%rip),%eax # WORD - 1; test $1,%al; je .+4; pause; jmp; ret
            (
                &[0x8b, 0x05, 0xfa, 0xff, 0x3f, 0, 0xa8, 1, 0x74, 4, 0xf3, 0x90, 0xeb, 0xf2, 0xc3],
                &[0, 6, 8, 10, 12],
                4,
            ),
            // pause; cmpl $2,0xffffffff80600000; jb
            (
                &[0xf3, 0x90, 0x83, 0x3c, 0x25, 0, 0, 0x60, 0x80, 2, 0x72, 0xf4, 0xc3],
                &[0, 2, 10],
                4,
            ),
            // xor %eax,%eax; lock cmpxchg %ecx,(%rdi); jne
            (&[0x31, 0xc0, 0xf0, 0x0f, 0xb1, 0x0f, 0x75, 0xf8, 0xc3], &[0, 2, 6], 4),
            // mov $1,%al; xchg %al,(%rdi); test %al,%al; jne
            (&[0xb0, 1, 0x86, 0x07, 0x84, 0xc0, 0x75, 0xf8, 0xc3], &[0, 2, 4, 6], 1),
            // hlt; mov (%rdi),%rax; mov %rax,%rcx; cmp %rcx,%rdx; jne
            (
                &[0xf4, 0x48, 0x8b, 0x07, 0x48, 0x89, 0xc1, 0x48, 0x39, 0xca, 0x75, 0xf4, 0xc3],
                &[0, 1, 4, 7, 10],
                8,
            ),
        ];
        for (code, offsets, size) in rows {
            for &offset in offsets {
                assert_eq!(word(code, offset), Some(WORD..WORD + size), "{code:x?} at {offset}");
            }
        }
    }

    #[test]
    fn other_loops_are_not_taken_for_waiting() {
        let rows: [&[u8]; 8] = [
            // pause; jmp: it reads nothing
            &[0xf3, 0x90, 0xeb, 0xfc],
            // cmpb $0,(%rdi); jne +3; inc %rdi; jmp: it reads another word each time
            &[0x80, 0x3f, 0, 0x75, 5, 0x48, 0xff, 0xc7, 0xeb, 0xf6, 0xc3],
            // mov (%rdi),%eax; cmp %eax,(%rsi); jne: two words
            &[0x8b, 0x07, 0x3b, 0x06, 0x75, 0xfa, 0xc3],
            // cmpb $0,(%rdi); movb $1,(%rsi); jne: it stores
            &[0x80, 0x3f, 0, 0xc6, 0x06, 1, 0x75, 0xf8, 0xc3],
            // mov (%rdi),%eax; dec %ecx; jne: the word does not decide
            &[0x8b, 0x07, 0xff, 0xc9, 0x75, 0xfa, 0xc3],
            // cmpb $0,(%rdi); call .; jne: it calls
            &[0x80, 0x3f, 0, 0xe8, 0, 0, 0, 0, 0x75, 0xf6, 0xc3],
            // cmpb $0,%gs:(%rdi); jne: the segment's base is not known
            &[0x65, 0x80, 0x3f, 0, 0x75, 0xfa, 0xc3],
            // ret, and nothing at all
            &[0xc3],
        ];
        for code in rows {
            assert_eq!(word(code, 0), None, "{code:x?}");
        }
        assert_eq!(word(&[], 0), None);
    }

    #[test]
    fn a_loop_longer_than_the_budget_is_left_out() {
        let mut code = vec![0x80, 0x3f, 0, 0x74, 0x7b];
        code.extend([0x90; 119]);
        code.extend([0xeb, 0x80, 0xc3]);
        assert_eq!(word(&code, 0), None);
    }

    #[test]
    fn stores_to_the_word_are_found_by_their_fixed_address() {
        let code: &[u8] = &[
            0x90, // nop
            0x8b, 0x05, 0xf9, 0xff, 0x3f, 0x00, // mov 0x3ffff9(%rip),%eax: a read
            0xc6, 0x04, 0x25, 2, 0, 0x60, 0x80, 1, // movb $1,WORD + 2
            0xc3,
        ];
        let bytes = |at: u64| code.get((at - AT) as usize..);
        let function = AT..AT + code.len() as u64;
        assert_eq!(store(&(WORD..WORD + 4), function.clone(), &bytes), Some(AT + 7));
        assert_eq!(store(&(WORD..WORD + 2), function.clone(), &bytes), None);
        assert_eq!(store(&(WORD..WORD + 4), AT..AT + 7, &bytes), None);
        assert_eq!(store(&(WORD..WORD + 4), Range { start: AT + 9, end: AT }, &bytes), None);
    }
}
