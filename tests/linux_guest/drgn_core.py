"""Prints as JSON how drgn reads a core of Linux: run by the tests with drgn's Python.

    drgn_core.py CORE [VMLINUX]

Without debug information drgn has the kernel's VMCOREINFO, and memory by the kernel's own page tables: `release` is what
the former says, `memory_release` what lies where VMCOREINFO's symbols say. With it, `tasks` are the names and numbers of
all tasks, and `log` are the texts of the kernel's log.
"""
import json
import sys

import drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_printk_records

program = drgn.Program()
program.set_core_dump(sys.argv[1])
info = dict(
    line.split("=", 1)
    for line in program["VMCOREINFO"].string_().decode().splitlines()
    if "=" in line
)
names = int(info["SYMBOL(init_uts_ns)"], 16) + int(info["OFFSET(uts_namespace.name)"])
# struct new_utsname is six texts of 65 bytes: sysname, nodename, release and others.
found = {
    "release": program["UTS_RELEASE"].string_().decode(),
    "memory_release": program.read(names + 2 * 65, 65).split(b"\0")[0].decode(),
}
if len(sys.argv) > 2:
    program.load_debug_info([sys.argv[2]])
    found["tasks"] = sorted(
        f"{task.comm.string_().decode(errors='replace')}/{task.pid.value_()}"
        for task in for_each_task(program)
    )
    records = get_printk_records(program)
    found["log"] = [record.text.decode(errors="replace") for record in records]
json.dump(found, sys.stdout)
