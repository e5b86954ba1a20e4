// A PVH kernel whose whole run is to end the VM, by QEMU's debug-exit port.
#include "../tests/fixtures/pvh.S"

    pvh_note _start

.text
.code32
.globl _start
_start:
    xorl %eax, %eax
    movw $0xf4, %dx
    outl %eax, %dx
1:  hlt
    jmp 1b
