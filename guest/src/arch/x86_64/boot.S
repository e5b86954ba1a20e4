// Boot code up to the first Rust function: the PVH entry of the boot CPU, the trampoline of the others,
// and the page tables that both switch to. Refuses to own anything after the call of kernel_main or
// ap_main.
//
// PVH (Xen's "x86/HVM direct boot ABI"): 32-bit protected mode, paging off, flat segments, EBX =
// physical address of hvm_start_info. Tables that other kernels compute at boot are link-time constants
// here: on a slow machine each instruction before the ready mark counts.

.set KERNEL_BASE, 0xffffffff80000000
.set PRESENT, 1
.set WRITABLE, 2
.set WRITE_THROUGH, 8
.set CACHE_DISABLE, 0x10
.set LARGE, 0x80
.set GLOBAL, 0x100
.set NO_EXECUTE, 0x8000000000000000

.set CR4_BITS, 0xa0             // PAE | PGE
.set EFER_BITS, 0x900           // LME | NXE
.set CR0_BITS, 0x80010033       // PG | WP | NE | ET | MP | PE

// XEN_ELFNOTE_PHYS32_ENTRY: the entry point for a PVH loader.
.section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start - KERNEL_BASE

.section .entry.text, "ax"
.code32
.globl pvh_start
.type pvh_start, @function
pvh_start:
    .cfi_startproc
    .cfi_undefined 16           // RIP, which 32-bit code has no name for: no caller
    cld
    movl $CR4_BITS, %eax
    movl %eax, %cr4
    movl $(boot_pml4 - KERNEL_BASE), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $EFER_BITS, %eax
    wrmsr
    movl $CR0_BITS, %eax
    movl %eax, %cr0
    lgdtl boot_gdt_pointer - KERNEL_BASE
    ljmpl $0x08, $(long_mode - KERNEL_BASE)
    .cfi_endproc
.size pvh_start, . - pvh_start

.code64
long_mode:
    movq $high_half, %rax
    jmpq *%rax
.type high_half, @function
high_half:
    .cfi_startproc
    .cfi_undefined %rip
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs              // GS base 0: per-CPU accesses reach the template
    movq $boot_stack_top, %rsp
    movl %ebx, %edi
    xorl %ebp, %ebp
    callq kernel_main
1:  hlt
    jmp 1b
    .cfi_endproc
.size high_half, . - high_half

// fn run_on_stack(entry: extern "C" fn(usize) -> !, argument: usize, stack_top: usize) -> !
// The outermost frame of every CPU: a zero return address and a zero frame pointer end the walk.
.globl run_on_stack
.type run_on_stack, @function
run_on_stack:
    .cfi_startproc
    .cfi_undefined %rip
    movq %rdx, %rsp
    movq %rdi, %rax
    movq %rsi, %rdi
    xorl %ebp, %ebp
    callq *%rax
1:  hlt
    jmp 1b
    .cfi_endproc
.size run_on_stack, . - run_on_stack

// An application processor: finds its number by its APIC ID, then its stack and per-CPU data.
.globl ap_start
.type ap_start, @function
ap_start:
    .cfi_startproc
    .cfi_undefined %rip
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    // Off the identity mapping.
    movq $(kernel_pml4 - KERNEL_BASE), %rax
    movq %rax, %cr3
    // APIC ID: 32 bits from leaf 0xb where there is one, the initial 8 bits of leaf 1 otherwise.
    xorl %eax, %eax
    cpuid
    cmpl $0xb, %eax
    jb 1f
    movl $0xb, %eax
    xorl %ecx, %ecx
    cpuid
    testl %ebx, %ebx
    jnz 2f
1:  movl $1, %eax
    cpuid
    movl %ebx, %edx
    shrl $24, %edx
2:  movl nr_cpu_ids(%rip), %ecx
    xorl %edi, %edi
3:  cmpl %edx, cpu_to_apicid(, %rdi, 4)
    je 4f
    incl %edi
    cmpl %ecx, %edi
    jb 3b
    jmp 5f                      // not a possible CPU: halt
4:  movq main_stack_top(, %rdi, 8), %rsp
    xorl %ebp, %ebp
    callq ap_main
5:  cli
    hlt
    jmp 5b
    .cfi_endproc
.size ap_start, . - ap_start

