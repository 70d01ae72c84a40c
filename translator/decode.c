/* decode.c - guest bytes to struct tr_insn, with Zydis.
 *
 * Zydis says how the bytes parse; policy.def says what they mean to us. Only the parts of an
 * instruction that every user needs are taken here; operand sizes and directions cost a second
 * pass, tr_decode_operands(), which the translator avoids.
 *
 * Decoders are set to what the guest is offered: MPX and CET off, so that their encodings are the
 * NOPs that a CPU without them has; KNC off.
 *
 * Thread: any; no state. */
#include "runtime/vcpu.h"
#include "translator/policy.h"

#include <Zydis/Zydis.h>
#include <string.h>

static ZydisDecoder decoder_for(enum tr_mode mode)
{
    static const ZydisMachineMode machine[] = {
        [TR_MODE_16] = ZYDIS_MACHINE_MODE_LEGACY_16,
        [TR_MODE_32] = ZYDIS_MACHINE_MODE_LEGACY_32,
        [TR_MODE_64] = ZYDIS_MACHINE_MODE_LONG_64,
    };
    static const ZydisStackWidth stack[] = {
        [TR_MODE_16] = ZYDIS_STACK_WIDTH_16,
        [TR_MODE_32] = ZYDIS_STACK_WIDTH_32,
        [TR_MODE_64] = ZYDIS_STACK_WIDTH_64,
    };
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, machine[mode], stack[mode]);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
    return decoder;
}

static enum tr_seg seg_of_attributes(ZydisInstructionAttributes attributes)
{
    if (!(attributes & ZYDIS_ATTRIB_HAS_SEGMENT))
        return TR_SEG_NONE;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
        return TR_CS;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
        return TR_SS;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_DS)
        return TR_DS;
    if (attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
        return TR_ES;
    return attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS ? TR_FS : TR_GS;
}

/* The last segment override prefix, whether or not the instruction uses it. */
static enum tr_seg seg_of_prefixes(const ZydisDecodedInstruction *zi, enum tr_mode mode)
{
    enum tr_seg seg = TR_SEG_NONE;
    for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
        switch (zi->raw.prefixes[i].value) {
        case 0x26:
            seg = mode == TR_MODE_64 ? seg : TR_ES;
            break;
        case 0x2e:
            seg = mode == TR_MODE_64 ? seg : TR_CS;
            break;
        case 0x36:
            seg = mode == TR_MODE_64 ? seg : TR_SS;
            break;
        case 0x3e:
            seg = mode == TR_MODE_64 ? seg : TR_DS;
            break;
        case 0x64:
            seg = TR_FS;
            break;
        case 0x65:
            seg = TR_GS;
            break;
        default:
            break;
        }
    }
    return seg;
}

/* Base and index registers of the ModRM operand (SDM 2-2.1.5, tables 2-1 to 2-3). */
static void take_memory(struct tr_insn *insn, const ZydisDecodedInstruction *zi)
{
    static const int8_t base16[] = {3, 3, 5, 5, 6, 7, 5, 3};
    static const int8_t index16[] = {6, 7, 6, 7, -1, -1, -1, -1};
    unsigned mod = zi->raw.modrm.mod, rm = zi->raw.modrm.rm;
    unsigned ext_b = insn->rex & 1 ? 8 : 0, ext_x = insn->rex & 2 ? 8 : 0;

    if (insn->encoding == TR_ENC_VEX) {
        ext_b = zi->raw.vex.B || insn->mode != TR_MODE_64 ? 0 : 8; /* raw bits: inverted */
        ext_x = zi->raw.vex.X || insn->mode != TR_MODE_64 ? 0 : 8;
    } else if (insn->encoding == TR_ENC_EVEX) {
        ext_b = zi->raw.evex.B || insn->mode != TR_MODE_64 ? 0 : 8;
        ext_x = zi->raw.evex.X || insn->mode != TR_MODE_64 ? 0 : 8;
    }
    insn->base = insn->index = -1;
    insn->scale = 1;
    if (insn->adsize == 16) {
        if (!(mod == 0 && rm == 6)) {
            insn->base = base16[rm];
            insn->index = index16[rm];
        }
        insn->seg = insn->base == RT_BP ? TR_SS : TR_DS;
    } else if (rm == 4) {
        unsigned base = zi->raw.sib.base, index = zi->raw.sib.index | ext_x;
        if (!(base == 5 && mod == 0))
            insn->base = (int8_t)(base | ext_b);
        insn->scale = (uint8_t)(1u << zi->raw.sib.scale);
        if (index != 4 || insn->vsib)
            insn->index = (int8_t)index;
    } else if (!(mod == 0 && rm == 5)) {
        insn->base = (int8_t)(rm | ext_b);
    } else if (insn->mode == TR_MODE_64) {
        insn->base = 16; /* RIP */
    }
    if (insn->adsize != 16)
        insn->seg = insn->base == RT_SP || insn->base == RT_BP ? TR_SS : TR_DS;
    if (insn->seg_override != TR_SEG_NONE)
        insn->seg = insn->seg_override;
    insn->disp = zi->raw.disp.value;
    insn->disp_size = zi->raw.disp.size / 8;
    insn->disp_at = zi->raw.disp.offset;
}

