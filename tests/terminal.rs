//! Tests on a terminal: keys go to the guest one by one and without an echo, Ctrl-\ prints the backtraces,
//! Ctrl-C ends the run, and the terminal's modes are restored, when the run is stopped too.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};

use crate::common::*;
use crate::farm::site::wait_for;
use nmiscope_report::{Outcome, Trigger};
use rustix::process::{Signal, ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// A pseudo-terminal: the side of the person who types, and the side of the program.
struct Terminal {
    person: File,
    program: File,
}

impl Terminal {
    fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person = openpt(flags).expect("a pseudo-terminal");
        grantpt(&person).expect("grantpt");
        unlockpt(&person).expect("unlockpt");
        let program = ioctl_tiocgptpeer(&person, flags).expect("its other side");
        Self { person: person.into(), program: program.into() }
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.program).expect("a terminal has modes")
    }

    fn press(&mut self, keys: &[u8]) {
        self.person.write_all(keys).expect("the terminal takes keys");
    }

    /// Starts a program in the foreground of this terminal, with its standard input there.
    fn start(&self, mut invocation: Invocation) -> Running {
        invocation.command.stdin(self.program.try_clone().expect("a descriptor"));
        let attach = || {
            setsid()?;
            ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        };
        // SAFETY: between fork and exec, `attach` makes two system calls and nothing else: it
        // neither allocates nor takes a lock.
        unsafe { invocation.command.pre_exec(attach) };
        invocation.start()
    }
}

#[test]
fn keys_reach_the_guest_control_keys_the_tool_and_modes_are_restored() {
    let mut terminal = Terminal::open();
    let before = terminal.modes();
    assert!(before.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));

    let running = terminal.start(run_workload("idle", 2));
    running.wait_for("guest ready", 1);
    let during = terminal.modes().local_modes;
    assert!(!during.intersects(LocalModes::ICANON | LocalModes::ECHO), "{during:?}");
    assert!(during.contains(LocalModes::ISIG), "Ctrl-C stays Ctrl-C: {during:?}");

    terminal.press(b"h");
    running.wait_for("sysrq: l shows the call traces of all CPUs", 1);
    terminal.press(b"\x1c");
    running.wait_for("backtrace requested by SIGQUIT", 1);
    terminal.press(b"\x03");
    let report = running.wait().expect_code(exit::CLEAN).report();

    assert_eq!(report.outcome, Outcome::Stopped { by: "SIGINT".into() });
    assert_eq!(report.backtraces[0].trigger, Trigger::Signal { name: "SIGQUIT".into() });
    assert_eq!(terminal.modes().local_modes, before.local_modes);
    assert_eq!(terminal.modes().input_modes, before.input_modes);
    assert_eq!(terminal.modes().output_modes, before.output_modes);
}

/// Waits until a process is in this state (proc(5)): `T` for a stopped one.
fn wait_for_state(running: &Running, state: char) {
    let path = format!("/proc/{}/stat", running.pid().as_raw_nonzero());
    wait_for("processes in that state", || {
        let stat = std::fs::read_to_string(&path).expect("it has not been reaped");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(state))
    });
}

/// A shell gets its terminal back, sets modes of its own, and gives the terminal away again.
#[test]
fn a_stopped_run_gives_the_terminal_back_until_it_continues() {
    let mut terminal = Terminal::open();
    let before = terminal.modes();
    let cooked = LocalModes::ICANON | LocalModes::ECHO;
    let running = terminal.start(run_workload("idle", 1));
    running.wait_for("guest ready", 1);
    for round in 1..=2 {
        wait_for("raw modes", || !terminal.modes().local_modes.intersects(cooked));
        running.signal(Signal::TSTP);
        wait_for_state(&running, 'T');
        assert_eq!(terminal.modes().local_modes, before.local_modes);
        assert_eq!(
            terminal.modes().special_codes[SpecialCodeIndex::VSUSP],
            before.special_codes[SpecialCodeIndex::VSUSP]
        );
        running.signal(Signal::CONT);
        wait_for("raw modes", || !terminal.modes().local_modes.intersects(cooked));
        terminal.press(b"h");
        running.wait_for("sysrq: l shows the call traces of all CPUs", round);
    }

    // SIGSTOP cannot be handled, so that a shell sets the modes that it wants itself.
    running.signal(Signal::STOP);
    wait_for_state(&running, 'T');
    let mut after = before.clone();
    after.local_modes.remove(LocalModes::ECHOE);
    tcsetattr(&terminal.program, OptionalActions::Now, &after).expect("modes");
    running.signal(Signal::CONT);
    wait_for("raw modes", || !terminal.modes().local_modes.intersects(cooked));
    terminal.press(b"h");
    running.wait_for("sysrq: l shows the call traces of all CPUs", 3);
    terminal.press(b"\x03");
    running.wait().expect_code(exit::CLEAN);
    assert_eq!(terminal.modes().local_modes, after.local_modes);
}

#[test]
fn the_terminals_modes_are_restored_by_a_second_signal() {
    let terminal = Terminal::open();
    let before = terminal.modes();
    let stuck = run_workload("nmi-stuck", 1).args(["--hang-after", "0", "--nmi-timeout", "60s"]);
    let running = terminal.start(stuck);
    running.wait_for("guest ready", 1);
    running.signal(Signal::TERM);
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.signal(Signal::INT);
    let ended = running.wait();
    assert_eq!(ended.status.signal(), Some(2), "{}", ended.all());
    assert_eq!(terminal.modes().local_modes, before.local_modes);
}

#[test]
fn the_terminals_modes_are_restored_after_a_hang() {
    let terminal = Terminal::open();
    let before = terminal.modes();
    let hang = run_workload("spin-irqs-off", 1).args(["--hang-after", "300ms"]);
    terminal.start(hang).wait().expect_code(exit::HANG);
    assert_eq!(terminal.modes().local_modes, before.local_modes);
}

#[test]
fn a_console_in_a_file_leaves_the_terminals_modes_unchanged() {
    let mut terminal = Terminal::open();
    let before = terminal.modes();
    let running = terminal.start(run_workload("idle", 1).args(["--serial", "console"]));
    running.wait_for("guest ready", 1);
    assert_eq!(terminal.modes().local_modes, before.local_modes);
    terminal.press(b"\x03");
    running.wait().expect_code(exit::CLEAN);
}
