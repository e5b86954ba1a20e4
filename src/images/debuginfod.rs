//! Debug files from servers, by the program `debuginfod-find` of elfutils.
//!
//! Owns starting the program, its deadline and the sign of life. Refuses to speak to a server itself: the
//! program knows the user's servers (DEBUGINFOD_URLS) and cache. Called by `finder`, for commands that
//! answer and exit; a run of a guest never asks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::hex;
use super::notes::Notes;

const PROGRAM: &str = "debuginfod-find";
/// Longest time for a file, unless DEBUGINFOD_MAXTIME has another.
const DEADLINE: Duration = Duration::from_secs(120);
/// Time after which a download is shown.
const PATIENCE: Duration = Duration::from_secs(1);
/// Interval between looks at the program.
const INTERVAL: Duration = Duration::from_millis(10);
/// Largest output of the program that is read, in bytes: a path, or an error.
const MAX_OUTPUT: u64 = 8 << 10;
/// Lengths of build-ids that are asked for, in bytes: an image chooses what is in its note.
const BUILD_ID_LENGTHS: std::ops::RangeInclusive<usize> = 2..=64;

/// The servers of debug files.
#[derive(Clone)]
pub struct Debuginfod {
    deadline: Duration,
    show: fn(&str),
    /// Answers of the servers, by build-id.
    known: Rc<RefCell<BTreeMap<Vec<u8>, Option<PathBuf>>>>,
    /// True once a download has reached its deadline. No further one is tried: a kernel has hundreds of modules.
    is_late: Rc<Cell<bool>>,
}

impl std::fmt::Debug for Debuginfod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Debuginfod").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Debuginfod {
    /// Returns the servers that DEBUGINFOD_URLS names; `None` where it names none. `show` gets a line for
    /// the user when a download takes longer than a second.
    pub fn from_environment(show: fn(&str)) -> Option<Self> {
        let urls = std::env::var_os("DEBUGINFOD_URLS")?;
        if urls.as_bytes().iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        // A variable of debuginfod-find's own: seconds that a download may take.
        let limit = std::env::var("DEBUGINFOD_MAXTIME").ok().and_then(|text| text.parse().ok());
        let deadline = limit.filter(|&seconds| seconds > 0).map_or(DEADLINE, Duration::from_secs);
        Some(Self { deadline, show, known: Rc::default(), is_late: Rc::default() })
    }

    /// Returns the path of the debug file with this build-id, which is not checked. `None`, with a remark,
    /// if no server has it, or none in time.
    pub fn find(&self, build_id: &[u8], notes: &Notes) -> Option<PathBuf> {
        if !BUILD_ID_LENGTHS.contains(&build_id.len()) {
            return None;
        }
        if let Some(known) = self.known.borrow().get(build_id) {
            return known.clone();
        }
        let id = hex(build_id);
        let found = match self.is_late.get() {
            true => Err("it has taken too long for another file".to_owned()),
            false => self.ask(&id),
        };
        if let Err(reason) = &found {
            notes.add(format!("{PROGRAM} has no debug file with build-id {id}: {reason}"));
        }
        let found = found.ok();
        self.known.borrow_mut().insert(build_id.to_vec(), found.clone());
        found
    }

    fn ask(&self, id: &str) -> Result<PathBuf, String> {
        tracing::info!(build_id = id, "asking debuginfod");
        let child = Command::new(PROGRAM)
            .args(["debuginfo", id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| format!("it cannot be started: {error}"))?;
        let output = collect(child.stdout.take());
        let errors = collect(child.stderr.take());
        let status = self.wait(&mut child, id)?;
        // What the program has written is there; a process that it left behind is not waited for.
        let text = |channel: std::sync::mpsc::Receiver<Vec<u8>>| {
            channel.recv_timeout(PATIENCE).unwrap_or_default()
        };
        if !status.success() {
            let errors = text(errors);
            let reason = String::from_utf8_lossy(&errors).trim().replace('\n', "; ");
            return Err(if reason.is_empty() { status.to_string() } else { reason });
        }
        let output = text(output);
        let path = PathBuf::from(OsStr::from_bytes(output.trim_ascii()));
        if path.is_absolute() { Ok(path) } else { Err("it printed no path".into()) }
    }

    /// Waits until the program ends, and ends it at the deadline.
    fn wait(&self, child: &mut Child, id: &str) -> Result<std::process::ExitStatus, String> {
        let started = Instant::now();
        let mut is_shown = false;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if started.elapsed() < self.deadline => {}
                ended => {
                    let _ = child.kill();
                    let _ = child.wait();
                    self.is_late.set(ended.is_ok());
                    return Err(match ended {
                        Err(error) => format!("it cannot be waited for: {error}"),
                        Ok(_) => format!(
                            "it took longer than {} s (DEBUGINFOD_MAXTIME)",
                            self.deadline.as_secs()
                        ),
                    });
                }
            }
            if !is_shown && started.elapsed() >= PATIENCE {
                is_shown = true;
                let seconds = self.deadline.as_secs();
                (self.show)(&format!(
                    "{PROGRAM} looks for the debug file with build-id {id}, for {seconds} s at most"
                ));
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// Reads a pipe to its end in a thread, and keeps its first bytes.
fn collect(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut kept = Vec::new();
        let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut kept);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        let _ = sender.send(kept);
    });
    receiver
}
