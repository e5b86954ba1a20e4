//! Stacks that the kernel printed about its own CPUs, in its log: of an NMI backtrace, a lockup, an RCU stall, an oops.
//!
//! Owns the lines that begin, make and end a stack (arch/x86/kernel/dumpstack.c, lib/nmi_backtrace.c, lib/dump_stack.c).
//! Refuses to own addresses: the kernel prints names and offsets. The text is the guest's, and may be anything: a line
//! that is none of these is skipped. Its work is linear in the log's length.

use std::collections::BTreeMap;

use crate::kernel::{LogRecord, PrintedEntry, PrintedStack};

/// The most lines and entries of one stack that are kept.
const MAX_LINES: usize = 512;
const MAX_ENTRIES: usize = 256;

/// Returns the last stack that the log has of each CPU, by the CPUs' numbers.
pub(super) fn printed_stacks(log: &[LogRecord]) -> Vec<PrintedStack> {
    let mut reader = Reader::default();
    for record in log {
        reader.read(record);
    }
    reader.finish();
    reader.stacks.into_values().collect()
}

#[derive(Default)]
struct Reader {
    stacks: BTreeMap<u32, PrintedStack>,
    /// The stack whose lines are being read.
    current: Option<PrintedStack>,
    /// True between `Call Trace:` and the end of it.
    in_trace: bool,
}

impl Reader {
    fn read(&mut self, record: &LogRecord) {
        let text = record.text.trim_end();
        if let Some(cpu) = begins(text) {
            // Two lines begin an NMI's backtrace.
            let is_same = self
                .current
                .as_ref()
                .is_some_and(|stack| stack.cpu == cpu && stack.entries.is_empty());
            if !is_same {
                self.finish();
                let (uptime, lines, entries) = (record.uptime, Vec::new(), Vec::new());
                self.current = Some(PrintedStack { cpu, uptime, lines, entries });
            }
            if let Some((_, place)) = text.split_once(" skipped: idling at ") {
                self.add(entry(place, true));
            }
        } else if text.trim() == "Call Trace:" {
            self.in_trace = self.current.is_some();
        } else if let Some(place) = text.strip_prefix("RIP: ") {
            // The kernel's code segment is 0x10, those of programs are 0x33 and 0x23.
            match place.strip_prefix("0010:") {
                Some(place) => self.add(entry(place, true)),
                None => self.in_trace = false,
            }
        } else if self.in_trace && !text.starts_with(' ') && !is_of_registers(text) {
            // Kernels before 5.11 do not mark the end.
            self.finish();
            return;
        } else if self.in_trace && text.starts_with(' ') {
            match text.trim() {
                "</TASK>" => self.end(text),
                place => self.add(entry(place, false)),
            }
        }
        if let Some(stack) = self.current.as_mut().filter(|stack| stack.lines.len() < MAX_LINES) {
            stack.lines.push(text.to_owned());
        }
    }

    fn add(&mut self, entry: Option<PrintedEntry>) {
        let stack = self.current.as_mut().filter(|stack| stack.entries.len() < MAX_ENTRIES);
        if let (Some(stack), Some(entry)) = (stack, entry) {
            stack.entries.push(entry);
        }
    }

    /// Ends the stack of a task, which is the outermost part.
    fn end(&mut self, text: &str) {
        self.current.iter_mut().for_each(|stack| stack.lines.push(text.to_owned()));
        self.finish();
    }

    fn finish(&mut self) {
        self.in_trace = false;
        if let Some(stack) = self.current.take().filter(|stack| !stack.entries.is_empty()) {
            self.stacks.insert(stack.cpu, stack);
        }
    }
}

/// Returns the number of the CPU whose stack a line begins; `None` for other lines.
fn begins(text: &str) -> Option<u32> {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    if let Some(rest) = text.strip_prefix("NMI backtrace for cpu ") {
        return number(rest);
    }
    let rest = text.strip_prefix("CPU: ")?;
    rest.contains(" PID: ").then(|| number(rest))?
}

/// Returns true for a line of registers or code, which an interrupt's frame in the middle of a stack has.
fn is_of_registers(text: &str) -> bool {
    const NAMES: [&str; 12] =
        ["RSP", "RAX", "RDX", "RBP", "R10", "R13", "RIP", "Code", "FS", "CS", "CR2", "ORIG_RAX"];
    text.split_once(':').is_some_and(|(name, _)| NAMES.contains(&name))
}

