/* rtc.c - real-time clock and CMOS memory; see rtc.h.
 *
 * Called with the machine's lock held. */
#include "monitor/devices/rtc.h"

#include <string.h>
#include <time.h>

enum {
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_WEEKDAY,
    RTC_DAY,
    RTC_MONTH,
    RTC_YEAR,
    RTC_A,
    RTC_B,
    RTC_C,
    RTC_D,
};

enum {
    A_UIP = 0x80,
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 0x04,
    B_24H = 0x02,
    C_IRQF = 0x80,
    C_PF = 0x40,
    C_AF = 0x20,
    C_UF = 0x10,
    D_VALID = 0x80,
    HOUR_PM = 0x80,
    ALARM_ANY = 0xc0, /* alarm bytes from C0h on match every value */
};

/* UIP precedes the update by 244 us and stays through the update cycle of 1984 us. */
#define UIP_NS        (244000 + 1984000)
#define PERIODIC_HZ   32768u
#define SECONDS_A_DAY 86400

/* Two digits; years before 0, which a guest can set, have some too. */
static uint8_t encode(const struct mon_rtc *rtc, int value)
{
    unsigned digits = (unsigned)((value % 100 + 100) % 100);
    if (rtc->cmos[RTC_B] & B_BINARY)
        return MON_BYTE(value);
    return MON_BYTE(digits / 10 << 4 | digits % 10);
}

