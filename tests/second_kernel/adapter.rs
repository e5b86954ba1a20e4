//! Adapter of the second kernel, which reads everything from memory.

use std::borrow::Cow;
use std::time::Duration;

use nmiscope::kernel::{
    CpuActivity, Depth, KernelAdapter, KernelState, KernelSymbols, KernelTask, LocateError,
    Located, Lock, LockKind, Log, LogError, LogRecord, Site, TaskRunState, TraceEntry, Vocabulary,
    Wait, WaitFor,
};
use nmiscope::targets::NoAnswer;
use nmiscope_machine::{
    GuestVirtual, PageTables, PhysicalMemory, ReadError, Register, Registers, TaskRegisters,
    UnwindRegisters, VirtualAddress, VirtualMemory,
};
use nmiscope_symbolizer::{
    End, Frame, ProgramCounter, Resolved, Strategy, Symbol, SymbolKind, SymbolOffset, Trace,
    UnwoundFrame,
};

use super::machine::*;

#[derive(Debug, Clone)]
struct Function {
    name: String,
    start: u64,
    size: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    start: u64,
    size: u64,
    frame: u64,
}

/// Second kernel, as it describes itself in one machine.
#[derive(Debug, Clone)]
pub(super) struct SecondKernel {
    tables: PageTables,
    functions: Vec<Function>,
    rows: Vec<Row>,
    cpus: u64,
    tasks: u64,
    layout: [u64; 6],
}

impl SecondKernel {
    pub(super) fn recognise(memory: &dyn PhysicalMemory, registers: &Registers) -> Option<Self> {
        let tables = registers.page_tables().ok()?;
        let memory = GuestVirtual::new(memory, tables);
        let word = |address: u64| memory.read_u64(VirtualAddress(address)).ok();
        (word(DESCRIPTOR)? == MAGIC).then_some(())?;
        let [bias, count, cpus, tasks, driver] =
            [1, 2, 3, 4, 5].map(|index| word(DESCRIPTOR + index * 8).expect("beside the magic"));
        // Addresses near 0 are the driver's, which is linked there.
        let loaded =
            |address: u64| if address < LINKED { driver + address } else { address + bias };
        let (mut functions, mut rows) = (Vec::new(), Vec::new());
        for index in 0..count.min(64) {
            let [low, high, start, size] =
                [0, 8, 16, 24].map(|at| word(SYMBOLS + index * 32 + at).unwrap_or(0));
            let module = if start < LINKED { " [driver]" } else { "" };
            let name = name_of([low, high]) + module;
            functions.push(Function { name, start: loaded(start), size });
            let [start, size, frame] =
                [0, 8, 16].map(|at| word(ROWS + index * 24 + at).unwrap_or(0));
            rows.push(Row { start: loaded(start), size, frame });
        }
        let layout = [0, 1, 2, 3, 4, 5].map(|index| word(LAYOUT + index * 8).unwrap_or(0));
        Some(Self { tables, functions, rows, cpus, tasks, layout })
    }

    fn function(&self, address: u64) -> Option<&Function> {
        let mut functions = self.functions.iter();
        functions.find(|function| address.wrapping_sub(function.start) < function.size)
    }
}

impl KernelAdapter for SecondKernel {
    fn unknown_because(&self) -> Option<&str> {
        None
    }

    fn name(&self) -> Option<String> {
        Some("second kernel 1.0".into())
    }

    fn vocabulary(&self) -> &dyn Vocabulary {
        self
    }

    fn locate(
        &self,
        _memory: &dyn PhysicalMemory,
        _registers: &mut dyn Iterator<Item = Result<Registers, NoAnswer>>,
    ) -> Result<Box<dyn Located>, LocateError> {
        Ok(Box::new(self.clone()))
    }

    fn symbols<'a>(
        &'a self,
        _image: Option<&'a dyn KernelSymbols>,
    ) -> Option<&'a dyn KernelSymbols> {
        Some(self)
    }
}

impl Vocabulary for SecondKernel {
    fn is_ready(&self, _post_code: u8) -> bool {
        false
    }

    fn is_panic(&self, _exit_code: u32) -> bool {
        false
    }

    fn panic_message(&self, console: &[String]) -> Option<String> {
        console.iter().rev().find_map(|line| line.strip_prefix("halt: ").map(str::to_owned))
    }

    fn call_trace(&self, _text: &str) -> Option<Vec<TraceEntry>> {
        None
    }

    fn is_plumbing(&self, function: &str) -> bool {
        function.starts_with("mutex_")
    }

    fn is_start(&self, function: &str) -> bool {
        function == "worker_loop"
    }
}

