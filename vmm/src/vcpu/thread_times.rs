//! What the host's scheduler tells of a vCPU's thread, without the thread noticing.
//!
//! Owns the thread's files in /proc and their formats; refuses to own the CPU clock (`host`) and
//! what standing still means (the crate's callers). Called by the vCPU's handle.
//!
//! The run time is not taken from `schedstat`, although its first field is one: the scheduler
//! brings that up to date at its ticks, for a thread that runs on a CPU without ticks once a second,
//! and the CPU clock whenever it is asked (Linux, kernel/sched/core.c, `task_sched_runtime`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::thread::Pid;

/// A vCPU's thread as the host's scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadTimes {
    /// CPU time used so far, in the guest and for it, up to this moment. Includes what KVM spends
    /// polling before it puts a halted vCPU to sleep (`halt_poll_ns`).
    pub run_time: Duration,
    /// Time spent so far waiting for a CPU. A wait that goes on is added when it ends: a thread that
    /// the host does not run at all is one in [`ThreadState::Running`] of which neither time grows.
    /// `None` on a kernel without CONFIG_SCHED_INFO.
    pub run_delay: Option<Duration>,
    /// What it is doing.
    pub state: ThreadState,
}

/// What a thread is doing (proc_pid_stat(5), field 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadState {
    /// R: on a CPU, or waiting for one. In the guest too.
    Running,
    /// S: a vCPU in HLT, one that waits to be started, or one that is paused.
    Sleeping,
    /// D: waiting for the host's disk, swap or a lock of its kernel.
    Blocked,
    /// T or t: by a signal or by a debugger of this process.
    Stopped,
    /// Anything else, by its letter.
    Other(char),
}

/// The files of one thread. Reading them anew is reading from their start again.
#[derive(Debug)]
pub(super) struct ThreadFiles {
    stat: File,
    /// Not there without CONFIG_SCHED_INFO.
    schedstat: Option<File>,
}

impl ThreadFiles {
    /// Those of a thread of this process.
    pub(super) fn open(thread: Pid) -> io::Result<Self> {
        let file = |name| File::open(format!("/proc/self/task/{thread}/{name}"));
        let stat = file("stat")?;
        let schedstat = match file("schedstat") {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { stat, schedstat })
    }

    pub(super) fn state(&self) -> io::Result<ThreadState> {
        // The state comes after a number and a name of at most 64 bytes.
        let mut buffer = [0; 256];
        parse_state(read(&self.stat, &mut buffer)?).ok_or_else(malformed)
    }

    pub(super) fn run_delay(&self) -> io::Result<Option<Duration>> {
        let Some(schedstat) = &self.schedstat else {
            return Ok(None);
        };
        // Three numbers of at most 20 digits.
        let mut buffer = [0; 64];
        parse_run_delay(read(schedstat, &mut buffer)?).ok_or_else(malformed)
    }
}

fn read<'buffer>(file: &File, buffer: &'buffer mut [u8]) -> io::Result<&'buffer [u8]> {
    let len = file.read_at(buffer, 0)?;
    Ok(&buffer[..len])
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// `stat`: a number, the thread's name in parentheses, the state's letter, numbers. The name can
/// hold anything; nothing behind it holds a parenthesis.
fn parse_state(stat: &[u8]) -> Option<ThreadState> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let [b' ', letter, b' ', ..] = stat[name_end + 1..] else {
        return None;
    };
    Some(match letter {
        b'R' => ThreadState::Running,
        b'S' => ThreadState::Sleeping,
        b'D' => ThreadState::Blocked,
        b'T' | b't' => ThreadState::Stopped,
        _ if letter.is_ascii_alphabetic() => ThreadState::Other(letter.into()),
        _ => return None,
    })
}

/// `schedstat`: time on a CPU and time waiting for one, in nanoseconds, and how often it was given
/// one. A kernel that does not count says that it never was; the thread that asks to be watched has
/// run. The outer `None` is for what is none of this.
fn parse_run_delay(schedstat: &[u8]) -> Option<Option<Duration>> {
    let text = std::str::from_utf8(schedstat).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (_run, delay, times) =
        (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((times > 0).then(|| Duration::from_nanos(delay)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_behind_any_name() {
        let table: [(&[u8], Option<ThreadState>); 14] = [
            (b"4711 (vcpu0) R 1 4711 4711 0 -1 4194368 0", Some(ThreadState::Running)),
            (b"4711 (vcpu0) S 1 4711", Some(ThreadState::Sleeping)),
            (b"4711 (vcpu0) D 1 4711", Some(ThreadState::Blocked)),
            (b"4711 (vcpu0) T 1 4711", Some(ThreadState::Stopped)),
            (b"4711 (vcpu0) t 1 4711", Some(ThreadState::Stopped)),
            (b"4711 (vcpu0) Z 1 4711", Some(ThreadState::Other('Z'))),
            (b"1 (a name) S 1", Some(ThreadState::Sleeping)),
            (b"1 (a) R (b) S 1", Some(ThreadState::Sleeping)),
            (b"1 ((((\n)))) D 1", Some(ThreadState::Blocked)),
            (b"1 (\xff\xfe) R 1", Some(ThreadState::Running)),
            (b"1 (vcpu0) 7 1", None),
            (b"1 (vcpu0)", None),
            (b"1 vcpu0 R 1", None),
            (b"", None),
        ];
        for (stat, state) in table {
            assert_eq!(parse_state(stat), state, "{:?}", stat.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_run_delay_is_the_second_number_unless_the_kernel_does_not_count() {
        let nanoseconds = |n| Some(Some(Duration::from_nanos(n)));
        let table: [(&[u8], Option<Option<Duration>>); 9] = [
            (b"28107715 4783178 86\n", nanoseconds(4_783_178)),
            (b"0 0 1\n", nanoseconds(0)),
            (b"18446744073709551615 18446744073709551615 1\n", nanoseconds(u64::MAX)),
            (b"0 0 0\n", Some(None)),
            (b"1 2\n", None),
            (b"1 -2 3\n", None),
            (b"1 18446744073709551616 3\n", None),
            (b"1 \xff 3\n", None),
            (b"", None),
        ];
        for (schedstat, delay) in table {
            assert_eq!(parse_run_delay(schedstat), delay, "{}", schedstat.escape_ascii());
        }
    }

    #[test]
    fn a_thread_that_is_gone_is_an_error() {
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            send.send(ThreadFiles::open(rustix::thread::gettid()).unwrap()).unwrap();
        });
        let files = receive.recv().unwrap();
        thread.join().unwrap();
        // The kernel may still be taking it down when join returns.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while files.state().is_ok() {
            assert!(std::time::Instant::now() < until, "a thread that was joined is still there");
        }
        assert_eq!(files.state().unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(files.run_delay().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
