//! Stacks of the guest's kernel threads, unwound by the host: that of a sleeping thread from the
//! registers in its `SwitchFrame`, that of a running one from the vCPU's registers, each to the start of
//! tasks, by call frame information alone, wherever it was stopped.
//!
//! Needs `/dev/kvm`.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use crate::common::vm::ready_vm;
use nmiscope::capture::host_stack;
use nmiscope_guest::abi;
use nmiscope_guest::sched::MAX_TASKS;
use nmiscope_machine::{GuestVirtual, Register, UnwindRegisters, VcpuState, VirtualMemory};
use nmiscope_symbolizer::{Image, Strategy, Types, Unwinder, UnwoundFrame};
use nmiscope_vmm::Vm;

const CPUS: u32 = 3;

fn image() -> Image<'static> {
    Image::parse(nmiscope::bundled::image()).expect("the bundled image")
}

/// Returns the symbols of frames, innermost first. All frames must be found by call frame information.
fn symbols(image: &Image<'_>, frames: &[UnwoundFrame]) -> Vec<String> {
    assert!(frames.iter().all(|frame| frame.strategy != Strategy::FramePointer), "{frames:#?}");
    let name = |frame: &UnwoundFrame| {
        let found = image.symbol_containing(frame.pc.lookup_address());
        found.map_or_else(|| "??".into(), |found| found.symbol.name.into_owned())
    };
    frames.iter().map(name).collect()
}

/// Returns the symbols of a vCPU's stack.
fn stack_of_vcpu(image: &Image<'_>, vm: &Vm, state: VcpuState) -> Vec<String> {
    let stack = host_stack::unwind_vcpu(&Ok(state), Some(image), vm).expect("a stack");
    let names = symbols(image, &stack.frames);
    assert!(stack.ending.is_complete(), "{names:#?}: {}", stack.ending);
    names
}

/// Task as read from the guest's memory.
struct SeenTask {
    name: String,
    cpu: u64,
    state: u64,
    /// The symbols of its stack; `None` while it runs.
    stack: Option<Vec<String>>,
}

/// Reads all tasks of the guest.
fn tasks(image: &Image<'_>, types: &Types<'_>, memory: &impl VirtualMemory) -> Vec<SeenTask> {
    let frame = types.type_named("SwitchFrame").expect("the layout of a SwitchFrame");
    let table = types.variable("TASKS").expect("the table of tasks");
    let count = types.variable("nr_tasks").expect("their count");
    let count = count.peel().and_then(|count| count.read_unsigned(memory)).expect("their count");
    assert!(count <= MAX_TASKS as u64);
    let seen = |number| {
        let task = table.index(number).expect("a task");
        let word = |name: &str| {
            let field = task.field(name).and_then(|field| field.peel());
            field.and_then(|field| field.read_unsigned(memory)).expect("a word")
        };
        let mut name = [0; 16];
        memory.read(task.field("name").expect("a name").address(), &mut name).expect("a name");
        let stack_pointer = word("stack_pointer");
        let saved = |(register, name): (Register, &str)| {
            let offset = frame.member(name).expect("a register").offset;
            let mut bytes = [0; 8];
            let address = nmiscope_machine::VirtualAddress(stack_pointer + offset);
            memory.read(address, &mut bytes).expect("a register");
            (register, u64::from_le_bytes(bytes))
        };
        let stack = (stack_pointer != 0).then(|| {
            use Register::{R12, R13, R14, R15, Rbp, Rbx, Rip, Rsp};
            let kept = [
                (R15, "r15"),
                (R14, "r14"),
                (R13, "r13"),
                (R12, "r12"),
                (Rbx, "rbx"),
                (Rbp, "rbp"),
                (Rip, "rip"),
            ];
            let rsp = (Rsp, stack_pointer + frame.size().expect("a size"));
            let registers = UnwindRegisters::from_iter(kept.map(saved).into_iter().chain([rsp]));
            let trace = Unwinder::new(image).unwind(&registers, memory);
            let names = symbols(image, &trace.frames);
            assert!(trace.end.is_complete(), "task {number}: {names:#?}: {:?}", trace.end);
            names
        });
        let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
        SeenTask { name, cpu: word("cpu"), state: word("state"), stack }
    };
    (0..count).map(seen).collect()
}

#[test]
fn every_tasks_stack_is_complete_at_random_moments() {
    let image = image();
    let types = Types::new(&image).expect("debug information");
    let mut vm = ready_vm("tasks", CPUS);
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut states = BTreeSet::new();
    let mut deepest = 0;
    for capture in 0..300 {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        sleep(Duration::from_micros(seed % 5000));
        let paused: Vec<VcpuState> = vm
            .pause(Duration::from_secs(120))
            .into_iter()
            .map(|state| state.expect("a state"))
            .collect();
        for (cpu, state) in paused.iter().enumerate() {
            let names = stack_of_vcpu(&image, &vm, *state);
            let outermost = names.last().expect("a frame");
            let own = if cpu == 0 { "run_on_stack" } else { "ap_start" };
            assert!([own, "task_start"].contains(&outermost.as_str()), "{capture}: {names:#?}");
        }
        let tables = paused[0].registers.page_tables().expect("long mode");
        let seen = tasks(&image, &types, &GuestVirtual::new(&vm, tables));
        for task in &seen {
            assert!(["sorter", "carrier"].contains(&task.name.as_str()), "{}", task.name);
            assert!(task.cpu < CPUS.into());
            states.insert(task.state);
            let Some(stack) = &task.stack else { continue };
            assert_eq!(stack.last().map(String::as_str), Some("task_start"), "{stack:#?}");
            deepest = deepest.max(stack.len());
        }
        if capture > 100 {
            assert_eq!(seen.len(), 2 * CPUS as usize);
        }
        vm.resume();
    }
    assert!(deepest >= 4, "no task was seen asleep in a function");
    assert!(states.contains(&abi::TASK_BLOCKED.into()), "{states:?}");
}

/// Checks both sides of the instruction that changes the stack, and every other one.
#[test]
fn a_stack_is_complete_at_every_instruction_of_a_switch() {
    let image = image();
    let mut vm = ready_vm("tasks", 1);
    let switch = image.symbol("switch_stacks").expect("switch_stacks");
    let inside = switch.address.0..switch.address.0 + switch.size;
    let mut outermost = BTreeSet::new();
    for _ in 0..20 {
        vm.pause(Duration::from_secs(120));
        let mut state = vm.run_to(0, inside.start).expect("a vCPU that can be run");
        assert_eq!(state.registers.rip, inside.start, "no switch");
        while inside.contains(&state.registers.rip) {
            let names = stack_of_vcpu(&image, &vm, state);
            assert_eq!(names[0], "switch_stacks");
            outermost.extend(names.last().cloned());
            state = vm.step(0).expect("a vCPU that can be stepped");
        }
        outermost.extend(stack_of_vcpu(&image, &vm, state).pop());
        vm.resume();
    }
    let both = ["run_on_stack", "task_start"].map(String::from);
    assert_eq!(outermost, BTreeSet::from(both));
}
