/* report_picture.c: where dense attention looked in the generation steps, and what of it a method
 * still had. Cells of one shade share one path, which keeps a page of many pictures small. */
#include "tools/report_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { MAX_ROWS = 40, MAX_BINS = 160, LEVELS = 5 };
enum { LEFT = 52, TOP = 18, CELL_HEIGHT = 6, PLOT_WIDTH = 640, STRIP = 14, FOOT = 18 };

/* Least share of a step's mass for each shade. */
static const double shade_from[LEVELS] = {0.002, 0.01, 0.03, 0.1, 0.3};

/* ---------------------------------------------------------------- grid */

static int64_t cell_of(const wn_report_grid *grid, uint32_t replay, uint32_t kv_head, int64_t row)
{
    return ((replay * (int64_t)grid->run->trace->num_kv_heads + kv_head) * grid->rows + row) *
           grid->bins;
}

/* Mean mass over the query heads of one KV head. */
static void group_mass(const wn_trace *trace, uint32_t layer, int64_t row, uint32_t kv_head,
                       double *mass, double *one)
{
    uint32_t group = trace->num_heads / trace->num_kv_heads;
    for (int64_t t = 0; t <= row; t++)
        mass[t] = 0;
    for (uint32_t i = 0; i < group; i++) {
        wn_dense_mass(trace, layer, row, kv_head * group + i, one);
        for (int64_t t = 0; t <= row; t++)
            mass[t] += one[t] / group;
    }
}

/* Adds one step of one KV head to the cells of every replay. */
static void add_step(wn_report_grid *grid, int64_t step, uint32_t kv_head, const double *mass,
                     uint8_t *visible)
{
    const wn_run *run = grid->run;
    int64_t row = step / grid->row_steps, first = row * grid->row_steps;
    int64_t steps = run->replays[0]->steps, left = steps - first;
    double weight = 1.0 / (double)(left < grid->row_steps ? left : grid->row_steps);
    for (uint32_t i = 0; i < run->count; i++) {
        int64_t at = cell_of(grid, i, kv_head, row);
        wn_replay_visible(run->replays[i], grid->layer, run->trace->context + step, kv_head,
                          visible);
        for (int64_t t = 0; t <= run->trace->context + step; t++) {
            int64_t bin = t * grid->bins / run->trace->tokens;
            *(visible[t] ? &grid->kept[at + bin] : &grid->lost[at + bin]) +=
                (float)(mass[t] * weight);
        }
    }
}

wn_status wn_report_grid_make(const wn_run *run, uint32_t layer, wn_report_grid *grid,
                              wn_error *error)
{
    const wn_trace *trace = run->trace;
    int64_t steps = run->replays[0]->steps;
    *grid = (wn_report_grid){.run = run, .layer = layer};
    grid->row_steps = (steps + MAX_ROWS - 1) / MAX_ROWS;
    grid->rows = steps > 0 ? (steps + grid->row_steps - 1) / grid->row_steps : 0;
    grid->bins = trace->tokens < MAX_BINS ? trace->tokens : MAX_BINS;
    size_t cells = (size_t)(run->count * trace->num_kv_heads * grid->rows * grid->bins) + 1;
    grid->kept = calloc(cells, sizeof *grid->kept);
    grid->lost = calloc(cells, sizeof *grid->lost);
    double *mass = malloc(2 * (size_t)trace->tokens * sizeof *mass);
    uint8_t *visible = malloc((size_t)trace->tokens);
    wn_status status = WN_OK;
    if (grid->kept == NULL || grid->lost == NULL || mass == NULL || visible == NULL)
        status = wn_fail(error, WN_ENOMEM, "no memory for the report's pictures");
    for (int64_t step = 0; step < steps && status == WN_OK; step++)
        for (uint32_t h = 0; h < trace->num_kv_heads; h++) {
            group_mass(trace, layer, trace->context + step, h, mass, mass + trace->tokens);
            add_step(grid, step, h, mass, visible);
        }
    free(mass);
    free(visible);
    if (status != WN_OK)
        wn_report_grid_free(grid);
    return status;
}

