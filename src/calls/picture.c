/*-------------------------------------------------------------------------
 *
 * picture.c
 *	  saga.picture: a saga as a drawing, for a page or a document.
 *
 * Two formats.  "svg" draws time: a row for each attempt, as saga.timeline does,
 * in one file that needs no other and is readable on a light and on a dark page.
 * Several may be in one page: ids and styles are its own.  "mermaid" draws order:
 * which step comes after which, and what became of each.
 *
 * Names and keys are anybody's text, and end up in a page where somebody else
 * looks at it.  So all of them go through one function for each format, which
 * leaves nothing that the format, HTML or XML would take for its own.  Payloads,
 * errors and words for a person are not shown: the picture of a saga may be seen
 * by whoever may see that there is one.
 *
 * What a person cannot read is not drawn: neighbors are drawn as one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/ids.h"
#include "calls/access.h"
#include "calls/arguments.h"
#include "calls/lines.h"
#include "flow/gates.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(saga_sql_picture);

enum
{
	Arg_saga_id, Arg_format
};

typedef enum Format
{
	FORMAT_SVG = 1, FORMAT_MERMAID
} Format;

static const struct config_enum_entry formats[] = {
	{"svg", FORMAT_SVG, false},
	{"mermaid", FORMAT_MERMAID, false},
	{NULL, 0, false}
};

/* Number of lines, or boxes, above which neighbors are drawn as one */
#define MOST_DRAWN		50
/* Characters of a name that are shown */
#define NAME_LENGTH		28

/* Measures of the drawing in time */
#define WIDTH			800
#define LEFT			230
#define RIGHT			20
#define TOP				56
#define ROW				22
#define BAR				12

/* ------------------------------------------------------------------------
 * Text
 * ------------------------------------------------------------------------ */

/* A name, as long as there is room for. */
static char *
shorten(const char *name)
{
	int			length = strlen(name);
	int			fits = pg_mbcharcliplen(name, length, NAME_LENGTH);

	return fits < length ? psprintf("%.*s...", fits, name) : pstrdup(name);
}

/*
 * Text in XML, between tags or in a quoted attribute.  What XML has no characters
 * for becomes a blank.
 */
static void
append_xml(StringInfo buf, const char *text)
{
	for (const char *c = text; *c != '\0'; c++)
	{
		switch (*c)
		{
			case '&':
				appendStringInfoString(buf, "&amp;");
				break;
			case '<':
				appendStringInfoString(buf, "&lt;");
				break;
			case '>':
				appendStringInfoString(buf, "&gt;");
				break;
			case '"':
				appendStringInfoString(buf, "&quot;");
				break;
			case '\'':
				appendStringInfoString(buf, "&#39;");
				break;
			default:
				appendStringInfoChar(buf, (unsigned char) *c < ' ' || *c == 0x7f ? ' ' : *c);
		}
	}
}

/*
 * Text in a quoted label of Mermaid, which then is HTML or Markdown, too: whatever
 * is neither a letter, a digit nor a harmless sign is written as its number.
 */
static void
append_mermaid(StringInfo buf, const char *text)
{
	for (const char *c = text; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c) || isalnum((unsigned char) *c) ||
			strchr(" .,:-/", *c) != NULL)
			appendStringInfoChar(buf, *c);
		else if ((unsigned char) *c < ' ' || *c == 0x7f)
			appendStringInfoChar(buf, ' ');
		else
			appendStringInfo(buf, "#%d;", (unsigned char) *c);
	}
}

/* A stretch of time, in words */
static char *
duration_in_words(int64 microseconds)
{
	double		seconds = (double) microseconds / USECS_PER_SEC;

	if (seconds < 0.9995)
		return psprintf("%.0f ms", seconds * 1000);
	if (seconds < 59.95)
		return psprintf("%.1f s", seconds);
	if (seconds < 3570)
		return psprintf("%.0f min", seconds / 60);
	if (seconds < 2 * SECS_PER_DAY)
		return psprintf("%.1f h", seconds / SECS_PER_HOUR);
	return psprintf("%.1f days", seconds / SECS_PER_DAY);
}

