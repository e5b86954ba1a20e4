//! A handle to another process.
//!
//! Owns the identity of the process, so that a PID that the kernel has reused is never followed, and the
//! reasons why its memory may not be read. Refuses to own which process is a QEMU (`find`).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::wait::{Deadline, wait_for};

/// Size limit of a file below /proc/PID that is read whole, in bytes.
const LONGEST_FILE: u64 = 64 << 20;

/// Error of inspecting another process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// No process has this PID, or it has ended.
    #[error("inspect process {0}: there is no such process")]
    NoSuchProcess(i32),
    /// The process may not be traced, and so its memory may not be read.
    #[error("read process {pid}: not permitted: {denial}")]
    NotPermitted {
        /// PID of the inspected process.
        pid: i32,
        /// The reason, as far as it can be determined.
        denial: Denial,
    },
    /// A system call on the host failed.
    #[error("read {path} of process {pid}")]
    Host {
        /// PID of the inspected process.
        pid: i32,
        /// Name of the file below `/proc/PID`.
        path: String,
        /// Error returned by the host.
        #[source]
        source: io::Error,
    },
}

/// Reason why a process may not be traced (ptrace(2), "Ptrace access mode checking").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The process belongs to another user.
    #[error("it belongs to user {owner}, and you are user {own}: run this as root or as that user")]
    AnotherUser {
        /// User ID of the process.
        owner: u32,
        /// Effective user ID of this program.
        own: u32,
    },
    /// The Yama security module forbids it.
    #[error(
        "kernel.yama.ptrace_scope is {scope}: run this as root{}",
        if *scope >= 3 { "; even root may not at 3, until the host is restarted" } else { "" }
    )]
    Yama {
        /// Value of `kernel.yama.ptrace_scope`: 1 permits descendants, 2 needs CAP_SYS_PTRACE, 3 forbids
        /// tracing.
        scope: u32,
    },
    /// The user is the same and Yama permits it: the process has capabilities, changed its user or is
    /// confined.
    #[error(
        "it has more capabilities than you, or is confined: run this as root, with CAP_SYS_PTRACE"
    )]
    Privileged,
}

/// A process, identified by a pidfd, which never refers to a later process with the same PID.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: i32,
    descriptor: OwnedFd,
}

impl ProcessHandle {
    /// Opens a handle to the process `pid`.
    ///
    /// # Errors
    /// [`ProcessError::NoSuchProcess`], also for the ID of a thread; [`ProcessError::Host`].
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        let none = ProcessError::NoSuchProcess(pid);
        let Some(number) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
            return Err(none);
        };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Self { pid, descriptor }),
            Err(error) if is_gone(&error.into()) => Err(none),
            Err(error) => Err(host(pid, "", error.into())),
        }
    }

    /// PID that the process was opened by.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// True until the process has ended. While true, files opened before by its PID are this process's.
    pub fn is_alive(&self) -> bool {
        let fd = self.descriptor.as_fd();
        // A process that has ended is readable (pidfd_open(2)).
        matches!(wait_for(fd, PollFlags::IN, Deadline::after(Duration::ZERO)), Ok(false))
    }

    /// Returns the path of a file below `/proc/PID`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid)).join(name)
    }

    /// Opens a file below `/proc/PID`. Linux ties the descriptor to this process, so it never refers to a
    /// later one.
    pub(crate) fn open_file(&self, name: &str) -> Result<File, ProcessError> {
        let file = File::open(self.path(name)).map_err(|error| self.explain(name, error))?;
        self.confirm()?;
        Ok(file)
    }

    /// Reads a whole file below `/proc/PID`.
    pub(crate) fn read_file(&self, name: &str) -> Result<Vec<u8>, ProcessError> {
        let mut bytes = Vec::new();
        let file = self.open_file(name)?;
        let result = file.take(LONGEST_FILE).read_to_end(&mut bytes);
        result.map_err(|error| self.explain(name, error))?;
        Ok(bytes)
    }

    /// Reads a symbolic link below `/proc/PID`.
    pub(crate) fn read_link(&self, name: &str) -> Result<PathBuf, ProcessError> {
        let target = fs::read_link(self.path(name)).map_err(|error| self.explain(name, error))?;
        self.confirm()?;
        Ok(target)
    }

    fn confirm(&self) -> Result<(), ProcessError> {
        if self.is_alive() { Ok(()) } else { Err(ProcessError::NoSuchProcess(self.pid)) }
    }

    /// Converts the error of a file below `/proc/PID`.
    pub(crate) fn explain(&self, name: &str, error: io::Error) -> ProcessError {
        if is_gone(&error) || !self.is_alive() {
            return ProcessError::NoSuchProcess(self.pid);
        }
        if error.kind() == ErrorKind::PermissionDenied {
            return ProcessError::NotPermitted { pid: self.pid, denial: self.denial() };
        }
        host(self.pid, name, error)
    }

    fn denial(&self) -> Denial {
        let owner = fs::metadata(self.path("status")).map(|metadata| metadata.uid());
        let own = rustix::process::geteuid().as_raw();
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
        let scope = scope.ok().and_then(|scope| scope.trim().parse().ok()).unwrap_or(0);
        Denial::new(owner.unwrap_or(own), own, scope)
    }
}

impl Denial {
    /// Derives the reason from the user IDs and Yama's scope (Documentation/admin-guide/LSM/Yama.rst).
    fn new(owner: u32, own: u32, scope: u32) -> Self {
        if own != 0 && owner != own {
            Self::AnotherUser { owner, own }
        } else if scope >= 3 || (scope > 0 && own != 0) {
            Self::Yama { scope }
        } else {
            Self::Privileged
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    // The ID of a thread gives EINVAL or ENOENT (pidfd_open(2)).
    let raw = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(raw, Some(Errno::SRCH | Errno::NOENT | Errno::INVAL))
}

fn host(pid: i32, path: &str, source: io::Error) -> ProcessError {
    ProcessError::Host { pid, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_names_the_user_or_the_yama_scope() {
        let other = Denial::AnotherUser { owner: 107, own: 1000 };
        assert_eq!(Denial::new(107, 1000, 1), other);
        assert_eq!(Denial::new(1000, 1000, 1), Denial::Yama { scope: 1 });
        assert_eq!(Denial::new(1000, 1000, 0), Denial::Privileged);
        assert_eq!(Denial::new(107, 0, 2), Denial::Privileged);
        assert_eq!(Denial::new(107, 0, 3), Denial::Yama { scope: 3 });
        assert!(Denial::Yama { scope: 3 }.to_string().contains("even root"));
    }

    #[test]
    fn pid_without_a_process_is_refused() {
        for pid in [0, -1, i32::MAX] {
            let error = ProcessHandle::open(pid).expect_err("no process");
            assert!(matches!(error, ProcessError::NoSuchProcess(_)), "{error}");
        }
        let own = i32::try_from(std::process::id()).expect("a number");
        assert!(ProcessHandle::open(own).expect("this process").is_alive());
    }
}
