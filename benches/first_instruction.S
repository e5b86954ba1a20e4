// A PVH kernel whose first instructions say, on the first serial port, that they ran.
.section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18              // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

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
