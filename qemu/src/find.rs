//! The way from a process to its monitor and back.
//!
//! Owns how a QEMU is recognised, where the sockets of its command line lie, across namespaces too, and
//! which process listens on a socket. Refuses to own the options (`command_line`) and the proof:
//! that a process is a QEMU shows when its monitor answers and its memory is where the monitor says.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;

use crate::command_line::{MonitorOption, parse_monitors};
use crate::process::{ProcessError, ProcessHandle};
use crate::qmp::Address;

/// Why the monitor of a process cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The process is none of QEMU's.
    #[error("find the monitor of process {pid}: it is {name:?} and not a QEMU")]
    NotQemu {
        /// The number of the process.
        pid: i32,
        /// The first word of its command line.
        name: String,
    },
    /// The process has no monitor.
    #[error(
        "find the monitor of process {0}: it has none: start QEMU with \
         -qmp unix:PATH,server=on,wait=off"
    )]
    NoMonitor(i32),
    /// The process has a monitor that only libvirt, or whoever else passed its socket on, can reach.
    #[error(
        "find the monitor of process {0}: it belongs to libvirt: give the domain a second one by \
         <qemu:commandline> with -qmp unix:PATH,server=on,wait=off"
    )]
    Libvirt(i32),
    /// The process has a monitor that is no listening unix socket.
    #[error(
        "find the monitor of process {pid}: {monitor} cannot be reached from here: start QEMU with \
         -qmp unix:PATH,server=on,wait=off"
    )]
    Elsewhere {
        /// The number of the process.
        pid: i32,
        /// The option's value.
        monitor: String,
    },
    /// The process that listens on the socket cannot be seen.
    #[error(
        "find the process that listens on the socket: it is in another PID namespace: give its \
         number, or run this outside of the container"
    )]
    NoPeer,
    /// The process may not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// The addresses of the QMP sockets that a process's command line names, in its order.
///
/// # Errors
/// [`FindError`]; it says what to add where there is none.
pub fn find_addresses(process: &ProcessHandle) -> Result<Vec<Address>, FindError> {
    let pid = process.pid();
    let line = process.read_file("cmdline")?;
    let arguments: Vec<Vec<u8>> = line.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
    let monitors = parse_monitors(&arguments);
    if monitors.is_empty() && !is_named_qemu(process, &arguments) {
        let name = arguments.first().map(|name| String::from_utf8_lossy(name).into_owned());
        return Err(FindError::NotQemu { pid, name: name.unwrap_or_default() });
    }
    let mut found = Vec::new();
    let mut unreachable = FindError::NoMonitor(pid);
    for monitor in monitors {
        match monitor {
            MonitorOption::Path(path) => found.push(Address::Path(locate(process, path)?)),
            MonitorOption::Abstract(name) => found.push(Address::Abstract(name)),
            MonitorOption::Descriptor => unreachable = FindError::Libvirt(pid),
            MonitorOption::Elsewhere(monitor) => {
                unreachable = FindError::Elsewhere { pid, monitor }
            }
        }
    }
    if found.is_empty() { Err(unreachable) } else { Ok(found) }
}

/// True when the program or the first argument has a name that QEMU goes by. A name proves nothing,
/// and only chooses between two messages.
fn is_named_qemu(process: &ProcessHandle, arguments: &[Vec<u8>]) -> bool {
    let program = process.read_link("exe").ok().map(|path| path.into_os_string().into_vec());
    let mut names = program.iter().chain(arguments.first());
    names.any(|path| {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        name.starts_with(b"qemu") || name == b"kvm"
    })
}

/// The path of a socket as it is seen from here. Paths are QEMU's own: relative to its working
/// directory and below its root.
fn locate(process: &ProcessHandle, path: Vec<u8>) -> Result<PathBuf, ProcessError> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let path = if path.is_absolute() { path } else { process.read_link("cwd")?.join(path) };
    // Who may not see its namespace may still reach the socket.
    let is_elsewhere = process.read_link("ns/mnt").is_ok_and(|namespace| {
        let own = std::fs::read_link("/proc/self/ns/mnt");
        let is_jailed = process.read_link("root").is_ok_and(|root| root != Path::new("/"));
        is_jailed || own.is_ok_and(|own| own != namespace)
    });
    match path.strip_prefix("/") {
        Ok(below) if is_elsewhere => Ok(process.path("root").join(below)),
        _ => Ok(path),
    }
}

/// The number of the process that listens at the other end of a connected socket: the one that called
/// listen(2), which is libvirt's where libvirt passed the socket on.
///
/// # Errors
/// [`FindError::NoPeer`].
pub(crate) fn peer_pid(socket: BorrowedFd<'_>) -> Result<i32, FindError> {
    let credentials = socket_peercred(socket).map_err(|_| FindError::NoPeer)?;
    // The kernel has 0 for a process of another namespace, which rustix' type denies.
    let pid = std::hint::black_box(credentials.pid.as_raw_nonzero().get());
    if pid > 0 { Ok(pid) } else { Err(FindError::NoPeer) }
}