/* ------------------------------------------------------------------------
 * Time, as SVG
 * ------------------------------------------------------------------------ */

/* Where a moment is */
static int
place_of(const SagaLines *lines, TimestampTz at)
{
	return LEFT + saga_lines_place(lines, at, WIDTH - LEFT - RIGHT);
}

/* A bar; what has no length is seen all the same. */
static void
append_bar(StringInfo buf, const SagaLines *lines, int row, const char *class,
		   TimestampTz from, TimestampTz to)
{
	int			x = place_of(lines, from);
	int			end = place_of(lines, to);

	appendStringInfo(buf, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n",
					 class, x, TOP + row * ROW + (ROW - BAR) / 2,
					 Max(end - x, 2), BAR);
}

/* A row: its name, and what was waited for below what was done. */
static void
append_row(StringInfo buf, const SagaLines *lines, const SagaLineGroup *group,
		   int row)
{
	const SagaLine *line = &lines->line[group->first];
	char	   *name = saga_lines_name(lines, group);
	char	   *outcome = saga_lines_outcome(lines, group);
	TimestampTz from;
	TimestampTz to;

	saga_lines_span(lines, group, &from, &to);
	appendStringInfoString(buf, "<g><title>");
	append_xml(buf, name);
	if (group->same_phase)
		appendStringInfo(buf, ", %s", saga_state_phase_name(line->phase));
	if (group->count == 1)
		appendStringInfo(buf, ", attempt %d", line->attempt);
	appendStringInfo(buf, ": %s", outcome);
	if (to != 0)
		appendStringInfo(buf, ", %s", duration_in_words(to - from));
	appendStringInfo(buf, "</title>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\">",
					 LEFT - 10, TOP + row * ROW + ROW / 2 + 4);
	append_xml(buf, shorten(name));
	appendStringInfoString(buf, "</text>\n");
	for (int i = 0; i < group->count; i++)
		if (line[i].waits_since != 0)
			append_bar(buf, lines, row, line[i].pauses ? "p" : "w", line[i].waits_since,
					   line[i].began ? line[i].began : line[i].ended);
	for (int i = 0; i < group->count; i++)
		if (line[i].began != 0)
			append_bar(buf, lines, row,
					   strcmp(line[i].outcome, "failed") == 0 ||
					   strcmp(line[i].outcome, "timed out") == 0 ? "x" :
					   line[i].phase == SAGA_PHASE_FORWARD ? "f" : "u",
					   line[i].began, line[i].ended ? line[i].ended : line[i].began);
	appendStringInfoString(buf, "</g>\n");
}

/* What the colors mean */
static void
append_legend(StringInfo buf, int y)
{
	static const struct
	{
		const char *class;
		const char *words;
		int			x;
	}			legend[] =
	{
		{"f", "forward", LEFT}, {"u", "undo", LEFT + 90}, {"x", "failed", LEFT + 160},
		{"w", "waiting", LEFT + 240}, {"p", "pause before another attempt", LEFT + 325}
	};

	for (size_t i = 0; i < lengthof(legend); i++)
		appendStringInfo(buf, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"12\" height=\"%d\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
						 legend[i].class, legend[i].x, y - 10, BAR,
						 legend[i].x + 17, y, legend[i].words);
}