static int decode(const struct mon_rtc *rtc, uint8_t value)
{
    if (rtc->cmos[RTC_B] & B_BINARY)
        return value;
    return (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct mon_rtc *rtc, int hour)
{
    if (rtc->cmos[RTC_B] & B_24H)
        return encode(rtc, hour);
    int twelve = hour % 12 ? hour % 12 : 12;
    return MON_BYTE(encode(rtc, twelve) | (hour >= 12 ? HOUR_PM : 0));
}

static int decode_hour(const struct mon_rtc *rtc, uint8_t value)
{
    if (rtc->cmos[RTC_B] & B_24H)
        return decode(rtc, value);
    int hour = decode(rtc, value & MON_BYTE(~HOUR_PM)) % 12;
    return value & HOUR_PM ? hour + 12 : hour;
}

static bool is_stopped(const struct mon_rtc *rtc)
{
    return rtc->cmos[RTC_B] & B_SET;
}

/* Whole seconds of the RTC's own count since clock 0. */
static uint64_t second_number(const struct mon_rtc *rtc, uint64_t now)
{
    return (now + MON_NS_PER_S - rtc->phase) / MON_NS_PER_S;
}

static int64_t unix_time(const struct mon_rtc *rtc, uint64_t now)
{
    return rtc->offset + (int64_t)second_number(rtc, now);
}

/* The moment at which the RTC's next second begins. */
static uint64_t next_second(const struct mon_rtc *rtc, uint64_t now)
{
    return second_number(rtc, now) * MON_NS_PER_S + rtc->phase;
}

/* --- The calendar, without the C library, whose functions may use vector registers (exits.c) ---*/

enum {
    DAY = 86400,
    DAYS_OF_400_YEARS = 146097,
    DAYS_TO_1970 = 719468 /* from 1 March of year 0 */
};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days since 1970. Months count from 0; months and days may lie outside their year and month. */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    month -= 2; /* years begin in March: the leap day comes last */
    year += floor_div(month, 12);
    month -= 12 * floor_div(month, 12);
    return 365 * year + floor_div(year, 4) - floor_div(year, 100) + floor_div(year, 400) +
           (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970;
}

struct date {
    int year, month, day; /* month and day from 1 */
};

static struct date date_of(int64_t days)
{
    days += DAYS_TO_1970;
    int64_t era = floor_div(days, DAYS_OF_400_YEARS);
    int of_era = (int)(days - era * DAYS_OF_400_YEARS);
    int year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int of_year = of_era - (365 * year + year / 4 - year / 100);
    int month = (5 * of_year + 2) / 153; /* from March */
    return (struct date){.year = (int)(era * 400) + year + (month >= 10),
                         .month = month < 10 ? month + 3 : month - 9,
                         .day = of_year - (153 * month + 2) / 5 + 1};
}

/* Writes the time of day into the bytes that the guest reads. */
static void store_time(struct mon_rtc *rtc, uint64_t now)
{
    int64_t seconds = unix_time(rtc, now), days = floor_div(seconds, DAY);
    int of_day = (int)(seconds - days * DAY);
    struct date date = date_of(days);
    rtc->cmos[RTC_SECONDS] = encode(rtc, of_day % 60);
    rtc->cmos[RTC_MINUTES] = encode(rtc, of_day / 60 % 60);
    rtc->cmos[RTC_HOURS] = encode_hour(rtc, of_day / 3600);
    rtc->cmos[RTC_WEEKDAY] = encode(rtc, (int)(days + 4 - 7 * floor_div(days + 4, 7)) + 1);
    rtc->cmos[RTC_DAY] = encode(rtc, date.day);
    rtc->cmos[RTC_MONTH] = encode(rtc, date.month);
    rtc->cmos[RTC_YEAR] = encode(rtc, date.year % 100);
    rtc->cmos[MON_RTC_CENTURY] = encode(rtc, date.year / 100 % 100);
}

/* Takes the time of day from the bytes that the guest wrote. */
static void load_time(struct mon_rtc *rtc, uint64_t now)
{
    int year = decode(rtc, rtc->cmos[RTC_YEAR]) + decode(rtc, rtc->cmos[MON_RTC_CENTURY]) * 100;
    int64_t days =
        days_of(year, decode(rtc, rtc->cmos[RTC_MONTH]) - 1, decode(rtc, rtc->cmos[RTC_DAY]));
    int of_day = decode_hour(rtc, rtc->cmos[RTC_HOURS]) * 3600 +
                 decode(rtc, rtc->cmos[RTC_MINUTES]) * 60 + decode(rtc, rtc->cmos[RTC_SECONDS]);
    rtc->offset = days * DAY + of_day - (int64_t)second_number(rtc, now);
}

/* The periodic rate: ticks of 32,768 Hz between two of them, 0 for none. */
static uint32_t periodic_ticks(const struct mon_rtc *rtc)
{
    unsigned rate = rtc->cmos[RTC_A] & 15;
    if (rate == 0)
        return 0;
    return 1u << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static uint64_t periods_by(uint64_t now, uint32_t ticks)
{
    return mon_muldiv(now, PERIODIC_HZ, MON_NS_PER_S) / ticks;
}

/* The second of the day at which the alarm fires next, at or after second of the day `from`; -1
 * when its bytes match no time. */
static int alarm_at_or_after(const struct mon_rtc *rtc, int from)
{
    const uint8_t *cmos = rtc->cmos;
    bool any_s = cmos[RTC_SECONDS_ALARM] >= ALARM_ANY, any_m = cmos[RTC_MINUTES_ALARM] >= ALARM_ANY;
    bool any_h = cmos[RTC_HOURS_ALARM] >= ALARM_ANY;
    int s = decode(rtc, cmos[RTC_SECONDS_ALARM]), m = decode(rtc, cmos[RTC_MINUTES_ALARM]);
    int h = decode_hour(rtc, cmos[RTC_HOURS_ALARM]);

    for (int i = 0; i < SECONDS_A_DAY; i++) {
        int t = (from + i) % SECONDS_A_DAY;
        if ((any_s || t % 60 == s) && (any_m || t / 60 % 60 == m) && (any_h || t / 3600 == h))
            return t;
    }
    return -1;
}

/* Seconds from the RTC second `from` (Unix time) until the alarm matches, 0 if it does then; -1
 * when never. */
static int64_t alarm_distance(const struct mon_rtc *rtc, int64_t from)
{
    int of_day = (int)((from % SECONDS_A_DAY + SECONDS_A_DAY) % SECONDS_A_DAY);
    int at = alarm_at_or_after(rtc, of_day);
    if (at < 0)
        return -1;
    return at >= of_day ? at - of_day : at - of_day + SECONDS_A_DAY;
}

/* The flags that belong to (rtc->seen, now]. */
static uint8_t flags_since(const struct mon_rtc *rtc, uint64_t now)
{
    uint8_t flags = 0;
    uint32_t ticks = periodic_ticks(rtc);

    if (ticks && periods_by(now, ticks) != periods_by(rtc->seen, ticks))
        flags |= C_PF;
    uint64_t passed = second_number(rtc, now) - second_number(rtc, rtc->seen);
    if (is_stopped(rtc) || passed == 0)
        return flags;

    flags |= C_UF;
    if (rtc->cmos[RTC_B] & B_AIE) {
        int64_t distance = alarm_distance(rtc, unix_time(rtc, rtc->seen) + 1);
        if (distance >= 0 && (uint64_t)distance < passed)
            flags |= C_AF;
    }
    return flags;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t next_deadline(const struct mon_rtc *rtc, uint64_t now)
{
    uint8_t waiting = rtc->cmos[RTC_B] & MON_BYTE(~rtc->cmos[RTC_C]);
    uint64_t deadline = MON_NEVER;
    uint32_t ticks = periodic_ticks(rtc);

    if (rtc->cmos[RTC_C] & C_IRQF)
        return MON_NEVER; /* the line is up until register C is read */
    if (waiting & B_PIE && ticks)
        deadline = mon_muldiv_up((periods_by(now, ticks) + 1) * ticks, MON_NS_PER_S, PERIODIC_HZ);
    if (is_stopped(rtc))
        return deadline;
    if (waiting & B_UIE)
        deadline = earlier(deadline, next_second(rtc, now));
    if (waiting & B_AIE) {
        int64_t distance = alarm_distance(rtc, unix_time(rtc, now) + 1);
        if (distance >= 0)
            deadline = earlier(deadline, next_second(rtc, now) + (uint64_t)distance * MON_NS_PER_S);
    }
    return deadline;
}

static void update_irq(struct mon_rtc *rtc)
{
    /* The enable bits of B and the flags of C have the same positions. */
    bool irq = rtc->cmos[RTC_C] & rtc->cmos[RTC_B] & (C_PF | C_AF | C_UF);
    if (irq)
        rtc->cmos[RTC_C] |= C_IRQF;
    else
        rtc->cmos[RTC_C] &= MON_BYTE(~C_IRQF);
    mon_irq_set(&rtc->irq, irq);
}

/* Brings the flags up to now, whatever the deadline. */
static void account(struct mon_rtc *rtc, uint64_t now)
{
    rtc->cmos[RTC_C] |= flags_since(rtc, now);
    rtc->seen = now;
    update_irq(rtc);
}

void mon_rtc_update(struct mon_rtc *rtc, uint64_t now)
{
    if (now < rtc->deadline)
        return;
    account(rtc, now);
    rtc->deadline = next_deadline(rtc, now);
}

static uint8_t read_register_a(const struct mon_rtc *rtc, uint64_t now)
{
    bool updating = !is_stopped(rtc) && next_second(rtc, now) - now <= UIP_NS;
    return MON_BYTE((rtc->cmos[RTC_A] & ~A_UIP) | (updating ? A_UIP : 0));
}

static bool is_time_byte(uint8_t index)
{
    return index == MON_RTC_CENTURY || (index <= RTC_YEAR && index != RTC_SECONDS_ALARM &&
                                        index != RTC_MINUTES_ALARM && index != RTC_HOURS_ALARM);
}

static uint8_t read_byte(struct mon_rtc *rtc, uint8_t index, uint64_t now)
{
    uint8_t value;
    switch (index) {
    case RTC_A:
        return read_register_a(rtc, now);
    case RTC_C: /* reading clears the flags and drops the interrupt */
        value = rtc->cmos[RTC_C];
        rtc->cmos[RTC_C] = 0;
        update_irq(rtc);
        return value;
    case RTC_D:
        return D_VALID;
    default:
        if (is_time_byte(index) && !is_stopped(rtc))
            store_time(rtc, now);
        return rtc->cmos[index];
    }
}

static void write_register_b(struct mon_rtc *rtc, uint8_t value, uint64_t now)
{
    bool was_stopped = is_stopped(rtc);
    if (value & B_SET)
        value &= MON_BYTE(~B_UIE); /* SET clears UIE */
    if (!was_stopped && value & B_SET)
        store_time(rtc, now);
    rtc->cmos[RTC_B] = value;
    if (was_stopped && !(value & B_SET))
        load_time(rtc, now);
    update_irq(rtc);
}

static void write_byte(struct mon_rtc *rtc, uint8_t index, uint8_t value, uint64_t now)
{
    switch (index) {
    case RTC_A:
        rtc->cmos[RTC_A] = value & MON_BYTE(~A_UIP);
        break;
    case RTC_B:
        write_register_b(rtc, value, now);
        break;
    case RTC_C:
    case RTC_D:
        break; /* read-only */
    default:
        if (is_time_byte(index) && !is_stopped(rtc))
            store_time(rtc, now);
        rtc->cmos[index] = value;
        if (is_time_byte(index) && !is_stopped(rtc))
            load_time(rtc, now);
        break;
    }
}

static uint32_t port_read(void *device, uint16_t port, unsigned size)
{
    (void)size;
    struct mon_rtc *rtc = device;
    if (!(port & 1))
        return 0xff; /* the index is write-only */

    uint64_t now = mon_clock_now(rtc->clock);
    account(rtc, now);
    uint8_t value = read_byte(rtc, rtc->index, now);
    rtc->deadline = next_deadline(rtc, now);
    return value;
}

static void port_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
    (void)size;
    struct mon_rtc *rtc = device;
    if (!(port & 1)) {
        rtc->index = value & (MON_RTC_BYTES - 1);
        return;
    }
    uint64_t now = mon_clock_now(rtc->clock);
    account(rtc, now);
    write_byte(rtc, rtc->index, MON_BYTE(value), now);
    rtc->deadline = next_deadline(rtc, now);
}

static void set_word(struct mon_rtc *rtc, unsigned index, uint64_t value)
{
    rtc->cmos[index] = MON_BYTE(value);
    rtc->cmos[index + 1] = MON_BYTE(value >> 8);
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

void mon_rtc_set_memory(struct mon_rtc *rtc, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t above_1m = below_4g > 1 << 20 ? below_4g - (1 << 20) : 0;
    uint64_t above_16m = below_4g > 16 << 20 ? below_4g - (16 << 20) : 0;

    set_word(rtc, 0x15, 639);                              /* KiB below 640 KiB */
    set_word(rtc, 0x17, at_most(above_1m >> 10, 0xffff));  /* KiB above 1 MiB */
    set_word(rtc, 0x30, at_most(above_1m >> 10, 0xffff));  /* the same, as found at start */
    set_word(rtc, 0x34, at_most(above_16m >> 16, 0xffff)); /* 64 KiB units above 16 MiB */
    set_word(rtc, 0x5b, above_4g >> 16);                   /* 64 KiB units above 4 GiB */
    rtc->cmos[0x5d] = MON_BYTE(above_4g >> 32);
}

void mon_rtc_init(struct mon_rtc *rtc, const struct mon_clock *clock, struct mon_irq irq,
                  uint64_t wall_ns)
{
    memset(rtc, 0, sizeof(*rtc));
    rtc->clock = clock;
    rtc->irq = irq;
    rtc->deadline = MON_NEVER;
    rtc->cmos[RTC_A] = 0x26; /* 32,768 Hz crystal, periodic rate 1,024 Hz */
    rtc->cmos[RTC_B] = B_24H;
    rtc->phase = MON_NS_PER_S - wall_ns % MON_NS_PER_S;
    rtc->offset = (int64_t)(wall_ns / MON_NS_PER_S);
    store_time(rtc, 0);
}

bool mon_rtc_add_ports(struct mon_rtc *rtc, struct mon_bus *bus)
{
    static const struct mon_port_ops ops = {"rtc", 1, port_read, port_write};
    return mon_bus_add_ports(bus, 0x70, 2, &ops, rtc);
}