static enum tr_feature feature_of(const struct tr_policy *row, const ZydisDecodedInstruction *zi)
{
    switch (row->feature) {
    case TR_PF_NONE:
        return TR_F_NONE;
    case TR_PF_X87:
        return TR_F_X87;
    case TR_PF_WAIT:
        return TR_F_WAIT;
    default:
        break;
    }
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
        zi->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
        return TR_F_AVX512;
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return TR_F_AVX;
    if (zi->meta.isa_ext == ZYDIS_ISA_EXT_X87)
        return TR_F_X87;
    if (zi->meta.isa_ext == ZYDIS_ISA_EXT_MMX)
        return TR_F_MMX;
    return TR_F_SSE;
}

static bool mnemonic_only_computes(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_LEA || mnemonic == ZYDIS_MNEMONIC_NOP ||
           mnemonic == ZYDIS_MNEMONIC_ENDBR32 || mnemonic == ZYDIS_MNEMONIC_ENDBR64;
}

/* ModRM.mod does not matter to these: the operand is always a register (SDM 2 MOV CRn). */
static bool modrm_is_register(const struct tr_insn *insn)
{
    return insn->op == TR_OP_mov_to_cr || insn->op == TR_OP_mov_from_cr ||
           insn->op == TR_OP_mov_to_dr || insn->op == TR_OP_mov_from_dr;
}

static void take_prefixes(struct tr_insn *insn, const ZydisDecodedInstruction *zi)
{
    /* 64-bit code has overrides to FS and GS; the others are not there at all (SDM 1-3.3.7.1). */
    insn->seg_override = TR_SEG_NONE;
    if (insn->mode != TR_MODE_64)
        insn->seg_override = (uint8_t)seg_of_attributes(zi->attributes);
    if (insn->seg_override == TR_SEG_NONE)
        insn->seg_override = (uint8_t)seg_of_prefixes(zi, insn->mode);
    insn->opcode_at = zi->raw.prefix_count; /* REX too, with or without effect */
    for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
        uint8_t p = zi->raw.prefixes[i].value;
        if (p == 0x66)
            insn->prefix66 = true;
        else if (p == 0xf2 || p == 0xf3)
            insn->prefix_rep = p;
        else if (p == 0xf0)
            insn->lock = true;
    }
    if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        insn->rep = 0xf3;
    else if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        insn->rep = 0xf2;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REX)
        insn->rex = (uint8_t)(0x40 | zi->raw.rex.W << 3 | zi->raw.rex.R << 2 | zi->raw.rex.X << 1 |
                              zi->raw.rex.B);
}

/* A count of zero leaves the flags alone (SDM 2 SAL, SHLD). */
static bool is_shift(const struct tr_insn *insn)
{
    if (insn->encoding != TR_ENC_LEGACY)
        return false;
    if (insn->map == 0)
        return (insn->opcode & 0xfe) == 0xc0 || (insn->opcode & 0xfc) == 0xd0;
    return insn->map == 1 && (insn->opcode & 0xf6) == 0xa4;
}

/* An undefined flag may well be one that the CPU leaves alone, so it does not count as written; but
 * AND, OR, XOR and TEST clear AF on every CPU. */
static void take_flags(struct tr_insn *insn, const ZydisDecodedInstruction *zi)
{
    const ZydisAccessedFlags *f = zi->cpu_flags;

    if (!f)
        return;
    insn->flags_read = f->tested;
    if (is_shift(insn))
        return;
    insn->flags_written = f->modified | f->set_0 | f->set_1;
    if ((f->set_0 & (RT_CF | RT_OF)) == (RT_CF | RT_OF) && f->undefined == RT_AF)
        insn->flags_written |= RT_AF;
}