static char *
svg(const SagaLines *lines)
{
	SagaLineGroup *groups;
	int			count = saga_lines_group(lines, MOST_DRAWN, &groups);
	int			height = TOP + count * ROW + 40;
	char	   *name = text_to_cstring(lines->saga.name);
	const char *state = saga_state_name(lines->saga.state);
	const char *id = saga_ids_string(&lines->saga.id);
	char	   *total = duration_in_words(lines->end - lines->begin);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" class=\"saga-picture\" role=\"img\" aria-labelledby=\"t-%s d-%s\">\n<title id=\"t-%s\">Saga ",
					 WIDTH, height, WIDTH, height, id, id, id);
	append_xml(&buf, name);
	appendStringInfo(&buf, ": %s</title>\n<desc id=\"d-%s\">Attempts of its %d step%s as bars of time, %s in all.",
					 state, id, lines->steps.count, lines->steps.count == 1 ? "" : "s", total);
	/* For those who do not see the bars, as far as that can be listened to. */
	for (int i = 0; i < count; i++)
	{
		appendStringInfoChar(&buf, ' ');
		append_xml(&buf, saga_lines_name(lines, &groups[i]));
		if (groups[i].same_phase)
			appendStringInfo(&buf, ", %s", saga_state_phase_name(lines->line[groups[i].first].phase));
		appendStringInfo(&buf, ": %s.", saga_lines_outcome(lines, &groups[i]));
	}
	appendStringInfoString(&buf, "</desc>\n<style>\n"
						   ".saga-picture{background:#fff;color:#1b1f24;font:12px system-ui,sans-serif}\n"
						   ".saga-picture text{fill:currentColor}\n"
						   ".saga-picture .h{font-size:15px;font-weight:600}\n"
						   ".saga-picture .s{opacity:.75}\n"
						   ".saga-picture .a{stroke:currentColor;opacity:.3}\n"
						   ".saga-picture .f{fill:#1f6feb}\n"
						   ".saga-picture .u{fill:#bf5b04}\n"
						   ".saga-picture .x{fill:#cf222e}\n"
						   ".saga-picture .w{fill:#b4bcc5}\n"
						   ".saga-picture .p{fill:none;stroke:#6e7781;stroke-dasharray:3 2}\n"
						   "@media (prefers-color-scheme:dark){\n"
						   ".saga-picture{background:#0d1117;color:#e6edf3}\n"
						   ".saga-picture .f{fill:#58a6ff}\n"
						   ".saga-picture .u{fill:#f0883e}\n"
						   ".saga-picture .x{fill:#ff7b72}\n"
						   ".saga-picture .w{fill:#4b535d}\n"
						   ".saga-picture .p{stroke:#9aa4af}}\n"
						   "</style>\n<text class=\"h\" x=\"10\" y=\"22\">");
	append_xml(&buf, shorten(name));
	appendStringInfo(&buf, ": %s</text>\n", state);
	appendStringInfo(&buf, "<text class=\"s\" x=\"%d\" y=\"44\">0</text><text class=\"s\" x=\"%d\" y=\"44\" text-anchor=\"end\">%s</text>\n",
					 LEFT, WIDTH - RIGHT, total);
	appendStringInfo(&buf, "<path class=\"a\" d=\"M%d %dH%d\"/>\n", LEFT, TOP - 4,
					 WIDTH - RIGHT);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		append_row(&buf, lines, &groups[i], i);
	}
	append_legend(&buf, height - 14);
	appendStringInfoString(&buf, "</svg>\n");
	return buf.data;
}

/* ------------------------------------------------------------------------
 * Order, as a flowchart of Mermaid
 * ------------------------------------------------------------------------ */

/* A box: steps that are neighbors in the order of recording */
typedef struct Box
{
	int			first;			/* in that order */
	int			count;
	const char *status;			/* NULL: several */
} Box;

typedef struct Chart
{
	const SagaRow *saga;
	const SagaSteps *steps;
	SagaGates	gates;
	Box		   *boxes;
	int			box_count;
	int		   *box_of;			/* by place in the order of recording */
	bool	   *arrows;			/* by box and box */
} Chart;

/* A step, by its key or its number, and where it stands in the order of recording */
typedef struct Place
{
	char	   *key;
	int64		seq;
	int			place;
} Place;

static const SagaStep *
step_at(const Chart *chart, int place)
{
	return &chart->steps->step[chart->gates.order[place]];
}

/* What became of a step, in a word; also the class of its box. */
static const char *
status_of(const SagaRow *saga, const SagaStep *step)
{
	if (step->comp_status == SAGA_COMP_COMPENSATED)
		return "compensated";
	if (step->parked != NULL && saga->finished_at == 0)
		return "parked";
	if (step->status == SAGA_STEP_WAITING && saga->state != SAGA_RUNNING)
		return saga_state_step_status_name(SAGA_STEP_SKIPPED);
	return saga_state_step_status_name(step->status);
}

