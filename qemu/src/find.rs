//! The search for the monitor of a process, and for the process behind a socket.
//!
//! Owns how a QEMU process is recognised, where the sockets of its command line are, also in other
//! namespaces, and which process listens on a socket. Refuses to own the options (`command_line`) and the
//! proof that a process is the QEMU behind a monitor: `process_memory` finds memory where the monitor
//! reports it.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;

use crate::command_line::{MonitorOption, parse_monitors};
use crate::process::{ProcessError, ProcessHandle};
use crate::qmp::Address;

/// Error of the search for a monitor or a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The process is not a QEMU.
    #[error("find the monitor of process {pid}: it is {name:?} and not a QEMU")]
    NotQemu {
        /// PID of the inspected process.
        pid: i32,
        /// First word of its command line.
        name: String,
    },
    /// The process has no QMP monitor.
    #[error(
        "find the monitor of process {0}: it has none: start QEMU with \
         -qmp unix:PATH,server=on,wait=off"
    )]
    NoMonitor(i32),
    /// The monitor listens on a descriptor that another program, such as libvirt, passed to QEMU.
    #[error(
        "find the monitor of process {0}: it belongs to libvirt: give the domain a second one in \
         <qemu:commandline> with -qmp unix:PATH,server=on,wait=off"
    )]
    Libvirt(i32),
    /// The monitor of the process is not a listening unix socket.
    #[error(
        "find the monitor of process {pid}: {monitor} cannot be reached from here: start QEMU with \
         -qmp unix:PATH,server=on,wait=off"
    )]
    Elsewhere {
        /// PID of the inspected process.
        pid: i32,
        /// Value of the command-line option.
        monitor: String,
    },
    /// The process that listens on the socket is in another PID namespace.
    #[error(
        "find the process that listens on the socket: it is in another PID namespace: give its \
         number, or run this outside of the container"
    )]
    NoPeer,
    /// The process has ended, or this program may not inspect it.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Returns the addresses of the QMP sockets on a process's command line, in its order.
///
/// # Errors
/// [`FindError`]; without a reachable socket, the message names the option to add.
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

/// True if the program or the first argument has a name that QEMU uses. A name proves nothing: it only
/// selects between two error messages.
fn is_named_qemu(process: &ProcessHandle, arguments: &[Vec<u8>]) -> bool {
    let program = process.read_link("exe").ok().map(|path| path.into_os_string().into_vec());
    let mut names = program.iter().chain(arguments.first());
    names.any(|path| {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        name.starts_with(b"qemu") || name == b"kvm"
    })
}

/// Translates QEMU's path of a socket, relative to QEMU's working directory and root, into a path that
/// this process can use.
fn locate(process: &ProcessHandle, path: Vec<u8>) -> Result<PathBuf, ProcessError> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let path = if path.is_absolute() { path } else { process.read_link("cwd")?.join(path) };
    // Without permission to read the links below /proc/PID, assume one namespace: connecting may still work.
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

/// Returns the PID of the process that called listen(2) on the other end of a connected socket: libvirtd's
/// where libvirt created the socket and passed it to QEMU.
///
/// # Errors
/// [`FindError::NoPeer`].
pub(crate) fn peer_pid(socket: BorrowedFd<'_>) -> Result<i32, FindError> {
    let credentials = socket_peercred(socket).map_err(|_| FindError::NoPeer)?;
    // The kernel reports 0 for a process of another PID namespace, a value that rustix' type rules out.
    let pid = std::hint::black_box(credentials.pid.as_raw_nonzero().get());
    if pid > 0 { Ok(pid) } else { Err(FindError::NoPeer) }
}