impl Located for SecondKernel {
    fn state(
        &self,
        memory: &dyn PhysicalMemory,
        _vcpus: &[Option<Registers>],
        _depth: Depth,
    ) -> Result<KernelState, ReadError> {
        let memory = GuestVirtual::new(memory, self.tables);
        let word = |address: u64| memory.read_u64(VirtualAddress(address));
        let mut state = KernelState::default();
        for cpu in 0..self.cpus.min(64) {
            let beat = word(CPUS + cpu * 8)?;
            let activity =
                CpuActivity { online: true, tick: beat, main_loop: beat, ..Default::default() };
            state.cpus.push(Some(activity));
        }
        let [name, status, cpu, lock, stack, size] = self.layout;
        for number in 0..self.tasks.min(64) {
            let task = TASKS + number * size;
            let waits_for = word(task + lock)?;
            let stack = word(task + stack)?;
            let off = word(task + status)? == 2;
            let registers = off.then(|| -> Result<TaskRegisters, ReadError> {
                TaskRegisters::try_from_fn(|register| match register {
                    Register::Rip => word(stack),
                    Register::Rsp => Ok(stack + 8),
                    _ => Ok(0),
                })
            });
            state.tasks.push(Some(KernelTask {
                name: name_of([word(task + name)?, word(task + name + 8)?]),
                cpu: word(task + cpu)? as u32,
                state: if off { TaskRunState::Blocked } else { TaskRunState::Running },
                switches: 1,
                wait: (waits_for != 0).then(|| Wait {
                    what: WaitFor::Lock(waits_for),
                    since_ns: 5000,
                    at: Site::default(),
                    ends_by: None,
                }),
                since_ns: None,
                registers: registers.transpose()?,
            }));
            if waits_for != 0 {
                let holder = word(waits_for)?.checked_sub(1).map(|holder| holder as u32);
                let taken_ns = word(waits_for + 8)?;
                let (kind, taken_at) = (LockKind::Mutex, Site::default());
                state.locks.insert(waits_for, Lock { kind, holder, taken_at, taken_ns });
            }
        }
        for (number, task) in (0..).zip(state.tasks.iter().flatten()) {
            let cpu = state.cpus.get_mut(task.cpu as usize).and_then(Option::as_mut);
            if let Some(cpu) = cpu.filter(|_| task.state == TaskRunState::Running) {
                cpu.task = Some(number);
            }
        }
        Ok(state)
    }

    fn log(&self, memory: &dyn PhysicalMemory) -> Option<Result<Log, LogError>> {
        let memory = GuestVirtual::new(memory, self.tables);
        let word = |address: u64| memory.read_u64(VirtualAddress(address));
        let record = |index: u64| -> Result<LogRecord, ReadError> {
            let at = LOG + 8 + index * 24;
            let uptime = Duration::from_nanos(word(at)?);
            let text = name_of([word(at + 8)?, word(at + 16)?]);
            Ok(LogRecord { uptime, cpu: None, level: 6, text })
        };
        let records = word(LOG).and_then(|count| (0..count.min(64)).map(record).collect());
        Some(records.map(|records| Log { records, lost: 0 }).map_err(LogError::from))
    }

    fn address_space(&self) -> PageTables {
        self.tables
    }

    fn own_memory(&self) -> Vec<(VirtualAddress, u64)> {
        vec![(VirtualAddress(BASE), 0x8000)]
    }
}

impl KernelSymbols for SecondKernel {
    fn frames(&self, counter: ProgramCounter) -> Resolved<'_> {
        let address = counter.lookup_address();
        let frame = self.function(address.0).map(|function| Frame {
            function: Some(function.name.clone()),
            linkage_name: None,
            location: None,
            inlined: false,
        });
        let frames = frame.into_iter().collect();
        Resolved { address, frames, symbol: self.symbol_containing(address), missing: None }
    }

    fn symbol_containing(&self, address: VirtualAddress) -> Option<SymbolOffset<'_>> {
        let function = self.function(address.0)?;
        let symbol = Symbol {
            name: Cow::Borrowed(&function.name),
            address: VirtualAddress(function.start),
            size: function.size,
            kind: SymbolKind::Function,
        };
        Some(SymbolOffset { offset: address.0 - function.start, symbol })
    }

    fn address_of(&self, name: &str) -> Option<VirtualAddress> {
        let found = self.functions.iter().find(|function| function.name == name)?;
        Some(VirtualAddress(found.start))
    }

    fn unwind(&self, registers: &UnwindRegisters, memory: &dyn VirtualMemory) -> Trace {
        let mut frames = Vec::new();
        let mut registers = registers.clone();
        let (mut strategy, mut interrupted) = (Strategy::Registers, true);
        loop {
            let pc = VirtualAddress(registers.get(Register::Rip).unwrap_or(0));
            let stack = registers.get(Register::Rsp).unwrap_or(0);
            let counter = if interrupted {
                ProgramCounter::Interrupted(pc)
            } else {
                ProgramCounter::Return(pc)
            };
            let address = counter.lookup_address().0;
            let row = self.rows.iter().find(|row| address.wrapping_sub(row.start) < row.size);
            let cfa = row.map(|row| VirtualAddress(stack + row.frame + 8));
            let (is_signal_frame, cfi_fault) = (false, None);
            let kept = registers.clone();
            frames.push(UnwoundFrame {
                pc: counter,
                strategy,
                registers: kept,
                cfa,
                is_signal_frame,
                cfi_fault,
            });
            let end = match cfa {
                None => End::NotText { address: pc },
                Some(_) if row.is_some_and(|row| row.frame == 0) => End::Outermost,
                Some(cfa) => match memory.read_u64(VirtualAddress(cfa.0 - 8)) {
                    Err(error) => error.into(),
                    Ok(0) => End::ReturnAddressZero,
                    Ok(_) if frames.len() == 16 => End::TooManyFrames,
                    Ok(caller) => {
                        registers = UnwindRegisters::new(VirtualAddress(caller), cfa);
                        (strategy, interrupted) = (Strategy::Cfi, false);
                        continue;
                    }
                },
            };
            return Trace { frames, end };
        }
    }
}