/* Puts up to so many neighbors into a box; of one status where that is wanted. */
static int
make_boxes(Chart *chart, int most, bool same_status)
{
	int			count = 0;

	for (int i = 0; i < chart->gates.count; i++)
	{
		const char *status = status_of(chart->saga, step_at(chart, i));
		Box		   *box = count > 0 ? &chart->boxes[count - 1] : NULL;
		bool		same = box && box->status && strcmp(box->status, status) == 0;

		if (box == NULL || box->count == most || (same_status && !same))
		{
			box = &chart->boxes[count++];
			box->first = i;
			box->count = 0;
			box->status = status;
			same = true;
		}
		box->count++;
		if (!same)
			box->status = NULL;
		chart->box_of[i] = count - 1;
	}
	return count;
}

static int
compare_place_keys(const void *a, const void *b)
{
	return strcmp(((const Place *) a)->key, ((const Place *) b)->key);
}

static int
compare_place_seqs(const void *a, const void *b)
{
	int64		left = ((const Place *) a)->seq;
	int64		right = ((const Place *) b)->seq;

	return left < right ? -1 : left > right ? 1 : 0;
}

static void
add_arrow(Chart *chart, int from, int to)
{
	from = chart->box_of[from];
	to = chart->box_of[to];
	if (from != to)
		chart->arrows[from * chart->box_count + to] = true;
}

/*
 * The arrows: from the steps of its list to a step that has one; else from all
 * that nothing came after yet, of those with the same recorder, which are done
 * when all before it are.  Steps of the application come one after the other,
 * and the first that an action recorded comes after that.
 */
static void
find_arrows(Chart *chart)
{
	int			count = chart->gates.count;
	Size		size = Max(count, 1);
	Place	   *by_key = palloc_extended(size * sizeof(Place), MCXT_ALLOC_HUGE);
	Place	   *by_seq = palloc_extended(size * sizeof(Place), MCXT_ALLOC_HUGE);
	bool	   *followed = palloc0(size);
	int		   *ends = palloc_extended(size * sizeof(int), MCXT_ALLOC_HUGE);
	int			end_count = 0;
	int			last = -1;		/* of the application's steps */

	for (int i = 0; i < count; i++)
	{
		by_key[i].key = text_to_cstring(step_at(chart, i)->key);
		by_key[i].seq = step_at(chart, i)->seq;
		by_key[i].place = i;
		by_seq[i] = by_key[i];
	}
	qsort(by_key, count, sizeof(Place), compare_place_keys);
	qsort(by_seq, count, sizeof(Place), compare_place_seqs);

	for (int i = 0; i < count; i++)
	{
		const SagaStep *step = step_at(chart, i);
		bool		first = true;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		if (step->after != NULL)
		{
			foreach(lc, saga_gates_keys(step->after))
			{
				Place		key = {.key = lfirst(lc)};
				Place	   *found = bsearch(&key, by_key, count, sizeof(Place), compare_place_keys);

				if (found == NULL)
					continue;
				add_arrow(chart, found->place, i);
				followed[found->place] = true;
				first = false;
			}
		}
		else if (saga_rows_is_run(step))
		{
			int			kept = 0;

			for (int j = 0; j < end_count; j++)
			{
				if (followed[ends[j]])
					continue;
				if (step_at(chart, ends[j])->recorded_by != step->recorded_by)
				{
					ends[kept++] = ends[j];
					continue;
				}
				add_arrow(chart, ends[j], i);
				first = false;
			}
			end_count = kept;
		}
		else
		{
			if (last >= 0)
			{
				add_arrow(chart, last, i);
				followed[last] = true;
			}
			last = i;
		}
		if (first && step->recorded_by != 0)
		{
			Place		key = {.seq = step->recorded_by};
			Place	   *found = bsearch(&key, by_seq, count, sizeof(Place), compare_place_seqs);

			if (found != NULL)
				add_arrow(chart, found->place, i);
		}
		ends[end_count++] = i;
	}
}

