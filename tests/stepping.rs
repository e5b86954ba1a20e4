//! Host stacks at every instruction: a vCPU is single-stepped through functions, an NMI's entry and its
//! return, and at each step the callers equal those of a model of the stack, which follows calls, returns
//! and interrupts by decoding the executed instructions.

use std::time::Duration;

use crate::common::vm::ready_vm;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use nmiscope::capture::host_stack;
use nmiscope::images::{Access, Files};
use nmiscope_machine::{GuestVirtual, VcpuState, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::Image;
use nmiscope_vmm::Vm;

/// Stepped vCPU, and a model of its stack.
struct Stepped<'a> {
    vm: Vm,
    image: &'a Image<'a>,
    state: VcpuState,
    /// Return addresses of all frames but the innermost, outermost first.
    callers: Vec<u64>,
}

impl<'a> Stepped<'a> {
    /// Stops at the start of a function. The host stack there is taken as true.
    fn at(workload: &str, function: &str, image: &'a Image<'a>) -> Self {
        let mut vm = ready_vm(workload, 1);
        vm.pause(Duration::from_secs(120));
        let address = address_of(image, function);
        let state = vm.run_to(0, address).expect("a vCPU that can be run");
        assert_eq!(state.registers.rip, address, "{function} is not executed");
        let mut stepped = Self { vm, image, state, callers: Vec::new() };
        stepped.callers = stepped.look().into_iter().skip(1).rev().collect();
        assert!(!stepped.callers.is_empty());
        stepped
    }

    /// Returns the addresses of the host stack's frames, innermost first. The stack must be complete.
    fn look(&self) -> Vec<u64> {
        let stack = host_stack::unwind_vcpu(&Ok(self.state), Some(self.image), &self.vm);
        let stack = stack.expect("a stack");
        assert!(stack.ending.is_complete(), "{}: {stack:#?}", self.place());
        stack.frames.iter().map(|frame| frame.pc.address().0).collect()
    }

    fn place(&self) -> String {
        let rip = VirtualAddress(self.state.registers.rip);
        match self.image.symbol_containing(rip) {
            Some(found) => format!("{rip} ({}+{:#x})", found.symbol.name, found.offset),
            None => rip.to_string(),
        }
    }

    #[track_caller]
    fn check(&self) {
        let expected =
            [self.state.registers.rip].into_iter().chain(self.callers.iter().rev().copied());
        let expected: Vec<u64> = expected.collect();
        assert_eq!(hex(&self.look()), hex(&expected), "at {}", self.place());
    }

    fn instruction_at(&self, rip: u64) -> Instruction {
        let tables = self.state.registers.page_tables().expect("long mode");
        let memory = GuestVirtual::new(&self.vm, tables);
        let mut bytes = [0; 15];
        memory.read(VirtualAddress(rip), &mut bytes).expect("code");
        Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode()
    }

    /// Executes one instruction, and updates the model.
    #[track_caller]
    fn step(&mut self) {
        let before = self.state.registers.rip;
        let instruction = self.instruction_at(before);
        self.state = self.vm.step(0).expect("a vCPU that can be stepped");
        if entered_a_stub(self.image, before, self.state.registers.rip) {
            self.callers.push(before);
        } else {
            self.follow(&instruction);
        }
        self.check();
    }

    /// Updates the model's stack for an executed instruction.
    #[track_caller]
    fn follow(&mut self, instruction: &Instruction) {
        let rip = self.state.registers.rip;
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => {
                self.callers.push(instruction.next_ip());
            }
            FlowControl::Return => {
                let to = self.callers.pop().expect("a frame to return to");
                let is_iret = instruction.mnemonic() == Mnemonic::Iretq;
                // An IRET sets the trap flag for what it returns to: the trap is one instruction
                // late.
                if is_iret && rip != to {
                    let next = self.instruction_at(to);
                    self.follow(&next);
                } else {
                    assert_eq!(rip, to, "the model is wrong: {instruction}");
                }
            }
            _ => {}
        }
    }

    /// Runs until the model's frame at that depth continues.
    fn return_to(&mut self, depth: usize) {
        let address = self.callers[depth];
        self.state = self.vm.run_to(0, address).expect("a vCPU that can be run");
        assert_eq!(self.state.registers.rip, address, "it did not return");
        self.callers.truncate(depth);
        self.check();
    }
}

