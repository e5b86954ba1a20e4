//! Scheduler state and times of a vCPU's thread, read from the host without disturbing the thread.
//!
//! Owns the thread's files in /proc and their formats; refuses to own the CPU clock (`host`) and the
//! judgement of a vCPU that makes no progress (the crate's callers). Called by the vCPU's handle.
//!
//! The run time does not come from the first field of `schedstat`: the scheduler updates that field at its
//! ticks, which on a tickless CPU is once a second, but the CPU clock at each read (Linux,
//! kernel/sched/core.c, `task_sched_runtime`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::thread::Pid;

/// Times and state of a vCPU's thread in the host's scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadTimes {
    /// CPU time used so far, in the guest and for it. Includes the time for which KVM polls before it puts
    /// a halted vCPU to sleep (`halt_poll_ns`).
    pub run_time: Duration,
    /// Time spent so far waiting for a CPU. A wait is added when it ends: for a thread that the host does
    /// not run at all, the state is [`ThreadState::Running`] and neither time grows. `None` on a kernel
    /// without CONFIG_SCHED_INFO.
    pub run_delay: Option<Duration>,
    /// State of the thread in the host's scheduler.
    pub state: ThreadState,
}

/// State of a thread (proc_pid_stat(5), field 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadState {
    /// R: on a CPU, in the guest or outside, or waiting for one.
    Running,
    /// S: the vCPU is halted, not started, or paused.
    Sleeping,
    /// D: waiting for the host's disk, swap, or a lock in its kernel.
    Blocked,
    /// T or t: stopped by a signal, or by a debugger of this process.
    Stopped,
    /// Any other state, by its letter.
    Other(char),
}

/// Open files of a thread in /proc. Each read starts at offset 0 and gets current values.
#[derive(Debug)]
pub(super) struct ThreadFiles {
    stat: File,
    /// The file `schedstat`; `None` on a kernel without CONFIG_SCHED_INFO.
    schedstat: Option<File>,
}

impl ThreadFiles {
    /// Opens the files of a thread of this process.
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
        // The state follows a number and a name of at most 64 bytes.
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

/// Parses `stat`: a number, the thread's name in parentheses, the state's letter, numbers. The name may
/// have any bytes; no field behind it has a parenthesis.
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

/// Parses `schedstat`: time on a CPU and time waiting for one, in nanoseconds, and the number of times it
/// got one. A thread that is watched has run at least once, so 0 times means that the kernel does not
/// count: `Some(None)`. Returns `None` for malformed text.
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
    fn a_run_delay_is_the_second_number_or_absent_without_counts() {
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
    fn a_thread_that_has_ended_is_an_error() {
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