static void
append_box(StringInfo buf, const Chart *chart, int n)
{
	const Box  *box = &chart->boxes[n];
	const SagaStep *step = step_at(chart, box->first);

	appendStringInfo(buf, "  s%d[\"", n + 1);
	append_mermaid(buf, shorten(text_to_cstring(step->key)));
	if (box->count > 1)
	{
		appendStringInfoString(buf, " ... ");
		append_mermaid(buf, shorten(text_to_cstring(step_at(chart, box->first + box->count - 1)->key)));
		appendStringInfo(buf, "<br/>%d steps", box->count);
	}
	else
	{
		if (step->task != NULL)
			appendStringInfoString(buf, "<br/>a task");
		if (step->signals != NULL)
			appendStringInfoString(buf, "<br/>on a signal");
		if (step->approval != NULL)
			appendStringInfoString(buf, "<br/>with approval");
		if (step->delay != NULL || step->not_before != 0)
			appendStringInfoString(buf, "<br/>at its time");
	}
	if (box->status != NULL)
		appendStringInfo(buf, "<br/>%s\"]:::%s\n", box->status, box->status);
	else
		appendStringInfoString(buf, "\"]\n");
}

static char *
mermaid(const SagaLines *lines)
{
	Chart		chart;
	int			most;
	StringInfoData buf;

	chart.saga = &lines->saga;
	chart.steps = &lines->steps;
	saga_gates_read(&chart.gates, &lines->steps);
	chart.boxes = palloc_extended(Max(chart.gates.count, 1) * sizeof(Box), MCXT_ALLOC_HUGE);
	chart.box_of = palloc_extended(Max(chart.gates.count, 1) * sizeof(int), MCXT_ALLOC_HUGE);
	most = (chart.gates.count + MOST_DRAWN - 1) / MOST_DRAWN;
	chart.box_count = make_boxes(&chart, most, true);
	if (chart.box_count > 2 * MOST_DRAWN)
		chart.box_count = make_boxes(&chart, most, false);
	chart.arrows = palloc0(chart.box_count * chart.box_count + 1);
	find_arrows(&chart);

	initStringInfo(&buf);
	appendStringInfoString(&buf, "flowchart TD\n  accTitle: Saga ");
	append_mermaid(&buf, shorten(text_to_cstring(lines->saga.name)));
	appendStringInfo(&buf, ", %s\n  accDescr: Its %d step%s, and what comes after what\n",
					 saga_state_name(lines->saga.state), chart.gates.count,
					 chart.gates.count == 1 ? "" : "s");
	for (int i = 0; i < chart.box_count; i++)
		append_box(&buf, &chart, i);
	for (int i = 0; i < chart.box_count; i++)
		for (int j = 0; j < chart.box_count; j++)
			if (chart.arrows[i * chart.box_count + j])
				appendStringInfo(&buf, "  s%d --> s%d\n", i + 1, j + 1);
	appendStringInfoString(&buf,
						   "  classDef waiting fill:#eaeef2,stroke:#57606a,color:#1b1f24\n"
						   "  classDef started fill:#ddf4ff,stroke:#0969da,color:#1b1f24\n"
						   "  classDef completed fill:#dafbe1,stroke:#1a7f37,color:#1b1f24\n"
						   "  classDef failed fill:#ffebe9,stroke:#cf222e,color:#1b1f24\n"
						   "  classDef skipped fill:#f6f8fa,stroke:#8c959f,color:#57606a\n"
						   "  classDef compensated fill:#fff1e5,stroke:#bc4c00,color:#1b1f24\n"
						   "  classDef parked fill:#fff8c5,stroke:#9a6700,color:#1b1f24\n");
	return buf.data;
}

/* saga.picture(saga_id, format) */
Datum
saga_sql_picture(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = saga_access_id(fcinfo, Arg_saga_id);
	Format		format = PG_ARGISNULL(Arg_format) ? FORMAT_SVG :
		saga_arguments_word(fcinfo, Arg_format, "format", formats, false);
	SagaLines	lines;

	saga_lines_read(id, &lines);
	PG_RETURN_TEXT_P(cstring_to_text(format == FORMAT_SVG ? svg(&lines) :
									 mermaid(&lines)));
}
