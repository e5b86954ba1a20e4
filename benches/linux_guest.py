"""Prints table rows on a Linux guest: the time to all its stacks beside drgn, and the pause of `nmiscope attach`.

    linux_guest.py stacks ROUNDS NMISCOPE DUMP VMLINUX PYTHON
    linux_guest.py pause ROUNDS NMISCOPE DIRECTORY MIB

Called by linux.sh. `stacks` runs whole processes on one dump in turn: `nmiscope report` without and with a vmlinux, and
`linux_stacks.py` by PYTHON, which has drgn and is given the dump's VMCOREINFO and the vmlinux. `pause` boots the kernel
of DIRECTORY under TCG; attach takes turns there with a bare stop (attach_pause.py).
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "linux_guest"))

import attach_pause
import check
import dump as linux_dump


def measure(command):
    """The wall time of a process in seconds, and its largest resident memory in MiB.

    The kernel counts the memory of this process before exec too, which is less than that of any command here.
    """
    with open(os.devnull, "w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        return seconds, usage.ru_maxrss / 1024


def has_stacks(command):
    """Whether a command succeeds, and prints frames of the kernel: a task's begin in __schedule."""
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode == 0 and "__schedule" in result.stdout


def stacks(rounds, nmiscope, dump, vmlinux, python):
    with tempfile.TemporaryDirectory() as work:
        notes = pathlib.Path(work, "vmcoreinfo")
        notes.write_bytes(check.Dump(dump).vmcoreinfo())
        tasks = ["--tasks", "all"]
        peer = "drgn, with vmcoreinfo and vmlinux"
        report = " ".join(["nmiscope report", *tasks])
        commands = {
            peer: [python, str(HERE / "linux_stacks.py"), dump, str(notes), vmlinux],
            report: [nmiscope, "report", dump, *tasks],
            f"{report} --image vmlinux": [nmiscope, "report", dump, *tasks, "--image", vmlinux],
        }
        # The first run of each warms the page cache.
        results = {name: [] for name, command in commands.items() if has_stacks(command)}
        for _ in range(rounds):
            for name in results:
                results[name].append(measure(commands[name]))
    drgn = statistics.median(seconds for seconds, _ in results[peer])
    for name, runs in results.items():
        seconds = statistics.median(run[0] for run in runs)
        memory = max(run[1] for run in runs)
        print(f"| {name} | {seconds:.3f} s | {memory:.0f} MiB | **{seconds / drgn:.3f}** |")
    for name in commands:
        if name not in results:
            print(f"| {name} | no stacks | | |")


def pause(rounds, nmiscope, directory, memory):
    with tempfile.TemporaryDirectory() as work:
        qemu = linux_dump.start(directory, "idle", work, 4, int(memory))
        try:
            execute = attach_pause.client(f"{work}/second")
            pairs = []
            for _ in range(rounds):
                bare = attach_pause.bare_stop(execute)
                pairs.append((bare, attach_pause.attach(nmiscope, f"{work}/qmp")))
        finally:
            qemu.kill()
            qemu.wait()
    bare, stopped = (statistics.median(times) for times in zip(*pairs))
    longest = max(time for _, time in pairs)
    print(f"| {memory} MiB | {bare:.2f} ms | {stopped:.2f} ms | {longest:.2f} ms | **{stopped / bare:.1f}** |")


if __name__ == "__main__":
    {"stacks": stacks, "pause": pause}[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
