// The switch from one stack to another, and the outermost frame of a task. Called by switch.rs;
// unwinders read the CFI, and the host the SwitchFrame.

.section .entry.text, "ax"
.code64

// fn switch_stacks(save: *mut usize, to: usize)
// Leaves a SwitchFrame on this stack and its address in *save, and continues from the one at `to`. RBP
// and the return address above it are a frame record, for walks along frame pointers.
.globl switch_stacks
.type switch_stacks, @function
switch_stacks:
    .cfi_startproc
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    movq %rsp, %rbp
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    pushq %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r12, 0
    pushq %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r13, 0
    pushq %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r14, 0
    pushq %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r15, 0
    movq %rsp, (%rdi)
    movq %rsi, %rsp             // another stack, the same layout: all of the CFI holds there too
    leaq 40(%rsp), %rbp
    popq %r15
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r15
    popq %r14
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r14
    popq %r13
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r13
    popq %r12
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r12
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    popq %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbp
    retq
    .cfi_endproc
.size switch_stacks, . - switch_stacks

// The outermost frame of every task, which switch_stacks returns to the first time. R12 and R13 have the
// function to run and its argument (switch.rs). The return is to the second byte, so that the return
// address follows an instruction of this function, as after a call.
.globl task_start
.type task_start, @function
task_start:
    .cfi_startproc
    .cfi_undefined %rip
    nop
    movq %r12, %rdi
    movq %r13, %rsi
    xorl %ebp, %ebp
    callq task_main
1:  hlt
    jmp 1b
    .cfi_endproc
.size task_start, . - task_start
