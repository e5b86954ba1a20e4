//! Addresses of QMP sockets.
//!
//! Owns the two kinds of unix socket address and the non-blocking connect. Refuses to own the protocol
//! (`qmp`) and the search for addresses (`find`).

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::QmpError;
use crate::wait::Deadline;

/// Time between two attempts while the socket's backlog is full, which poll(2) does not report.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// Address of a unix socket on which QMP is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A file system path, of any length.
    Path(PathBuf),
    /// A name in the abstract namespace, without its leading zero byte.
    Abstract(Vec<u8>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl Address {
    /// Connects without blocking; while the backlog is full, retries until the deadline.
    pub(super) fn connect(&self, within: Duration) -> Result<OwnedFd, QmpError> {
        let deadline = Deadline::after(within);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(QmpError::host("make a socket"))?;
        let bad = |_| QmpError::BadAddress(self.clone());
        loop {
            let result = match self {
                Self::Path(path) => connect_path(&socket, path),
                Self::Abstract(name) => SocketAddrUnix::new_abstract_name(name)
                    .map_err(bad)
                    .map(|address| connect(&socket, &address))?,
            };
            match result {
                Ok(()) => return Ok(socket),
                Err(Errno::AGAIN) if !deadline.has_passed() => sleep(BACKLOG_PAUSE),
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.refusal(error, within)),
            }
        }
    }

    fn refusal(&self, error: Errno, waited: Duration) -> QmpError {
        let address = self.clone();
        match error {
            Errno::NOENT | Errno::NOTDIR => QmpError::NoSocket(address),
            Errno::CONNREFUSED => QmpError::Refused(address),
            Errno::ACCESS | Errno::PERM => QmpError::NotPermitted(address),
            Errno::AGAIN => QmpError::NoGreeting { address, waited },
            Errno::NAMETOOLONG | Errno::INVAL | Errno::PROTOTYPE => QmpError::BadAddress(address),
            error => QmpError::host("connect to a QMP socket")(error),
        }
    }
}

/// Connects to a path. A path that is too long for a socket address (unix(7): 108 bytes) is reached
/// through a descriptor of its directory.
fn connect_path(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(socket, &address),
        Err(Errno::NAMETOOLONG) => {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::INVAL);
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = open(directory, flags, Mode::empty())?;
            let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
            connect(socket, &SocketAddrUnix::new(path.join(name))?)
        }
        Err(error) => Err(error),
    }
}