static void take_immediates(struct tr_insn *insn, const ZydisDecodedInstruction *zi)
{
    insn->imm_at = zi->raw.imm[0].offset;
    insn->imm_size = (uint8_t)((zi->raw.imm[0].size + zi->raw.imm[1].size) / 8);
    insn->imm_form = zi->raw.imm[1].size        ? TR_IMM_TWO
                     : zi->raw.imm[0].is_signed ? TR_IMM_SIGNED
                                                : TR_IMM_UNSIGNED;
    insn->imm = zi->raw.imm[0].value.s;
    insn->imm2 = (uint16_t)zi->raw.imm[1].value.u;
}

static void take_instruction(struct tr_insn *insn, const ZydisDecodedInstruction *zi)
{
    insn->len = zi->length;
    insn->mnemonic = (uint16_t)zi->mnemonic;
    insn->encoding = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX    ? TR_ENC_VEX
                     : zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? TR_ENC_EVEX
                                                                       : TR_ENC_LEGACY;
    insn->map = (uint8_t)zi->opcode_map;
    insn->opcode = zi->opcode;
    insn->opsize = zi->operand_width;
    insn->adsize = zi->address_width;
    take_prefixes(insn, zi);
    take_flags(insn, zi);
    take_immediates(insn, zi);
    if (insn->encoding == TR_ENC_VEX) {
        insn->vex_l = zi->raw.vex.L;
    } else if (insn->encoding == TR_ENC_EVEX) {
        insn->vex_l = (uint8_t)(zi->raw.evex.L2 << 1 | zi->raw.evex.L);
        insn->evex_b = zi->raw.evex.b;
        insn->evex_aaa = zi->raw.evex.aaa;
    }
    const struct tr_policy *row = tr_policy_get(insn->mnemonic);
    insn->cls = row->cls;
    insn->op = row->op;
    insn->feature = feature_of(row, zi);
    insn->seg = insn->seg_override != TR_SEG_NONE ? insn->seg_override : TR_DS;
    insn->base = insn->index = -1;
    if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
        insn->disp = zi->raw.disp.value; /* MOV moffs */
        insn->disp_size = zi->raw.disp.size / 8;
        insn->disp_at = zi->raw.disp.offset;
        tr_policy_refine(insn);
        return;
    }
    insn->has_modrm = true;
    insn->modrm_at = zi->raw.modrm.offset;
    insn->mod = zi->raw.modrm.mod;
    insn->reg = (uint8_t)(zi->raw.modrm.reg | (insn->rex & 4 ? 8 : 0));
    insn->rm = (uint8_t)(zi->raw.modrm.rm | (insn->rex & 1 ? 8 : 0));
    tr_policy_refine(insn);
    if (insn->mod == 3 || modrm_is_register(insn))
        return;
    insn->has_mem = true;
    insn->agen_only = mnemonic_only_computes(zi->mnemonic);
    insn->vsib = zi->meta.category == ZYDIS_CATEGORY_GATHER ||
                 zi->meta.category == ZYDIS_CATEGORY_AVX2GATHER ||
                 zi->meta.category == ZYDIS_CATEGORY_SCATTER;
    take_memory(insn, zi);
}

static bool register_is_vector(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_MASK:
        return true;
    default:
        return reg == ZYDIS_REGISTER_MXCSR || reg == ZYDIS_REGISTER_X87STATUS ||
               reg == ZYDIS_REGISTER_X87CONTROL || reg == ZYDIS_REGISTER_X87TAG;
    }
}

static uint16_t general_register(ZydisRegister reg)
{
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    if (full < ZYDIS_REGISTER_RAX || full > ZYDIS_REGISTER_R15)
        return 0;
    return (uint16_t)(1u << (full - ZYDIS_REGISTER_RAX));
}

static void take_register(struct tr_insn *insn, const ZydisDecodedOperand *o)
{
    uint16_t bit = general_register(o->reg.value);

    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        insn->regs_read |= bit;
    if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        insn->regs_written |= bit;
    if (register_is_vector(o->reg.value))
        insn->touches_vector = true;
    if (o->reg.value >= ZYDIS_REGISTER_AH && o->reg.value <= ZYDIS_REGISTER_BH) {
        insn->high_byte = true;
        return;
    }
    if (!bit)
        return;
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        insn->gpr_fields |= TR_FIELD_REG;
        break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        insn->gpr_fields |= TR_FIELD_RM;
        break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        insn->gpr_fields |= TR_FIELD_VVVV;
        break;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        insn->gpr_fields |= TR_FIELD_OPCODE;
        break;
    default:
        break;
    }
}

