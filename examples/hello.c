/* hello.c - the smallest useful embedder of libnovt: runs a real guest program with <novt.h> alone.
 *
 * The guest is 32-bit code, assembled into this file. It prints the primes below 60 through a port
 * and multiplies two numbers on a device of ours: a multiplier behind memory-mapped registers.
 *
 *     port 3F8h          OUT prints a character
 *     memory 100000h     +0, +4: factors (written), +8: their product (read)
 *     HLT                ends the program
 *
 * Build: cc hello.c $(pkg-config --cflags --libs novt)     Prints two lines; status 0 when all went
 * well. */
#define _GNU_SOURCE /* memfd_create() */
#include <novt.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RAM_SIZE = 1 << 20, LOAD = 0x1000, STACK = 0x80000, DEVICE = 0x100000, PORT = 0x3f8 };

extern const char guest_begin[], guest_end[];
__asm__(".section .rodata\n"
        ".code32\n"
        ".globl guest_begin, guest_end\n"
        "guest_begin:\n"
        "    movl $2, %ebx\n" /* candidate */
        "1:  movl $2, %ecx\n" /* divisor */
        "2:  movl %ecx, %eax\n"
        "    mull %ecx\n"
        "    cmpl %ebx, %eax\n"
        "    ja 3f\n" /* none up to the root: prime */
        "    movl %ebx, %eax\n"
        "    xorl %edx, %edx\n"
        "    divl %ecx\n"
        "    incl %ecx\n"
        "    testl %edx, %edx\n"
        "    jnz 2b\n"
        "    jmp 4f\n"
        "3:  movl %ebx, %eax\n"
        "    movb $' ', %cl\n"
        "    call print\n"
        "4:  incl %ebx\n"
        "    cmpl $60, %ebx\n"
        "    jb 1b\n"
        "    movb $'\\n', %al\n"
        "    outb %al, %dx\n"
        "    movl $0x100000, %esi\n" /* the multiplier */
        "    movl $1234, (%esi)\n"
        "    movl $5678, 4(%esi)\n"
        "    movl 8(%esi), %eax\n"
        "    movb $'\\n', %cl\n"
        "    call print\n"
        "    hlt\n"
        "print:\n" /* eax in decimal, then cl; leaves the port in dx */
        "    movl $10, %edi\n"
        "    pushl $0\n"
        "5:  xorl %edx, %edx\n"
        "    divl %edi\n"
        "    addl $'0', %edx\n"
        "    pushl %edx\n"
        "    testl %eax, %eax\n"
        "    jnz 5b\n"
        "    movl $0x3f8, %edx\n"
        "6:  popl %eax\n"
        "    testl %eax, %eax\n"
        "    jz 7f\n"
        "    outb %al, %dx\n"
        "    jmp 6b\n"
        "7:  movb %cl, %al\n"
        "    outb %al, %dx\n"
        "    ret\n"
        "guest_end:\n"
        ".code64\n"
        ".text\n");

static struct novt_segment flat(uint16_t selector, uint32_t attr)
{
    return (struct novt_segment){.limit = 0xffffffff, .attr = attr, .selector = selector};
}

/* From the state after RESET to flat 32-bit protected mode at LOAD. */
static int start_state(struct novt_vcpu *vcpu)
{
    struct novt_regs regs = {.rip = LOAD, .rflags = 2};
    struct novt_sregs sregs;

    novt_vcpu_get_sregs(vcpu, &sregs);
    for (unsigned i = 0; i < 6; i++)
        sregs.seg[i] = flat(16, 0xc093);
    sregs.seg[NOVT_CS] = flat(8, 0xc09b);
    sregs.cr0 |= 1;
    regs.gpr[NOVT_RSP] = STACK;
    int status = novt_vcpu_set_sregs(vcpu, &sregs);
    return status ? status : novt_vcpu_set_regs(vcpu, &regs);
}

static void handle_mmio(struct novt_run *run, uint32_t factor[2])
{
    uint64_t reg = run->mmio.gpa - DEVICE;
    uint32_t product = factor[0] * factor[1];

    if (run->mmio.size == 4 && run->mmio.write && (reg == 0 || reg == 4))
        memcpy(&factor[reg / 4], run->mmio.data, 4);
    else if (run->mmio.size == 4 && !run->mmio.write && reg == 8)
        memcpy(run->mmio.data, &product, 4);
}

/* Runs to HLT; 0 when the guest got there. */
static int run_guest(struct novt_vcpu *vcpu)
{
    struct novt_run *run = novt_vcpu_run_area(vcpu);
    uint32_t factor[2] = {0};

    while (novt_vcpu_run(vcpu) == NOVT_OK) {
        if (run->exit_reason == NOVT_EXIT_HLT)
            return 0;
        if (run->exit_reason == NOVT_EXIT_IO && run->io.write && run->io.port == PORT)
            putchar((int)(run->io.data & 0xff));
        else if (run->exit_reason == NOVT_EXIT_MMIO)
            handle_mmio(run, factor);
        else if (run->exit_reason == NOVT_EXIT_SHUTDOWN || run->exit_reason == NOVT_EXIT_INTERNAL)
            break;
    }
    return 1;
}

int main(void)
{
    const struct novt_config config = {.size = sizeof(config)};
    struct novt_vm *vm = NULL;
    struct novt_vcpu *vcpu = NULL;
    char why[256] = "";
    int memory = memfd_create("hello", MFD_CLOEXEC), failed = 1;
    size_t size = (size_t)(guest_end - guest_begin);

    if (memory < 0 || ftruncate(memory, RAM_SIZE) < 0 ||
        pwrite(memory, guest_begin, size, LOAD) != (ssize_t)size)
        perror("hello: guest memory");
    else if (novt_vm_create(&config, &vm, why, sizeof(why)) != NOVT_OK)
        fprintf(stderr, "hello: %s\n", why);
    else if (novt_vm_set_memory(vm, 0, 0, RAM_SIZE, memory, 0, 0) != NOVT_OK ||
             novt_vcpu_create(vm, 0, &vcpu) != NOVT_OK || start_state(vcpu) != NOVT_OK)
        fprintf(stderr, "hello: %s\n", novt_vm_error(vm));
    else
        failed = run_guest(vcpu);
    novt_vm_destroy(vm);
    return failed;
}