/// Returns true if an interrupt came instead of the instruction: it begins with its vector's stub.
fn entered_a_stub(image: &Image<'_>, before: u64, after: u64) -> bool {
    let is_stub = |rip| {
        let found = image.symbol_containing(VirtualAddress(rip));
        found.is_some_and(|found| {
            let vector = found.symbol.name.strip_prefix("trap_");
            vector.is_some_and(|vector| vector.parse::<u8>().is_ok())
        })
    };
    is_stub(after) && !is_stub(before)
}

fn hex(addresses: &[u64]) -> Vec<String> {
    addresses.iter().map(|address| format!("{address:x}")).collect()
}

fn address_of(image: &Image<'_>, function: &str) -> u64 {
    image.symbol(function).unwrap_or_else(|| panic!("no symbol {function}")).address.0
}

fn files() -> Files {
    Files::open(None, Access::Read).expect("the bundled guest")
}

/// Returns the mangled name of a kernel function.
fn mangled(image: &[u8], path: &str) -> String {
    use object::{Object, ObjectSymbol};
    let file = object::File::parse(image).expect("the bundled guest");
    let names = file.symbols().filter_map(|symbol| symbol.name().ok());
    let wanted = |name: &&str| nmiscope_symbolizer::demangle(name).ends_with(path);
    names.into_iter().find(wanted).unwrap_or_else(|| panic!("no function {path}")).to_owned()
}

#[test]
fn callers_are_right_at_every_instruction_of_functions() {
    let files = files();
    let image = files.parse().expect("the bundled guest");
    let step = mangled(&files.image, "workload::busy::step");
    let mut stepped = Stepped::at("busy", &step, &image);
    let mut deepest = 0;
    for _ in 0..6000 {
        stepped.step();
        deepest = deepest.max(stepped.callers.len());
    }
    assert!(deepest > 3, "no calls were seen");
}

#[test]
fn callers_are_right_at_every_instruction_of_an_nmi() {
    let files = files();
    let image = files.parse().expect("the bundled guest");
    let step = mangled(&files.image, "workload::busy::step");
    let mut stepped = Stepped::at("busy", &step, &image);
    let outer = stepped.callers.len();
    let interrupted = stepped.state.registers.rip;
    // Without time to run it stays pending, and comes next.
    stepped.vm.run_nmi(&[0], Duration::ZERO);
    stepped.state =
        stepped.vm.run_to(0, address_of(&image, "trap_2")).expect("a vCPU that can be run");
    stepped.callers.push(interrupted);
    stepped.check();
    // Into the functions that trap_common calls.
    for _ in 0..400 {
        stepped.step();
    }
    assert!(stepped.callers.len() > outer + 2, "trap_common has called nothing");
    // Back to it, and through its end into the interrupted function.
    stepped.return_to(outer + 1);
    while stepped.callers.len() > outer {
        stepped.step();
    }
    assert!(!stepped.state.is_in_nmi(), "the NMI has not returned");
    for _ in 0..100 {
        stepped.step();
    }
}

#[test]
fn running_to_an_unreached_address_times_out() {
    let files = files();
    let image = files.parse().expect("the bundled guest");
    let step = mangled(&files.image, "workload::busy::step");
    let mut stepped = Stepped::at("busy", &step, &image);
    let never = address_of(&image, "trap_8");
    let state = stepped.vm.run_to(0, never).expect("a vCPU that can be asked");
    assert_ne!(state.registers.rip, never);
    // The vCPU is stopped again, and can be stepped.
    stepped.state = state;
    stepped.callers = stepped.look().into_iter().skip(1).rev().collect();
    stepped.step();
}
