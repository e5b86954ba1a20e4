#!/usr/bin/env python3
"""Boots a Linux guest of the tests under TCG, waits until it is ready, and dumps it while it is stopped.

    dump.py DIRECTORY SCENARIO DUMP [CPUS [MIB]]

DIRECTORY has vmlinuz and initrd as of kernel.sh, SCENARIO is one of `init`. DUMP receives QEMU's ELF dump,
DUMP.registers what `info registers -a` prints and DUMP.console the console.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

PATIENCE = 300


class Monitor:
    """QEMU's monitor, by QMP."""

    def __init__(self, path):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(path))
        self.lines = stream.makefile("rw")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}))
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                sys.exit(f"dump.py: {command}: {answer}")
            if "return" in answer:
                return answer["return"]


def start(directory, scenario, work, cpus, memory):
    """Starts QEMU with two monitors, `qmp` and `second`, and returns it once the guest is ready."""
    parameters = f"console=ttyS0 loglevel=8 no_timer_check printk.time=1 scenario={scenario}"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", str(memory)]
    command += ["-smp", str(cpus), "-kernel", f"{directory}/vmlinuz", "-initrd", f"{directory}/initrd"]
    command += ["-append", parameters, "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]
    command += ["-serial", f"file:{work}/console"]
    for name in ("qmp", "second"):
        command += ["-qmp", f"unix:{work}/{name},server=on,wait=off"]
    qemu = subprocess.Popen(command)
    last = "end Kernel panic" if scenario == "crash" else "test: ready"
    end = time.monotonic() + PATIENCE
    console = pathlib.Path(work, "console")
    while not (console.exists() and last in console.read_text(errors="replace")):
        if time.monotonic() > end or qemu.poll() is not None:
            qemu.kill()
            sys.exit(f"dump.py: the guest was not ready: {console.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
    return qemu


def main():
    directory, scenario, dump = sys.argv[1:4]
    cpus, memory = (sys.argv[4:] + ["2", "256"][len(sys.argv) - 4:])[:2]
    with tempfile.TemporaryDirectory() as work:
        qemu = start(directory, scenario, work, cpus, memory)
        try:
            monitor = Monitor(f"{work}/qmp")
            monitor.execute("stop")
            registers = monitor.execute("human-monitor-command", **{"command-line": "info registers -a"})
            target = f"file:{pathlib.Path(dump).absolute()}"
            monitor.execute("dump-guest-memory", paging=False, protocol=target)
        finally:
            qemu.kill()
            qemu.wait()
        console = pathlib.Path(work, "console").read_bytes()
    pathlib.Path(f"{dump}.registers").write_text(registers)
    pathlib.Path(f"{dump}.console").write_bytes(console)


if __name__ == "__main__":
    main()
