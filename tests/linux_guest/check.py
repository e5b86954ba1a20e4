#!/usr/bin/env python3
"""Compares what the project reads out of a Linux guest's dump with what other programs say of it.

    check.py image DUMP REPORT IMAGE                copy the kernel's image out of the dump; print its address
    check.py registers DUMP.registers REPORT        against QEMU's `info registers -a`
    check.py kallsyms TABLES IMAGE BASE VMLINUX     every symbol of /proc/kallsyms, against nm
    check.py btf TABLES IMAGE BASE VMLINUX          places of members, against pahole
    check.py stacks DUMP REPORT VMLINUX             return addresses, against drgn; run by a Python that has it

DUMP is QEMU's ELF dump, REPORT the JSON of `nmiscope report DUMP`, TABLES the example `linux_tables`. Each prints
what it compared and every difference, and exits with 1 if there is one. A stack that differs by nothing but frames
that drgn adds behind the entry from a program is counted on its own: such a frame holds what the program had in its
registers, and no return address. Called by check.sh.
"""

import json
import re
import struct
import subprocess
import sys

# Structures whose members the adapter reads, or may come to read.
STRUCTURES = """
    task_struct thread_struct thread_info signal_struct rq pcpu_hot inactive_task_frame pt_regs module module_memory
    module_layout mod_kallsyms mod_arch_specific irq_cpustat_t kernel_stat orc_entry mutex rw_semaphore
    printk_ringbuffer prb_desc_ring prb_desc prb_data_ring printk_info tick_sched hrtimer_cpu_base rcu_data
""".split()

# The addresses at which kernels have their image, `__START_KERNEL_map` and `KERNEL_IMAGE_SIZE`.
WINDOW = 0xFFFF_FFFF_8000_0000
WINDOW_SIZE = 1 << 30
# The address at which they are linked, which KASLR is an offset to.
LINKED = 0xFFFF_FFFF_8100_0000


class Dump:
    """QEMU's ELF dump: guest-physical memory and the first vCPU's page tables."""

    def __init__(self, path):
        self.file = open(path, "rb")
        header = self.file.read(64)
        offset, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
        self.file.seek(offset)
        headers = [struct.unpack("<IIQQQQQQ", self.file.read(size)) for _ in range(count)]
        self.ranges = [(header[4], header[5], header[2]) for header in headers if header[0] == 1]
        _, _, notes, _, _, length, _, _ = next(header for header in headers if header[0] == 4)
        self.file.seek(notes)
        self.notes = self.file.read(length)
        self.registers = self.qemu_registers()

    def qemu_registers(self):
        """CR3 and CR4 of the first vCPU: at 392 of QEMU's own note, CR0 to CR4."""
        at = self.notes.index(b"QEMU\0")
        controls = struct.unpack_from("<5Q", self.notes, at + 8 + 392)
        return {"cr3": controls[3], "cr4": controls[4]}

    def physical(self, address, size):
        for start, length, offset in self.ranges:
            if start <= address and address + size <= start + length:
                self.file.seek(offset + address - start)
                return self.file.read(size)
        raise LookupError(f"no memory at {address:#x}")

    def virtual_page(self, address):
        """The bytes of the page of 4 KiB at an address; the kernel's half of isolated tables is used."""
        table = self.registers["cr3"] & 0x000F_FFFF_FFFF_E000
        levels = 5 if self.registers["cr4"] & (1 << 12) else 4
        for level in reversed(range(levels)):
            shift = 12 + 9 * level
            entry = struct.unpack("<Q", self.physical(table + (address >> shift & 511) * 8, 8))[0]
            if not entry & 1:
                raise LookupError(f"{address:#x} is not mapped")
            table = entry & 0x000F_FFFF_FFFF_F000
            if level in (1, 2) and entry & 0x80:
                table = table & ~((1 << shift) - 1) | address & ((1 << shift) - 1)
                break
        return self.physical(table, 4096)

    def vmcoreinfo(self):
        """The kernel's own description of itself, which lies behind the head of an ELF note."""
        chunk, head = 16 << 20, b"VMCOREINFO\0\0OSRELEASE="
        for start, length, _ in self.ranges:
            for at in range(start, start + length, chunk):
                found = self.physical(at, min(chunk + 4096, start + length - at)).find(head)
                if found >= 0:
                    size = struct.unpack("<I", self.physical(at + found - 8, 4))[0]
                    return self.physical(at + found + 12, size)
        sys.exit("check.py: the dump has no VMCOREINFO")


