/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A function that ends with a call that does not return, and has no padding behind it: the address
 * behind the call is the begin of the next function, and only the call is in this one.
 */
#include <linux/linkage.h>

	.text
SYM_FUNC_START(logmod_last)
	/* Sixteen bytes, as the next function is aligned. */
	.skip	2, 0x90
	xorl	%eax, %eax
	leaq	message(%rip), %rdi
	call	panic
SYM_FUNC_END(logmod_last)

SYM_FUNC_START(logmod_behind)
	RET
SYM_FUNC_END(logmod_behind)

	.section .rodata
message:
	.asciz	"logmod: the last call"
