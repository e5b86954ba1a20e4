#!/usr/bin/env bash
# Makes the dumps that tests/dump reads, and the reports that it expects of them: boots the image of
# tests/offline in QEMU without KVM, lets a workload hang, and has QEMU dump the guest's memory. A person
# has to check the reports before they are committed.
#
#   tests/offline/make-dumps.sh         needs qemu-system-x86_64 and python3
#
# The image is the one that make.sh has left there, so that cores and dumps are of the same guest: run
# this after it. Beside each dump are the registers at that time, from QEMU's monitor.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p dumps
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Dumps a workload with this number of vCPUs. QEMU walks the guest's page tables if `paging` is true.
dump() {
    local workload=$1 cpus=$2 paging=$3
    python3 - "$workload" "$cpus" "$paging" "$folder" <<'PYTHON'
import json, re, socket, subprocess, sys, time

workload, cpus, paging, folder = sys.argv[1:]
monitor = f"{folder}/monitor"
qemu = subprocess.Popen(
    ["qemu-system-x86_64", "-kernel", "guest.elf", "-append", f"workload={workload}"]
    + ["-m", "16", "-smp", cpus, "-accel", "tcg", "-display", "none", "-serial", "none"]
    + ["-nodefaults", "-no-user-config", "-no-reboot"]
    + ["-qmp", f"unix:{monitor},server=on,wait=off"]
)
try:
    client = socket.socket(socket.AF_UNIX)
    for attempt in range(100):
        try:
            client.connect(monitor)
            break
        except OSError:
            time.sleep(0.1)
    client.settimeout(60)
    lines = client.makefile("rw")
    lines.readline()

    def command(name, **arguments):
        lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        lines.flush()
        while True:
            answer = json.loads(lines.readline())
            if "error" in answer:
                sys.exit(f"make-dumps.sh: {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    command("qmp_capabilities")
    # The guest hangs after milliseconds of its own time.
    time.sleep(4)
    command("stop")
    registers = command("human-monitor-command", **{"command-line": "info registers -a"})
    command("dump-guest-memory", paging=paging == "true", protocol=f"file:{folder}/dump")
    command("quit")
    qemu.wait(10)
finally:
    qemu.kill()
    qemu.wait()
# Only the registers that a dump has too.
wanted = re.compile(r"^(CPU#|R|CS|DS|ES|FS|GS|SS|LDT|TR|GDT|IDT|CR0|EFER)")
kept = [line.rstrip() for line in registers.splitlines() if wanted.match(line)]
with open(f"dumps/{workload}.registers", "w") as file:
    file.write("\n".join(kept) + "\n")
PYTHON
    gzip -9 -n <"$folder/dump" >"dumps/$workload.elf.gz"
    rm -f "$folder/dump"
}

dump abba-deadlock 3 false
dump mutex-deadlock 2 false
dump null-deref 2 true

cd ../..
NMISCOPE_UPDATE=1 cargo test --locked --test end_to_end dump::