/// Parses an entry: `? function+0x14/0x90 [module]`, with a `?` where the kernel does not vouch for it.
fn entry(text: &str, interrupted: bool) -> Option<PrintedEntry> {
    let (text, reliable) = match text.strip_prefix("? ") {
        Some(text) => (text, false),
        None => (text, true),
    };
    let (place, module) = match text.split_once(' ') {
        Some((place, module)) => (place, Some(module.strip_prefix('[')?)),
        None => (text, None),
    };
    // A build-id may follow the module's name.
    let module = module.and_then(|module| module.split([' ', ']']).next()).map(str::to_owned);
    let (function, numbers) = place.rsplit_once('+')?;
    let (offset, size) = numbers.split_once('/')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (offset, function) = (number(offset)?, function.to_owned());
    number(size)?;
    Some(PrintedEntry { function, module, offset, interrupted, reliable })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log(text: &str) -> Vec<LogRecord> {
        let line = |text: &str| LogRecord {
            uptime: Duration::from_secs(9),
            cpu: None,
            level: 6,
            text: text.to_owned(),
        };
        text.lines().map(line).collect()
    }

    fn shown(stack: &PrintedStack) -> Vec<String> {
        let show = |entry: &PrintedEntry| {
            let marks = [(entry.interrupted, "!"), (!entry.reliable, "?")];
            let marks: String =
                marks.iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| *mark).collect();
            let module = entry.module.as_ref().map(|module| format!(" {module}"));
            format!("{marks}{}+{:#x}{}", entry.function, entry.offset, module.unwrap_or_default())
        };
        stack.entries.iter().map(show).collect()
    }

    // The lines are those of Linux 6.1 and 6.12; numbers and names are made up.
    #[test]
    fn last_stack_of_each_cpu_is_read() {
        let stacks = printed_stacks(&log("\
NMI backtrace for cpu 1
CPU: 1 PID: 108 Comm: insmod Tainted: G OE 6.1.0 #1
RIP: 0010:old_place+0x4/0x10
Call Trace:
 <TASK>
 old_caller+0x1/0x2
 </TASK>
NMI backtrace for cpu 2 skipped: idling at default_idle+0xb/0x10
watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [insmod:108]
CPU: 1 UID: 0 PID: 108 Comm: insmod Tainted: G OE 6.12.0 #1
Hardware name: QEMU
RIP: 0010:spins+0x13/0x20 [hangmod]
Code: 00 f3 90 <eb> fc
RSP: 0018:ffffb0f4c01efc38 EFLAGS: 00000246
Call Trace:
 <IRQ>
 ? watchdog_timer_fn+0x1a4/0x200
 </IRQ>
 <TASK>
 asm_sysvec_apic_timer_interrupt+0x16/0x20
RIP: 0010:inner+0x5/0x40
RAX: 0000000000000000
 do_one_initcall+0x4c/0x210
 init_module+0x10/0xff0 [hangmod 0123456789abcdef]
RIP: 0033:0x7f0000000000
 </TASK>
 kthread+0xda/0x100"));
        assert_eq!(stacks.len(), 2);
        assert_eq!((stacks[1].cpu, shown(&stacks[1])), (2, vec!["!default_idle+0xb".into()]));
        let expected = [
            "!spins+0x13 hangmod",
            "?watchdog_timer_fn+0x1a4",
            "asm_sysvec_apic_timer_interrupt+0x16",
            "!inner+0x5",
            "do_one_initcall+0x4c",
            "init_module+0x10 hangmod",
        ];
        assert_eq!((stacks[0].cpu, shown(&stacks[0])), (1, expected.map(str::to_owned).to_vec()));
        assert_eq!(
            stacks[0].lines.first().map(String::as_str),
            Some("CPU: 1 UID: 0 PID: 108 Comm: insmod Tainted: G OE 6.12.0 #1")
        );
    }

    #[test]
    fn text_that_is_no_stack_has_none() {
        let text =
            "CPU: 1 is online\nNMI backtrace for cpu x\nCall Trace:\n a+0x1/0x2\n RIP: 0010:b";
        assert_eq!(printed_stacks(&log(text)), []);
        assert_eq!(entry("+0x1/0x2 ", false).map(|entry| entry.module), None);
        assert_eq!(entry("a+1/2", false), None);
    }
}
