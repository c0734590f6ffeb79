/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Chance, and texts that grow.
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

uint64_t
next_random(Chance *c)
{
	uint64_t	z = (c->state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* 0 .. n - 1 */
int
below(Chance *c, int n)
{
	return n > 0 ? (int) (next_random(c) % (uint64_t) n) : 0;
}

bool
percent(Chance *c, int p)
{
	return below(c, 100) < p;
}

void
text_bytes(Text *t, const char *bytes, size_t n)
{
	if (t->length + n + 1 > t->size)
	{
		t->size = (t->length + n + 1) * 2;
		t->data = realloc(t->data, t->size);
		if (t->data == NULL)
			abort();
	}
	memcpy(t->data + t->length, bytes, n);
	t->length += n;
	t->data[t->length] = '\0';
}

void
text_add(Text *t, const char *format,...)
{
	char		buffer[4096];
	va_list		args;
	int			n;

	va_start(args, format);
	n = vsnprintf(buffer, sizeof(buffer), format, args);
	va_end(args);
	if (n >= (int) sizeof(buffer))
		abort();
	text_bytes(t, buffer, (size_t) n);
}

void
text_clear(Text *t)
{
	t->length = 0;
	if (t->data != NULL)
		t->data[0] = '\0';
}

const char *
text_string(const Text *t)
{
	return t->data != NULL ? t->data : "";
}
