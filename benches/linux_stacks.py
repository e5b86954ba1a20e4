"""Prints the stacks of all tasks and vCPUs of a Linux dump by drgn, the peer of `nmiscope report`.

    linux_stacks.py DUMP VMCOREINFO VMLINUX

Called by linux_guest.py.
"""

import sys

import drgn
from drgn.helpers.linux import cpu_curr, for_each_online_cpu, for_each_task

dump, notes, vmlinux = sys.argv[1:]
program = drgn.Program(vmcoreinfo=open(notes, "rb").read())
program.set_core_dump(dump)
program.load_debug_info([vmlinux])
for cpu in for_each_online_cpu(program):
    print(f"cpu{cpu}\n{program.stack_trace(cpu_curr(program, cpu))}")
for task in for_each_task(program):
    print(f"{task.comm.string_().decode()}/{task.pid.value_()}")
    try:
        print(program.stack_trace(task))
    except ValueError as error:
        print(error)
