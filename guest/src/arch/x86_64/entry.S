// Entry of every exception, interrupt and NMI: one stub per vector, one common path, and the template
// of the interrupt descriptor table. Calls trap_entry in trap.rs; unwinders read the CFI.
//
// The processor has switched to the vector's IST stack and pushed SS, RSP, RFLAGS, CS, RIP. Below
// them the stubs complete a TrapFrame (trap_frame.rs), and below that a frame record (saved RBP, return
// address = interrupted RIP), so that a walk along frame pointers finds the interrupted function
// too, and does so at a fixed distance from the top of the stack.

.set ENTRY_BASE, 0xffffffff80200000     // _stext in kernel.ld

.section .entry.text, "ax"
.code64

// CFA is the value that RSP had below the pushed frame: SS at CFA-8 ... RIP at CFA-40.
.macro INTERRUPT_CFI pushed
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa %rsp, 40 + \pushed
    .cfi_offset %rip, -40
    .cfi_offset %rsp, -16
.endm

.macro STUB vector
    .balign 16
trap_\vector\():
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
    INTERRUPT_CFI 8                     // the processor has pushed an error code
    .else
    INTERRUPT_CFI 0
    pushq $0
    .cfi_adjust_cfa_offset 8
    .endif
    pushq $\vector
    .cfi_adjust_cfa_offset 8
    jmp trap_common
    .cfi_endproc
.endm

.irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31, 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63
    STUB \vector
.endr

.macro PUSH register
    pushq %\register
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %\register, 0
.endm

.macro POP register
    popq %\register
    .cfi_adjust_cfa_offset -8
    .cfi_restore %\register
.endm

.globl trap_common
.type trap_common, @function
trap_common:
    INTERRUPT_CFI 16
    PUSH rax
    PUSH rcx
    PUSH rdx
    PUSH rbx
    PUSH rbp
    PUSH rsi
    PUSH rdi
    PUSH r8
    PUSH r9
    PUSH r10
    PUSH r11
    PUSH r12
    PUSH r13
    PUSH r14
    PUSH r15
    cld
    movq %rsp, %rdi
    pushq 136(%rsp)                     // the frame record: interrupted RIP ...
    .cfi_adjust_cfa_offset 8
    pushq %rbp                          // ... and RBP
    .cfi_adjust_cfa_offset 8
    movq %rsp, %rbp
    callq trap_entry
    addq $16, %rsp
    .cfi_adjust_cfa_offset -16
    POP r15
    POP r14
    POP r13
    POP r12
    POP r11
    POP r10
    POP r9
    POP r8
    POP rdi
    POP rsi
    POP rbp
    POP rbx
    POP rdx
    POP rcx
    POP rax
    addq $16, %rsp
    .cfi_adjust_cfa_offset -16
    iretq
    .cfi_endproc
.size trap_common, . - trap_common

// The per-CPU interrupt descriptor table (SDM vol. 3, 6.14.1): 64-bit interrupt gates, all of them
// with an IST stack, since not all code in this image is built without a red zone (libcore's own
// functions use one). Interrupt stack indices are those of descriptors.rs.
.set IST_NMI, 1
.set IST_DOUBLE_FAULT, 2
.set IST_MACHINE_CHECK, 3
.set IST_EXCEPTION, 4
.set IST_INTERRUPT, 5

.macro GATE vector, ist
    .word trap_\vector - ENTRY_BASE, 0x08
    .byte \ist, 0x8e
    .word 0x8020
    .long 0xffffffff, 0
.endm

.section .percpu, "aw"
    .balign 16
.globl idt
.type idt, @object
idt:
.irp vector, 0,1
    GATE \vector, IST_EXCEPTION
.endr
    GATE 2, IST_NMI
.irp vector, 3,4,5,6,7
    GATE \vector, IST_EXCEPTION
.endr
    GATE 8, IST_DOUBLE_FAULT
.irp vector, 9,10,11,12,13,14,15,16,17
    GATE \vector, IST_EXCEPTION
.endr
    GATE 18, IST_MACHINE_CHECK
.irp vector, 19,20,21,22,23,24,25,26,27,28,29,30,31
    GATE \vector, IST_EXCEPTION
.endr
.irp vector, 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63
    GATE \vector, IST_INTERRUPT
.endr
.size idt, . - idt
