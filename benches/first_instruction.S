// A PVH kernel whose first instructions say, on the first serial port, that they ran.
#include "../tests/fixtures/pvh.S"

    pvh_note _start

.text
.code32
.globl _start
_start:
    movw $0x3f8, %dx
    movb $'1', %al
    outb %al, %dx
    movb $'\n', %al             // whole lines are passed on at once
    outb %al, %dx
1:  hlt
    jmp 1b
