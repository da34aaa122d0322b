/* Strings: formatting as DbgPrint does it, and what the compiler calls. */
#include "kernel.h"

void *memcpy(void *to, const void *from, ULONG_PTR length) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return start;
}
void *memset(void *to, int value, ULONG_PTR length) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
    return start;
}
int memcmp(const void *one, const void *other, ULONG_PTR length) {
    const UCHAR *a = one, *b = other;
    for (; length; a++, b++, length--)
        if (*a != *b) return *a - *b;
    return 0;
}
void *memmove(void *to, const void *from, ULONG_PTR length) {
    UCHAR *t = to;
    const UCHAR *f = from;
    if (t <= f) return memcpy(to, from, length);
    while (length--) t[length] = f[length];
    return to;
}
ULONG_PTR strlen(const CHAR *text) {
    ULONG_PTR n = 0;
    while (text[n]) n++;
    return n;
}
int strcmp(const CHAR *one, const CHAR *other) {
    for (; *one && *one == *other; one++, other++) {}
    return (UCHAR)*one - (UCHAR)*other;
}
static int Lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }
int _stricmp(const CHAR *one, const CHAR *other) {
    for (; *one && Lower(*one) == Lower(*other); one++, other++) {}
    return Lower(*one) - Lower(*other);
}

typedef struct _OUT {
    CHAR *At;
    ULONG Room;
    int Length;
} OUT;

static void Put(OUT *out, CHAR c) {
    if (out->Room > 1) {
        *out->At++ = c;
        out->Room--;
    }
    out->Length++;
}

static void PutField(OUT *out, const CHAR *text, int length, int width, BOOLEAN left) {
    int n;
    for (n = length; !left && n < width; n++) Put(out, ' ');
    for (n = 0; n < length; n++) Put(out, text[n]);
    for (n = length; left && n < width; n++) Put(out, ' ');
}

static void PutNumber(OUT *out, ULONG64 value, BOOLEAN negative, ULONG base, BOOLEAN upper, int width, BOOLEAN zero,
                      BOOLEAN left) {
    const CHAR *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    CHAR text[24];
    int n = 0, i;
    do {
        text[n++] = digits[value % base];
        value /= base;
    } while (value);
    while (zero && n < width - negative && n < 22) text[n++] = '0';
    if (negative) text[n++] = '-';
    for (i = 0; i < n / 2; i++) {
        CHAR c = text[i];
        text[i] = text[n - 1 - i];
        text[n - 1 - i] = c;
    }
    PutField(out, text, n, width, left);
}

/* UTF-16 as its low bytes. */
static void PutWide(OUT *out, const WCHAR *text, ULONG units, int width, BOOLEAN left) {
    CHAR narrow[128];
    ULONG n;
    for (n = 0; n < units && n < sizeof narrow && text[n]; n++) narrow[n] = (CHAR)text[n];
    PutField(out, narrow, (int)n, width, left);
}

/* %d %i %u %x %X %p %c %s %S %ws %Z %wZ, with -, 0, width, and the sizes h l ll I64 w. */
int RtlFormatV(CHAR *buffer, ULONG size, const CHAR *format, va_list list) {
    OUT out = {buffer, size, 0};
    for (; *format; format++) {
        BOOLEAN left = FALSE, zero = FALSE, wide = FALSE, quad = FALSE;
        int width = 0;
        INT64 number;
        if (*format != '%') {
            Put(&out, *format);
            continue;
        }
        format++;
        for (; *format == '-' || *format == '0' || *format == '#' || *format == '+'; format++) {
            left |= *format == '-';
            zero |= *format == '0';
        }
        for (; *format >= '0' && *format <= '9'; format++)
            if (width < 256) width = width * 10 + *format - '0';
        for (;; format++) {
            if (*format == 'w')
                wide = TRUE;
            else if (*format == 'I' && format[1] == '6' && format[2] == '4') {
                quad = TRUE;
                format += 2;
            } else if (*format == 'l' && format[1] == 'l') {
                quad = TRUE;
                format++;
            } else if (*format != 'l' && *format != 'h')
                break;
        }
        switch (*format) {
        case 'd':
        case 'i':
            number = quad ? va_arg(list, INT64) : va_arg(list, int);
            PutNumber(&out, (ULONG64)(number < 0 ? -number : number), number < 0, 10, FALSE, width, zero, left);
            break;
        case 'u':
            PutNumber(&out, quad ? va_arg(list, ULONG64) : va_arg(list, ULONG), FALSE, 10, FALSE, width, zero, left);
            break;
        case 'x':
        case 'X':
            PutNumber(&out, quad ? va_arg(list, ULONG64) : va_arg(list, ULONG), FALSE, 16, *format == 'X', width, zero, left);
            break;
        case 'p':
            PutNumber(&out, va_arg(list, ULONG_PTR), FALSE, 16, TRUE, 2 * sizeof(PVOID), TRUE, left);
            break;
        case 'c': {
            CHAR c = (CHAR)va_arg(list, int);
            PutField(&out, &c, 1, width, left);
            break;
        }
        case 's':
            if (wide) {
                const WCHAR *text = va_arg(list, const WCHAR *);
                PutWide(&out, text ? text : u"(null)", ~0U, width, left);
            } else {
                const CHAR *text = va_arg(list, const CHAR *);
                if (!text) text = "(null)";
                PutField(&out, text, (int)strlen(text), width, left);
            }
            break;
        case 'S':
            PutWide(&out, va_arg(list, const WCHAR *), ~0U, width, left);
            break;
        case 'Z':
            if (wide) {
                const UNICODE_STRING *text = va_arg(list, const UNICODE_STRING *);
                PutWide(&out, text->Buffer, text->Length / 2, width, left);
            } else {
                const UNICODE_STRING *text = va_arg(list, const UNICODE_STRING *);
                PutField(&out, (const CHAR *)text->Buffer, text->Length, width, left);
            }
            break;
        case 0:
            format--;
            break;
        default:
            Put(&out, *format);
        }
    }
    if (size) *out.At = 0;
    return out.Length;
}

int RtlFormat(CHAR *out, ULONG size, const CHAR *format, ...) {
    va_list list;
    int length;
    va_start(list, format);
    length = RtlFormatV(out, size, format, list);
    va_end(list);
    return length;
}
