"""Prints a table row for each VM: the pause of `nmiscope attach` beside a bare stop.

    attach_pause.py NMISCOPE GUEST ROUNDS

Called by attach.sh. The bare stop is QMP `stop`, `info registers -a` and `cont`, by a client that does
nothing else. Both take turns, on one VM. The pause of an attach is the one in its report.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

SETTLED = 4.0


def client(path):
    """A QMP connection, as a function that carries out a command."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    lines = stream.makefile("rw")
    lines.readline()

    def execute(command, **arguments):
        lines.write(json.dumps({"execute": command, "arguments": arguments}))
        lines.flush()
        while True:
            answer = json.loads(lines.readline())
            if "error" in answer:
                sys.exit(f"{command}: {answer}")
            if "return" in answer:
                return answer["return"]

    execute("qmp_capabilities")
    return execute


def bare_stop(execute):
    """The time of a bare stop, in ms."""
    start = time.perf_counter()
    execute("stop")
    execute("human-monitor-command", **{"command-line": "info registers -a"})
    execute("cont")
    return (time.perf_counter() - start) * 1e3


def attach(nmiscope, path):
    """The pause of an attach, in ms."""
    command = [nmiscope, "attach", "--qmp", path, "--json", "-", "--quiet"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    visit = json.loads(output)["visit"]
    if visit["torn"]:
        sys.exit("memory was read after the pause")
    return visit["stopped_ms"]


def row(nmiscope, guest, rounds, accelerator, memory, workload):
    with tempfile.TemporaryDirectory() as directory:
        sockets = [os.path.join(directory, name) for name in ("tool", "bare")]
        command = ["qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-m", memory]
        command += ["-smp", "2", "-kernel", guest, "-append", f"workload={workload}"]
        command += ["-display", "none", "-serial", "none", "-nodefaults", "-no-user-config"]
        for path in sockets:
            command += ["-qmp", f"unix:{path},server=on,wait=off"]
        qemu = subprocess.Popen(command)
        try:
            time.sleep(SETTLED)
            execute = client(sockets[1])
            pairs = [(bare_stop(execute), attach(nmiscope, sockets[0])) for _ in range(rounds)]
        finally:
            qemu.kill()
            qemu.wait()
    bare, pause = (statistics.median(times) for times in zip(*pairs))
    longest = max(pause for _, pause in pairs)
    print(
        f"| {accelerator} | {memory} | {workload} | {bare:.2f} ms | {pause:.2f} ms "
        f"| {longest:.2f} ms | **{pause / bare:.1f}** |",
        flush=True,
    )


def main():
    nmiscope, guest, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    accelerators = ["tcg"] + (["kvm"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else [])
    for accelerator in accelerators:
        for memory in ("64M", "8G"):
            for workload in ("idle", "abba-deadlock"):
                row(nmiscope, guest, rounds, accelerator, memory, workload)


if __name__ == "__main__":
    main()
