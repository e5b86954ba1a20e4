//! Threads of a process that are stopped, as by a debugger or a busy host.

use std::fs;
use std::sync::mpsc;
use std::thread;

use rustix::process::Pid;

/// Stops every thread of `process` whose name begins with `name`, until the process ends. Returns once all
/// of them are stopped.
///
/// A tracer has to wait for the ends of its threads itself, so one thread here does all of it.
pub fn freeze_threads(process: Pid, name: &str) {
    let numbers = threads(process, name);
    assert!(!numbers.is_empty(), "no thread is called {name}");
    let (sender, frozen) = mpsc::channel();
    thread::spawn(move || {
        for &number in &numbers {
            seize(number);
            let status = wait(number);
            assert!(libc::WIFSTOPPED(status), "thread {number} has ended: {status:#x}");
        }
        sender.send(()).expect("the test waits");
        // No other thread can wait for the process's end before that.
        numbers.into_iter().for_each(|number| while libc::WIFSTOPPED(wait(number)) {});
    });
    frozen.recv().expect("threads that can be stopped");
}

/// Returns the numbers of the threads of `process` whose names begin with `name`.
fn threads(process: Pid, name: &str) -> Vec<libc::pid_t> {
    let all =
        fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).expect("its threads");
    let called = |thread: fs::DirEntry| {
        let found = fs::read_to_string(thread.path().join("comm")).ok()?;
        let number = thread.file_name().to_str()?.parse().ok()?;
        found.starts_with(name).then_some(number)
    };
    all.filter_map(|thread| called(thread.ok()?)).collect()
}

fn seize(thread: libc::pid_t) {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
        // SAFETY: neither request reads or writes memory of this process (ptrace(2)).
        let result = unsafe { libc::ptrace(request, thread, nothing, nothing) };
        assert_eq!(result, 0, "ptrace of {thread}: {}", std::io::Error::last_os_error());
    }
}

fn wait(thread: libc::pid_t) -> libc::c_int {
    let mut status = 0;
    // SAFETY: `status` is a place for the result, and lives through the call.
    let result = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    assert_eq!(result, thread, "waitpid: {}", std::io::Error::last_os_error());
    status
}