def finish(what, compared, differences):
    """Prints a check's result, and exits with 1 if there are differences."""
    for difference in differences[:20]:
        print(f"{what}: {difference}")
    print(f"{what}: {compared} compared, {len(differences)} differ")
    if not compared:
        sys.exit(f"check.py: {what}: nothing was compared")
    sys.exit(bool(differences))


def image(dump, report, copy):
    dump, report = Dump(dump), json.load(open(report))
    slide = int(re.search(r"KASLR (0x[0-9a-f]+)", report["image"]["kernel"]["name"])[1], 16)
    base = LINKED + slide
    with open(copy, "wb") as output:
        missing = at = 0
        # An image ends where 64 MiB in a row are not mapped.
        while missing < 64 << 20 and base + at < WINDOW + WINDOW_SIZE:
            try:
                page = dump.virtual_page(base + at)
                output.seek(at)
                output.write(page)
                missing = 0
            except LookupError:
                missing += 4096
            at += 4096
    print(f"{base:x}")


def registers(text, report):
    names = {**{f"r{number}": f"R{number}" for number in range(8, 16)}, "rflags": "RFL"}
    for name in "rip rsp rbp rax rbx rcx rdx rsi rdi cr0 cr2 cr3 cr4".split():
        names[name] = name.upper()
    vcpus = open(text).read().split("CPU#")[1:]
    cpus = json.load(open(report))["backtraces"][0]["cpus"]
    differences, compared = [], 0
    for cpu, vcpu in zip(cpus, vcpus, strict=True):
        values = {name: int(value, 16) for name, value in re.findall(r"(\w+) *= *([0-9a-f]+)", vcpu)}
        for name, theirs in names.items():
            ours = int(cpu["registers"][name], 16)
            compared += 1
            if ours != values[theirs]:
                differences.append(f"cpu{cpu['cpu']} {name}: {ours:#x}, and QEMU has {values[theirs]:#x}")
    finish("registers", compared, differences)


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def kallsyms(tables, copy, base, vmlinux):
    ours = [line.split(" ", 1) for line in run(tables, "kallsyms", copy, base).splitlines()]
    by_name = {}
    for line in run("nm", vmlinux).splitlines():
        address, name = line[:16], line[19:]
        if address.strip():
            by_name.setdefault(name, set()).add(int(address, 16))
    slide = int(base, 16) - min(by_name["_text"])
    differences, compared = [], 0
    for address, name in ours:
        compared += 1
        # KASLR moves the image and what is linked behind it, and not per-CPU variables, which may be linked at 0.
        theirs = {at + slide if WINDOW <= at < WINDOW + WINDOW_SIZE else at for at in by_name.get(name, ())}
        if int(address, 16) not in theirs:
            differences.append(f"{name}: {address}, and nm has {sorted(map(hex, theirs))}")
    finish("kallsyms", compared, differences)