void wn_report_grid_free(wn_report_grid *grid)
{
    free(grid->kept);
    free(grid->lost);
    *grid = (wn_report_grid){0};
}

/* ---------------------------------------------------------------- drawing */

static int shade(double mass)
{
    int level = 0;
    while (level < LEVELS && mass >= shade_from[level])
        level++;
    return level; /* 0: not drawn */
}

/* The cells of one colour and shade as one path, neighbours in a row joined. */
static void draw_shade(FILE *to, const wn_report_grid *grid, int64_t at, int level, int lost)
{
    double width = (double)PLOT_WIDTH / (double)grid->bins;
    int begun = 0;
    for (int64_t row = 0; row < grid->rows; row++)
        for (int64_t bin = 0, joined = 0; bin <= grid->bins; bin++) {
            int64_t cell = at + row * grid->bins + bin;
            if (bin < grid->bins && (grid->lost[cell] > grid->kept[cell]) == lost &&
                shade((double)grid->kept[cell] + grid->lost[cell]) == level) {
                joined++;
                continue;
            }
            if (joined > 0) {
                if (!begun++)
                    fprintf(to, "<path class=\"%c%d\" d=\"", lost ? 'l' : 'k', level);
                fprintf(to, "M%g %dh%gv%dh-%gz", LEFT + (double)(bin - joined) * width,
                        TOP + (int)row * CELL_HEIGHT, (double)joined * width, CELL_HEIGHT,
                        (double)joined * width);
            }
            joined = 0;
        }
    if (begun)
        fputs("\"/>\n", to);
}

/* Under the plot: how much of the prompt is still in this KV head's cache, as a skyline. */
static void draw_cache(FILE *to, const wn_report_grid *grid, uint32_t replay, uint32_t kv_head,
                       int y)
{
    const wn_trace *trace = grid->run->trace;
    const wn_replay_layer *from = &grid->run->replays[replay]->layers[grid->layer];
    double width = (double)PLOT_WIDTH / (double)grid->bins;
    int64_t there[MAX_BINS] = {0}, all[MAX_BINS] = {0};
    for (int64_t t = 0; t < trace->tokens; t++) {
        all[t * grid->bins / trace->tokens]++;
        if (from->retain == NULL || t >= trace->context)
            there[t * grid->bins / trace->tokens]++;
    }
    for (int32_t i = 0; i < from->kept && from->retain != NULL; i++)
        there[from->retain[(int64_t)kv_head * from->kept + i] * grid->bins / trace->tokens]++;
    fprintf(to, "<path class=\"cache\" d=\"M%d %d", LEFT, y + STRIP);
    for (int64_t bin = 0; bin < grid->bins; bin++)
        fprintf(to, "V%gh%g", y + STRIP - (STRIP - 2) * (double)there[bin] / (double)all[bin],
                width);
    fprintf(to, "V%dz\"/><text x=\"%d\" y=\"%d\" text-anchor=\"end\">in cache</text>\n", y + STRIP,
            LEFT - 4, y + STRIP - 2);
}

static double x_of(const wn_trace *trace, int64_t token)
{
    return LEFT + PLOT_WIDTH * (double)token / (double)trace->tokens;
}

static void draw_axes(FILE *to, const wn_report_grid *grid, int height)
{
    const wn_trace *trace = grid->run->trace;
    int bottom = TOP + height + STRIP + 3;
    fprintf(to, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n", LEFT, TOP,
            PLOT_WIDTH, height);
    fprintf(to,
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">step 0</text>"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%" PRId64 "</text>\n",
            LEFT - 4, TOP + 9, LEFT - 4, TOP + height, grid->run->replays[0]->steps - 1);
    fprintf(to,
            "<text x=\"%d\" y=\"%d\">token 0</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">"
            "%" PRId64 "</text>\n",
            LEFT, bottom + 11, LEFT + PLOT_WIDTH, bottom + 11, trace->tokens - 1);
    if (trace->needle_begin == trace->needle_end)
        return;
    double from = x_of(trace, trace->needle_begin), until = x_of(trace, trace->needle_end);
    fprintf(to,
            "<path class=\"factline\" d=\"M%g %dV%dM%g %dV%d\"/>"
            "<text class=\"fact\" x=\"%g\" y=\"%d\" text-anchor=\"middle\">the fact</text>\n",
            from, TOP, bottom, until, TOP, bottom, (from + until) / 2, bottom + 11);
}

