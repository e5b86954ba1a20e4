// A PVH kernel whose whole life is to end the VM: what a VMM takes from its start to the guest's
// first instructions, and back.
.section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18              // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

.text
.code32
.globl _start
_start:
    movw $0xf4, %dx             // the debug-exit port
    xorl %eax, %eax
    outb %al, %dx
1:  hlt
    jmp 1b