def members(text):
    """(path, offset, size) of the members in pahole's description of one structure, but for bit fields."""
    attributes = r"(?:\s*__attribute__\(\(.*?\)\)\s*)*"
    # Members of each structure that is not closed yet, behind a list for the outermost.
    parts = [[]]
    for line in text.splitlines():
        code = line.split("/*")[0].strip()
        place = re.search(r"/\*\s*(\d+)\s+(\d+) \*/", line)
        place = place and (int(place[1]), int(place[2]))
        if code.endswith("{"):
            parts.append([])
        elif code.startswith("}"):
            part = parts.pop()
            name = re.match(rf"\}}{attributes}([A-Za-z_]\w*)", code)
            if name:
                parts[-1].append((name[1], *place))
                part = [(f"{name[1]}.{path}", *rest) for path, *rest in part]
            # Members of an unnamed structure are members of what contains it.
            parts[-1].extend(part)
        elif place and code.endswith(";"):
            name = re.search(r"\(\*([A-Za-z_]\w*)\)\(", code)
            name = name or re.search(rf"([A-Za-z_]\w*)(?:\[\d*\])*{attributes};$", code)
            if name:
                parts[-1].append((name[1], *place))
    return parts[0]


def btf(tables, copy, base, vmlinux):
    theirs = {}
    for structure in STRUCTURES:
        command = ["pahole", "-F", "btf", "-C", structure, vmlinux]
        text = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        for path, offset, size in members(text):
            theirs[f"{structure} {path}"] = (offset, size)
    lines = run(tables, "btf", copy, base, input="".join(f"{path}\n" for path in theirs)).splitlines()
    differences = []
    for line in lines:
        structure, path, offset, size = line.split(" ", 3)
        expected = theirs[f"{structure} {path}"]
        if (offset, size) != tuple(map(str, expected)):
            differences.append(f"{structure} {path}: {offset} {size}, and pahole has {expected}")
    finish("btf", len(lines), differences)


def drgn_stacks(dump, vmlinux):
    """The kernel's return addresses of each task by drgn, by the name that a report gives it; and those on a CPU."""
    import drgn
    from drgn.helpers.linux import cpu_curr, for_each_online_cpu, for_each_task

    program = drgn.Program(vmcoreinfo=Dump(dump).vmcoreinfo())
    program.set_core_dump(dump)
    program.load_debug_info([vmlinux])

    def stack(task):
        try:
            counters = [frame.pc for frame in program.stack_trace(task) if not frame.is_inline]
        except ValueError as error:
            return str(error)
        return [counter for counter in counters if counter >> 63]

    def name(task):
        return f"{task.comm.string_().decode()}/{task.pid.value_()}"

    tasks = {name(task): stack(task) for task in for_each_task(program)}
    cpus = {cpu: stack(cpu_curr(program, cpu)) for cpu in for_each_online_cpu(program)}
    return tasks, cpus


def stacks(dump, report, vmlinux):
    backtrace = json.load(open(report))["backtraces"][0]
    tasks, cpus = drgn_stacks(dump, vmlinux)

    def frames(party):
        return [frame for frame in (party["host_stack"] or {"frames": []})["frames"] if frame["symbol"]]

    pairs = [(f"cpu{cpu['cpu']}", frames(cpu), cpus.get(cpu["cpu"])) for cpu in backtrace["cpus"]]
    pairs += [(task["name"], frames(task), tasks.get(task["name"])) for task in backtrace.get("tasks", [])]
    differences, longer = [], 0
    for party, stack, theirs in pairs:
        ours = [int(frame["address"], 16) for frame in stack]
        if ours == theirs:
            continue
        from_program = ours and stack[-1]["symbol"]["name"].startswith(("entry_", "asm_"))
        if from_program and isinstance(theirs, list) and len(theirs) == len(ours) + 1 and theirs[:-1] == ours:
            longer += 1
            continue
        shown = [hex(at) for at in theirs] if isinstance(theirs, list) else theirs
        differences.append(f"{party}: {[hex(at) for at in ours]}, and drgn has {shown}")
    print(f"stacks: {longer} have one frame more in drgn, behind the entry from a program")
    finish("stacks", len(pairs), differences)


if __name__ == "__main__":
    CHECKS = {check.__name__: check for check in (image, registers, kallsyms, btf, stacks)}
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    CHECKS[sys.argv[1]](*sys.argv[2:])