/* Mean over the steps of what the method could see of dense attention's mass. */
static double seen_share(const wn_report_grid *grid, int64_t at)
{
    double seen = 0, all = 0;
    for (int64_t i = 0; i < grid->rows * grid->bins; i++) {
        seen += grid->kept[at + i];
        all += (double)grid->kept[at + i] + grid->lost[at + i];
    }
    return all > 0 ? seen / all : 1;
}

void wn_report_grid_draw(FILE *to, const wn_report_grid *grid, uint32_t replay, uint32_t kv_head)
{
    const wn_trace *trace = grid->run->trace;
    int height = (int)grid->rows * CELL_HEIGHT;
    int64_t at = cell_of(grid, replay, kv_head, 0);
    double seen = 100 * seen_share(grid, at);
    fprintf(to,
            "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Attention of KV head %u of "
            "layer %u by step and position: %.1f%% of dense attention's mass lies on tokens that "
            "the method could see.\">\n",
            LEFT + PLOT_WIDTH + 4, TOP + height + STRIP + 3 + FOOT, kv_head,
            trace->layers[grid->layer].number, seen);
    fprintf(to,
            "<text class=\"name\" x=\"%d\" y=\"12\">KV head %u</text><text x=\"%d\" y=\"12\" "
            "text-anchor=\"end\">%.1f%% of the mass in sight</text>\n",
            LEFT, kv_head, LEFT + PLOT_WIDTH, seen);
    for (int lost = 0; lost < 2; lost++)
        for (int level = 1; level <= LEVELS; level++)
            draw_shade(to, grid, at, level, lost);
    draw_cache(to, grid, replay, kv_head, TOP + height + 2);
    draw_axes(to, grid, height);
    fputs("</svg>\n", to);
}

/* ---------------------------------------------------------------- bars */

void wn_report_bars_draw(FILE *to, const wn_run *run, uint32_t replay, uint32_t layer)
{
    enum { ROW = 16, WIDTH = 300, END = 116 };
    const wn_trace *trace = run->trace;
    fprintf(to,
            "<svg viewBox=\"0 0 %d %u\" role=\"img\" aria-label=\"Attention mass kept by each "
            "query head of layer %u\">\n",
            LEFT + WIDTH + END, trace->num_heads * ROW + 4, trace->layers[layer].number);
    for (uint32_t h = 0; h < trace->num_heads; h++) {
        double least, mean = wn_quality_head(run->replays[replay], run->replays[0], layer, h,
                                             wn_run_first_row(run), trace->tokens, &least);
        uint32_t y = h * ROW + 2;
        fprintf(to, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\">head %u</text>", LEFT - 5, y + 11,
                h);
        fprintf(to, "<rect class=\"rest\" x=\"%d\" y=\"%u\" width=\"%d\" height=\"%d\"/>", LEFT, y,
                WIDTH, ROW - 3);
        fprintf(to, "<rect class=\"bar\" x=\"%d\" y=\"%u\" width=\"%.1f\" height=\"%d\"/>", LEFT, y,
                WIDTH * mean, ROW - 3);
        fprintf(to, "<path class=\"least\" d=\"M%.1f %uv%d\"/>", LEFT + WIDTH * least, y, ROW - 3);
        fprintf(to, "<text x=\"%d\" y=\"%u\">%.3f, least %.3f</text>\n", LEFT + WIDTH + 6, y + 11,
                mean, least);
    }
    fputs("</svg>\n", to);
}