static void take_operands(struct tr_insn *insn, const ZydisDecodedInstruction *zi,
                          const ZydisDecodedOperand *operands)
{
    insn->touches_vector = insn->feature != TR_F_NONE;
    for (unsigned i = 0; i < zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &operands[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
            take_register(insn, o);
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        insn->regs_read |= general_register(o->mem.base) | general_register(o->mem.index);
        if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
            continue;
        if (insn->has_mem && o->mem.disp.has_displacement)
            insn->disp = o->mem.disp.value;
        insn->mem_size = o->size / 8;
        insn->mem_read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
        insn->mem_write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    }
    /* MOV moffs has no ModRM operand, but reads or writes memory all the same. */
    if (!insn->has_modrm && insn->map == 0 && insn->encoding == TR_ENC_LEGACY &&
        (insn->opcode & 0xfc) == 0xa0) {
        insn->mem_size = insn->opsize / 8;
        insn->mem_write = insn->opcode & 2;
        insn->mem_read = !insn->mem_write;
    }
    /* The decoder does not say that these move their pointers. */
    if (insn->op == TR_OP_cmps)
        insn->regs_written |= 1u << RT_SI | 1u << RT_DI;
    else if (insn->op == TR_OP_scas)
        insn->regs_written |= 1u << RT_DI;
    /* MOVSXD with a 16-bit destination reads 16 bits (SDM 2 MOVSXD); the decoder says 32. */
    if (insn->mnemonic == ZYDIS_MNEMONIC_MOVSXD && insn->opsize == 16 && insn->mem_size)
        insn->mem_size = 2;
}

enum tr_decode_status tr_decode(const uint8_t *bytes, size_t avail, enum tr_mode mode,
                                struct tr_insn *insn)
{
    ZydisDecoder decoder = decoder_for(mode);
    ZydisDecodedInstruction zi;
    ZydisDecoderContext context;
    ZyanStatus status =
        ZydisDecoderDecodeInstruction(&decoder, &context, bytes, avail > 15 ? 15 : avail, &zi);

    memset(insn, 0, sizeof(*insn));
    insn->mode = (uint8_t)mode;
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        return avail >= 15 ? TR_DECODE_TOO_LONG : TR_DECODE_SHORT;
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return TR_DECODE_TOO_LONG;
    /* MVEX (Knights Corner) is EVEX with a bit clear that must be set, and shares its mnemonics. */
    if (!ZYAN_SUCCESS(status) || zi.encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX) {
        insn->cls = TR_REFUSED;
        insn->op = TR_OP_refused;
        return TR_DECODE_UD;
    }
    memcpy(insn->bytes, bytes, zi.length);
    take_instruction(insn, &zi);
    /* Registers are needed where some live in memory; EVEX displacements of one byte are scaled
     * (SDM 2-2.7.5), and only operand decoding knows by what. */
    if (mode == TR_MODE_64 ||
        (insn->encoding == TR_ENC_EVEX && insn->has_mem && insn->disp_size == 1)) {
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        if (ZYAN_SUCCESS(
                ZydisDecoderDecodeOperands(&decoder, &context, &zi, operands, zi.operand_count)))
            take_operands(insn, &zi, operands);
    }
    return TR_DECODE_OK;
}

static bool decode_full(const struct tr_insn *insn, ZydisDecodedInstruction *zi,
                        ZydisDecodedOperand *operands)
{
    ZydisDecoder decoder = decoder_for(insn->mode);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, insn->bytes, insn->len, zi, operands));
}

void tr_decode_operands(struct tr_insn *insn)
{
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    if (decode_full(insn, &zi, operands))
        take_operands(insn, &zi, operands);
}

void tr_format(const struct tr_insn *insn, uint64_t pc, char *buf, size_t len)
{
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;

    if (len)
        buf[0] = 0;
    if (!decode_full(insn, &zi, operands))
        return;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
    ZydisFormatterFormatInstruction(&formatter, &zi, operands, zi.operand_count_visible, buf, len,
                                    pc, NULL);
}

const char *tr_mnemonic_name(uint16_t mnemonic)
{
    const char *name = ZydisMnemonicGetString((ZydisMnemonic)mnemonic);
    return name ? name : "?";
}