// Copied to TRAMPOLINE (smp.rs), the page that a start-up IPI names; real mode, CS = page, IP = 0.
.set TRAMPOLINE, 0x8000
.section .rodata.trampoline, "a"
.globl trampoline_start, trampoline_end
trampoline_start:
.code16
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl TRAMPOLINE + (trampoline_gdt_pointer - trampoline_start)
    movl $CR4_BITS, %eax
    movl %eax, %cr4
    movl $(boot_pml4 - KERNEL_BASE), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $EFER_BITS, %eax
    wrmsr
    movl $CR0_BITS, %eax
    movl %eax, %cr0             // real mode to long mode in one step
    ljmpl $0x08, $(TRAMPOLINE + (trampoline_long_mode - trampoline_start))
.code64
trampoline_long_mode:
    movq $ap_start, %rax
    jmpq *%rax
    .balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 0x08: 64-bit code
trampoline_gdt_pointer:
    .word trampoline_gdt_pointer - trampoline_gdt - 1
    .long TRAMPOLINE + (trampoline_gdt - trampoline_start)
trampoline_end:

.section .rodata.boot_gdt, "a"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    // 0x08: 64-bit code
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt - KERNEL_BASE

// Two top levels over the same lower levels: boot_pml4 also maps the first 4 GiB onto themselves,
// for the instructions that turn paging on; kernel_pml4 does not, so that address 0 faults.
//
//   0xffff888000000000  direct map of physical 0 to 4 GiB, 2 MiB pages, never executable
//   0xffffc90000000000  stacks, 4 KiB pages with guard pages, filled in by memory.rs
//   0xffffffff80000000  the kernel: text at 2 MiB, read-only data at 4 MiB, data at 6 MiB
.section .data.page_tables, "aw"
    .balign 4096
.globl boot_pml4
boot_pml4:
    .quad identity_pdpt - KERNEL_BASE + PRESENT + WRITABLE
    .fill 272, 8, 0
    .quad direct_map_pdpt - KERNEL_BASE + PRESENT + WRITABLE
    .fill 128, 8, 0
    .quad stacks_pdpt - KERNEL_BASE + PRESENT + WRITABLE
    .fill 108, 8, 0
    .quad kernel_pdpt - KERNEL_BASE + PRESENT + WRITABLE
.globl kernel_pml4
kernel_pml4:
    .fill 273, 8, 0
    .quad direct_map_pdpt - KERNEL_BASE + PRESENT + WRITABLE
    .fill 128, 8, 0
    .quad stacks_pdpt - KERNEL_BASE + PRESENT + WRITABLE
    .fill 108, 8, 0
    .quad kernel_pdpt - KERNEL_BASE + PRESENT + WRITABLE
identity_pdpt:
    .quad identity_pd - KERNEL_BASE + PRESENT + WRITABLE
    .fill 511, 8, 0
identity_pd:                    // executable, and only what the boot code and trampoline lie in
    .set page, 0
    .rept 4
    .quad page + PRESENT + WRITABLE + LARGE
    .set page, page + 0x200000
    .endr
    .fill 508, 8, 0
direct_map_pdpt:
    .quad direct_map_pd - KERNEL_BASE + PRESENT + WRITABLE
    .quad direct_map_pd + 0x1000 - KERNEL_BASE + PRESENT + WRITABLE
    .quad direct_map_pd + 0x2000 - KERNEL_BASE + PRESENT + WRITABLE
    .quad direct_map_pd + 0x3000 - KERNEL_BASE + PRESENT + WRITABLE
    .fill 508, 8, 0
direct_map_pd:
    .set page, 0
    .rept 2038                  // memory
    .quad page + PRESENT + WRITABLE + LARGE + GLOBAL + NO_EXECUTE
    .set page, page + 0x200000
    .endr
    .rept 10                    // 0xfec00000 up: I/O APIC, local APIC, firmware
    .quad page + PRESENT + WRITABLE + WRITE_THROUGH + CACHE_DISABLE + LARGE + GLOBAL + NO_EXECUTE
    .set page, page + 0x200000
    .endr
.globl stacks_pdpt
stacks_pdpt:
    .quad stacks_pd - KERNEL_BASE + PRESENT + WRITABLE
    .fill 511, 8, 0
.globl stacks_pd
stacks_pd:
    .fill 512, 8, 0
kernel_pdpt:
    .fill 510, 8, 0
    .quad kernel_pd - KERNEL_BASE + PRESENT + WRITABLE
    .quad 0
kernel_pd:
    .quad 0
    .quad 0x200000 + PRESENT + LARGE + GLOBAL
    .quad 0x400000 + PRESENT + LARGE + GLOBAL + NO_EXECUTE
    .quad 0x600000 + PRESENT + WRITABLE + LARGE + GLOBAL + NO_EXECUTE
    .fill 508, 8, 0

.section .bss.boot_stack, "aw", @nobits
    .balign 16
    .space 8192
boot_stack_top:
