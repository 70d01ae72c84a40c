/* jitinfo.c - translated code made known to unwinders, gdb and perf.
 *
 * All translated code has one frame, rt_enter's: the host's stack pointer is put aside while it
 * runs, and what rt_enter has pushed lies above (enter.S). So one FDE covers the region:
 *
 *     CFA = host_sp + 64    return address CFA-8, rbx -16, rbp -24, r12 -32 ... r15 -56
 *
 * 32-bit code holds host_sp in r12. 64-bit code has no register for it, and unwinders cannot read
 * thread-local storage; so from the first block of 64-bit code on, a cell in the region points to
 * host_sp in the thread that entered the VM last: with several vCPUs in 64-bit code, only that one
 * can be unwound.
 *
 *   unwinders  the FDE and libunwind's table row lie at the region's start, behind the stubs
 *   gdb        one ELF file in memory for each region, in the list that gdb reads when it stops in
 *              __jit_debug_register_code() (gdb manual, "JIT Compilation Interface")
 *   perf       /tmp/perf-PID.map: "START SIZE guest_PC" for each block (perf's jit-interface.txt)
 *
 * Addresses are used again after a flush of the code cache; perf takes the last line for one.
 *
 * Thread: a region's functions are called under the VM's lock or before it runs. gdb's list is
 * shared by all VMs of the process and has a lock of its own. */
#include "codecache/jitinfo.h"
#include "runtime/rt.h"
#include "runtime/unwind.h"

#include <elf.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define FRAME_SIZE  192 /* of the unwind information; a multiple of 16 */
#define MAX_SYMBOLS 16
#define BUFFER_SIZE (64u << 10)

/* gdb's interface: names, layout and the version are its own. */
enum { JIT_NOACTION, JIT_REGISTER, JIT_UNREGISTER };

struct jit_code_entry {
    struct jit_code_entry *next, *prev;
    const char *symfile_addr;
    uint64_t symfile_size;
};

struct jit_descriptor {
    uint32_t version, action;
    struct jit_code_entry *relevant_entry, *first_entry;
};

void __jit_debug_register_code(void);
extern struct jit_descriptor __jit_debug_descriptor;

__attribute__((used)) struct jit_descriptor __jit_debug_descriptor = {.version = 1};

/* gdb has a breakpoint here. */
__attribute__((noinline, used)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" : : : "memory");
}

static pthread_mutex_t jit_lock = PTHREAD_MUTEX_INITIALIZER;

enum { SEC_NULL, SEC_TEXT, SEC_EH_FRAME, SEC_SYMTAB, SEC_STRTAB, SEC_SHSTRTAB, SECTIONS };

struct symfile {
    Elf64_Ehdr header;
    Elf64_Shdr section[SECTIONS];
    Elf64_Sym symbol[2 + MAX_SYMBOLS];
    uint8_t eh_frame[FRAME_SIZE];
    char strtab[1 + 32 * (1 + MAX_SYMBOLS)];
    char shstrtab[64];
};

struct cc_jitinfo {
    const struct cc *cc;
    void *unwind;
    const void **cell; /* writable */
    struct jit_code_entry entry;
    struct symfile file;
    bool perf_map;
    int perf_fd; /* -1 for none */
    size_t used;
    char buffer[BUFFER_SIZE];
};

/* ---- unwind information ---- */

/* DWARF 5, 6.4.2, and the LSB's .eh_frame */
#define CFA_EXPRESSION 0x0f
#define CFA_OFFSET(r)  (0x80 | (r))
#define OP_ADDR        0x03
#define OP_DEREF       0x06
#define OP_DUP         0x12
#define OP_DROP        0x13
#define OP_PLUS_UCONST 0x23
#define OP_BRA         0x28
#define OP_SKIP        0x2f
#define OP_BREG(r)     (0x70 + (r))
enum { DW_RBX = 3, DW_RBP = 6, DW_R12 = 12, DW_R13, DW_R14, DW_R15, DW_RA };

/* Lengths count from behind themselves. */
struct cie {
    uint32_t length, id;
    uint8_t version, augmentation[3], code_align, data_align, return_reg, aug_len, encoding;
    uint8_t cfa[3];    /* CFA = */
    uint64_t cell;     /*   *cell, */
    uint8_t branch[5]; /*   if that is not 0, go on at wide; */
    uint8_t narrow[7]; /*   r12 + 64; done */
    uint8_t wide[3];   /*   **cell + 64 */
    uint8_t rules[14];
    uint8_t pad[7]; /* DW_CFA_nop */
} __attribute__((packed));
struct fde {
    uint32_t length, cie_distance;
    uint64_t start, size;
    uint8_t aug_len, pad[7];
} __attribute__((packed));
struct frame {
    struct cie cie;
    struct fde fde;
    uint32_t terminator;
    int32_t table[2]; /* {start, FDE}, from the region's start */
    uint32_t pad;
    const void *cell; /* where host_sp is, or NULL: in r12 */
} __attribute__((packed));

_Static_assert(sizeof(struct cie) % 8 == 0 && sizeof(struct fde) % 8 == 0, "padding");
_Static_assert(sizeof(struct frame) <= FRAME_SIZE, "FRAME_SIZE");
_Static_assert(offsetof(struct frame, cell) % 8 == 0, "the cell is written while others read it");

static const struct cie frame_cie = {
    .length = sizeof(struct cie) - 4,
    .version = 1,
    .augmentation = "zR",
    .code_align = 1,
    .data_align = 0x78, /* -8 */
    .return_reg = DW_RA,
    .aug_len = 1,
    .encoding = 0, /* absolute addresses */
    .cfa = {CFA_EXPRESSION, sizeof((struct cie){0}.cell) + 16, OP_ADDR},
    .branch = {OP_DEREF, OP_DUP, OP_BRA, 7, 0},
    .narrow = {OP_DROP, OP_BREG(DW_R12), 0xc0, 0, OP_SKIP, 3, 0}, /* 64 as SLEB128: c0 00 */
    .wide = {OP_DEREF, OP_PLUS_UCONST, 64},
    .rules = {CFA_OFFSET(DW_RA), 1, CFA_OFFSET(DW_RBX), 2, CFA_OFFSET(DW_RBP), 3,
              CFA_OFFSET(DW_R12), 4, CFA_OFFSET(DW_R13), 5, CFA_OFFSET(DW_R14), 6,
              CFA_OFFSET(DW_R15), 7},
};

static void frame_build(struct frame *frame, const struct cc *cc, const uint8_t *at)
{
    memset(frame, 0, sizeof(*frame));
    frame->cie = frame_cie;
    frame->cie.cell = (uint64_t)(at + offsetof(struct frame, cell));
    frame->fde = (struct fde){
        .length = sizeof(struct fde) - 4,
        .cie_distance = offsetof(struct frame, fde) + 4,
        .start = (uint64_t)cc->rx,
        .size = cc->size,
    };
    frame->table[1] = (int32_t)(at + offsetof(struct frame, fde) - cc->rx);
}

/* ---- gdb ---- */

static uint32_t add_name(char *table, size_t size, uint32_t *used, const char *name)
{
    uint32_t at = *used;
    int n = snprintf(table + at, size - at, "%s", name);

    RT_ASSERT(n >= 0 && at + (uint32_t)n + 1 <= size);
    *used = at + (uint32_t)n + 1;
    return at;
}

static Elf64_Sym function(uint32_t name, const uint8_t *hpc, size_t size)
{
    return (Elf64_Sym){
        .st_name = name,
        .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
        .st_shndx = SEC_TEXT,
        .st_value = (Elf64_Addr)hpc,
        .st_size = size,
    };
}

/* The stubs, and the rest of the region as one function. */
static unsigned add_symbols(struct symfile *f, const struct cc *cc, const struct cc_symbol *symbols,
                            unsigned n, uint32_t *strings)
{
    unsigned i;

    *strings = 1;
    for (i = 0; i < n; i++) {
        const uint8_t *end = i + 1 < n ? symbols[i + 1].hpc : cc->rx + cc->start;
        uint32_t name = add_name(f->strtab, sizeof(f->strtab), strings, symbols[i].name);
        f->symbol[1 + i] = function(name, symbols[i].hpc, (size_t)(end - symbols[i].hpc));
    }
    uint32_t name = add_name(f->strtab, sizeof(f->strtab), strings, "novt_translated_code");
    f->symbol[1 + i] = function(name, cc->rx + cc->start, cc->size - cc->start);
    return i + 2;
}

static Elf64_Shdr data_section(const struct symfile *f, uint32_t name, uint32_t type,
                               const void *data, size_t size)
{
    return (Elf64_Shdr){
        .sh_name = name,
        .sh_type = type,
        .sh_offset = (Elf64_Off)((const char *)data - (const char *)f),
        .sh_size = size,
        .sh_addralign = 1,
    };
}

static void add_sections(struct symfile *f, const struct cc *cc, unsigned nsymbols,
                         uint32_t strings)
{
    uint32_t used = 1;
#define NAME(name) add_name(f->shstrtab, sizeof(f->shstrtab), &used, name)

    f->section[SEC_TEXT] = (Elf64_Shdr){
        .sh_name = NAME(".text"),
        .sh_type = SHT_NOBITS,
        .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
        .sh_addr = (Elf64_Addr)cc->rx,
        .sh_size = cc->size,
        .sh_addralign = 16,
    };
    f->section[SEC_EH_FRAME] = data_section(f, NAME(".eh_frame"), SHT_PROGBITS, f->eh_frame,
                                            offsetof(struct frame, table));
    f->section[SEC_EH_FRAME].sh_flags = SHF_ALLOC;
    f->section[SEC_EH_FRAME].sh_addr = (Elf64_Addr)f->eh_frame;
    f->section[SEC_SYMTAB] =
        data_section(f, NAME(".symtab"), SHT_SYMTAB, f->symbol, nsymbols * sizeof(Elf64_Sym));
    f->section[SEC_SYMTAB].sh_link = SEC_STRTAB;
    f->section[SEC_SYMTAB].sh_info = 1;
    f->section[SEC_SYMTAB].sh_entsize = sizeof(Elf64_Sym);
    f->section[SEC_STRTAB] = data_section(f, NAME(".strtab"), SHT_STRTAB, f->strtab, strings);
    f->section[SEC_SHSTRTAB] =
        data_section(f, NAME(".shstrtab"), SHT_STRTAB, f->shstrtab, sizeof(f->shstrtab));
#undef NAME
}

static void symfile_build(struct symfile *f, const struct cc *cc, const struct frame *frame,
                          const struct cc_symbol *symbols, unsigned n)
{
    uint32_t strings;

    f->header = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_shoff = offsetof(struct symfile, section),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_shentsize = sizeof(Elf64_Shdr),
        .e_shnum = SECTIONS,
        .e_shstrndx = SEC_SHSTRTAB,
    };
    memcpy(f->eh_frame, frame, sizeof(*frame));
    unsigned nsymbols = add_symbols(f, cc, symbols, n, &strings);
    add_sections(f, cc, nsymbols, strings);
}

static void jit_tell(struct jit_code_entry *entry, uint32_t action)
{
    __jit_debug_descriptor.relevant_entry = entry;
    __jit_debug_descriptor.action = action;
    __jit_debug_register_code();
    __jit_debug_descriptor.action = JIT_NOACTION;
}

static void jit_register(struct jit_code_entry *entry)
{
    pthread_mutex_lock(&jit_lock);
    entry->next = __jit_debug_descriptor.first_entry;
    if (entry->next)
        entry->next->prev = entry;
    __jit_debug_descriptor.first_entry = entry;
    jit_tell(entry, JIT_REGISTER);
    pthread_mutex_unlock(&jit_lock);
}

static void jit_unregister(struct jit_code_entry *entry)
{
    pthread_mutex_lock(&jit_lock);
    if (entry->prev)
        entry->prev->next = entry->next;
    else
        __jit_debug_descriptor.first_entry = entry->next;
    if (entry->next)
        entry->next->prev = entry->prev;
    jit_tell(entry, JIT_UNREGISTER);
    pthread_mutex_unlock(&jit_lock);
}

/* ---- perf ---- */

/* Without the file there is no map: the guest does not care. */
static void perf_open(struct cc_jitinfo *info, bool wanted)
{
    char path[32];

    info->perf_fd = -1;
    if (!wanted)
        return;
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", rt_os_pid());
    info->perf_fd = rt_os_append_open(path);
    info->perf_map = info->perf_fd >= 0;
}

static void perf_flush(struct cc_jitinfo *info)
{
    if (info->used && rt_os_append(info->perf_fd, info->buffer, info->used) < 0)
        info->perf_map = false; /* the disk is full: the guest does not care */
    info->used = 0;
}

static void perf_line(struct cc_jitinfo *info, const uint8_t *hpc, size_t size, const char *name)
{
    if (sizeof(info->buffer) - info->used < 96)
        perf_flush(info);
    int n = snprintf(info->buffer + info->used, sizeof(info->buffer) - info->used, "%llx %zx %s\n",
                     (unsigned long long)hpc, size, name);
    info->used += (size_t)n;
}

void cc_jitinfo_thread(struct cc_jitinfo *info)
{
    if (*info->cell)
        __atomic_store_n(info->cell, &rt_cpu.host_sp, __ATOMIC_RELEASE);
}

void cc_jitinfo_block(struct cc_jitinfo *info, const struct cc_block *b)
{
    char name[32];

    if (b->wide)
        __atomic_store_n(info->cell, &rt_cpu.host_sp, __ATOMIC_RELEASE);
    if (!info->perf_map)
        return;
    snprintf(name, sizeof(name), "guest_%08llx", (unsigned long long)b->pc);
    perf_line(info, info->cc->rx + b->host, b->host_len, name);
}

/* ---- life ---- */

/* The frame's bytes become part of the region. */
static const uint8_t *place_frame(struct cc *cc, struct frame *frame)
{
    uint8_t *p = cc_reserve(cc, FRAME_SIZE);

    if (!p)
        return NULL;
    frame_build(frame, cc, cc->rx + (p - cc->rw));
    memcpy(p, frame, sizeof(*frame));
    const uint8_t *at = cc_commit(cc, FRAME_SIZE);
    cc->start = cc->used; /* it stays when the code cache is flushed */
    return at;
}

struct cc_jitinfo *cc_jitinfo_create(struct cc *cc, const struct cc_symbol *symbols, unsigned n,
                                     bool perf_map)
{
    struct cc_jitinfo *info = rt_os_reserve(sizeof(*info));
    struct frame frame;

    RT_ASSERT(n <= MAX_SYMBOLS);
    if (!info)
        return NULL;
    const uint8_t *at = place_frame(cc, &frame);
    if (at)
        info->unwind =
            rt_unwind_register(cc->rx, cc->size, at,
                               (const int32_t *)(const void *)(at + offsetof(struct frame, table)));
    if (!info->unwind) {
        rt_os_release(info, sizeof(*info));
        return NULL;
    }
    info->cc = cc;
    info->cell = (const void **)(void *)(cc_rw(cc, at) + offsetof(struct frame, cell));
    perf_open(info, perf_map);
    symfile_build(&info->file, cc, &frame, symbols, n);
    info->entry.symfile_addr = (const char *)&info->file;
    info->entry.symfile_size = sizeof(info->file);
    jit_register(&info->entry);
    for (unsigned i = 0; info->perf_map && i < n; i++) {
        const uint8_t *end = i + 1 < n ? symbols[i + 1].hpc : at;
        perf_line(info, symbols[i].hpc, (size_t)(end - symbols[i].hpc), symbols[i].name);
    }
    return info;
}

void cc_jitinfo_destroy(struct cc_jitinfo *info)
{
    if (!info)
        return;
    jit_unregister(&info->entry);
    rt_unwind_forget(info->unwind);
    if (info->perf_map)
        perf_flush(info);
    rt_os_close(info->perf_fd);
    rt_os_release(info, sizeof(*info));
}
