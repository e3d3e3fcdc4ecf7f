/* report.c: the page: what was run, the table, the findings in words, and then layer by layer and
 * method by method the pictures. */
#include "tools/report.h"

#include "tools/progress.h"
#include "tools/report_parts.h"
#include "tools/step_time.h"
#include "tools/table.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 1024 };

/* ---------------------------------------------------------------- head */

static void write_head(FILE *to, const wn_run *run)
{
    char text[TEXT];
    const char *slash = strrchr(run->trace->path, '/');
    const char *name = slash != NULL ? slash + 1 : run->trace->path;
    fputs("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
          "name=\"viewport\" content=\"width=device-width\">\n<title>winnow run: ",
          to);
    wn_report_text(to, name);
    fputs("</title>\n<style>\n", to);
    fputs(wn_report_style, to);
    for (uint32_t h = 0; h < run->trace->num_kv_heads; h++)
        fprintf(to,
                ".r%u:checked~.words i:not(.h%u){color:var(--soft);opacity:.6;"
                "text-decoration:line-through}\n",
                h, h);
    fputs("</style>\n</head>\n<body>\n<h1>", to);
    wn_report_text(to, name);
    fputs("</h1>\n<p class=\"soft\">", to);
    wn_summary_trace(run->trace, text, sizeof text);
    wn_report_text(to, text);
    fputs("</p>\n<nav aria-label=\"Layers\">", to);
    for (uint32_t l = 0; l < run->trace->num_layers; l++)
        fprintf(to, "<a href=\"#layer-%u\">Layer %u</a>", run->trace->layers[l].number,
                run->trace->layers[l].number);
    fputs("</nav>\n", to);
}

/* ---------------------------------------------------------------- table */

static void share_cell(FILE *to, double share)
{
    if (!(share > 0)) /* NaN, too: no tiles were looked at */
        fputs("<td>-</td>", to);
    else
        fprintf(to, "<td>%.1f%%</td>", 100 * share);
}

static void write_row(FILE *to, const wn_run *run, const wn_replay *replay, int32_t layer)
{
    char kept[16], read[16];
    wn_cost cost = wn_cost_measure(replay, layer);
    wn_quality quality = wn_quality_measure(replay, run->replays[0], layer, wn_run_first_row(run),
                                            run->trace->tokens);
    if (layer < 0) {
        fputs("<tr><th scope=\"row\">", to);
        wn_report_text(to, replay->name);
        fprintf(to, "</th><td>%.1f</td>", 1e3 * replay->context_seconds);
        if (replay->steps > 0)
            fprintf(to, "<td>%.3f</td>", 1e3 * replay->generation_seconds / (double)replay->steps);
        else
            fputs("<td>-</td>", to);
    } else {
        fprintf(to, "<tr><th scope=\"row\" class=\"layer\">layer %u</th><td></td><td></td>",
                run->trace->layers[layer].number);
    }
    fprintf(to, "<td>%s</td><td>%.0f%%</td><td>%s</td>", wn_bytes_text(cost.kept_bytes, kept),
            100 * cost.kept_share, wn_bytes_text(cost.read_bytes, read));
    fprintf(to, "<td>%.4f</td><td>%.4f</td><td>%.4f</td><td>%.4f</td>", quality.mass.mean,
            quality.mass.worst, quality.error.mean, quality.error.worst);
    share_cell(to, cost.context_skipped);
    share_cell(to, cost.generation_skipped);
    fputs("</tr>\n", to);
}

static void write_table(FILE *to, const wn_run *run)
{
    fprintf(to,
            "<div class=\"scroll\"><table>\n<caption>Mass kept and output error are of the %s "
            "rows, against dense attention, per row and head.</caption>\n<thead><tr><th "
            "scope=\"col\"></th><th scope=\"col\">prefill<br>ms</th><th scope=\"col\">generation"
            "<br>ms/token</th><th scope=\"col\" colspan=\"2\">KV cache<br>kept</th><th "
            "scope=\"col\">read per<br>token</th><th scope=\"col\">mass kept<br>mean</th><th "
            "scope=\"col\"><br>least</th><th scope=\"col\">output error<br>mean</th><th "
            "scope=\"col\"><br>worst</th><th scope=\"col\">tiles skipped<br>context</th><th "
            "scope=\"col\"><br>generation</th></tr></thead>\n<tbody>\n",
            wn_run_first_row(run) > 0 ? "generated" : "prompt&#39;s");
    for (uint32_t i = 0; i < run->count; i++) {
        write_row(to, run, run->replays[i], -1);
        for (uint32_t l = 0; run->trace->num_layers > 1 && i > 0 && l < run->trace->num_layers; l++)
            write_row(to, run, run->replays[i], (int32_t)l);
    }
    fputs("</tbody></table></div>\n", to);
}

static void write_time_row(FILE *to, const wn_replay *replay, uint32_t phase)
{
    const int prompt = phase == WN_PHASE_CONTEXT;
    const double unit = prompt ? 1e3 : 1e6 / (double)replay->steps;
    const wn_step_time time = wn_step_time_measure(replay, phase, -1);
    fputs("<tr><th scope=\"row\">", to);
    wn_report_text(to, replay->name);
    fprintf(to, "%s</th><td>%.1f</td>", prompt ? ", prompt, ms" : ", generated token, us",
            unit * time.total);
    for (int i = 0; i < WN_PART_COUNT; i++)
        fprintf(to, unit * time.part[i] >= 0.05 ? "<td>%.1f</td>" : "<td>-</td>",
                unit * time.part[i]);
    fprintf(to, "<td>%.1f</td></tr>\n", unit * time.rest);
}

static void write_times(FILE *to, const wn_run *run)
{
    fputs("<div class=\"scroll\"><table>\n<caption>Where the time went, all layers together."
          "</caption>\n<thead><tr><th scope=\"col\"></th><th scope=\"col\">all</th>",
          to);
    for (int i = 0; i < WN_PART_COUNT; i++)
        fprintf(to, "<th scope=\"col\">%s</th>", wn_part_names[i]);
    fputs("<th scope=\"col\">rest</th></tr></thead>\n<tbody>\n", to);
    for (uint32_t i = 0; i < run->count; i++) {
        write_time_row(to, run->replays[i], WN_PHASE_CONTEXT);
        if (run->replays[i]->steps > 0)
            write_time_row(to, run->replays[i], WN_PHASE_GENERATION);
    }
    fputs("</tbody></table></div>\n", to);
}

/* ---------------------------------------------------------------- findings */

static void write_item(FILE *to, const char *name, const char *text)
{
    fputs("<li><strong>", to);
    wn_report_text(to, name);
    fputs("</strong> ", to);
    wn_report_text(to, text);
    fputs("</li>\n", to);
}

static void write_findings(FILE *to, const wn_run *run)
{
    char text[TEXT];
    if (run->check != NULL) {
        wn_summary_check(run, text, sizeof text);
        fprintf(to, "<p><span class=\"%s\">%.4s</span>", run->check->pass ? "fine" : "bad", text);
        wn_report_text(to, text + 4);
        fputs("</p>\n", to);
    }
    fputs("<ul>\n", to);
    for (uint32_t i = 1; i < run->count; i++) {
        wn_summary_loss(run, run->replays[i], -1, text, sizeof text);
        write_item(to, run->replays[i]->name, text);
        wn_summary_excess(run, run->replays[i], text, sizeof text);
        if (*text != '\0')
            write_item(to, run->replays[i]->name, text);
        wn_step_time_verdict(run->replays[i], run->replays[0], text, sizeof text);
        if (*text != '\0')
            write_item(to, run->replays[i]->name, text);
    }
    fputs("</ul>\n", to);
    if (run->fact == NULL)
        return;
    fputs("<h3>Did it keep the fact?</h3>\n<p>", to);
    wn_summary_readers(run, text, sizeof text);
    wn_report_text(to, text);
    fputs("</p>\n<ul>\n", to);
    for (uint32_t i = 1; i < run->count && run->fact->num_readers > 0; i++) {
        wn_summary_fact(run, run->replays[i], -1, text, sizeof text);
        write_item(to, run->replays[i]->name, text);
    }
    fputs("</ul>\n", to);
}

static void write_plans(FILE *to, const wn_run *run)
{
    fputs("<details><summary>Who does what, layer by layer</summary>\n", to);
    for (uint32_t i = 0; i < run->count; i++) {
        fputs("<h4>", to);
        wn_report_text(to, run->replays[i]->name);
        fputs("</h4><pre>", to);
        wn_report_text(to, run->replays[i]->plan);
        fputs("</pre>\n", to);
    }
    fputs("</details>\n", to);
}

/* ---------------------------------------------------------------- pictures */

static void write_legend(FILE *to)
{
    fputs("<h2>Where attention looked</h2>\n<p>One picture per KV head: each row is a generation "
          "step, each column a stretch of the text. Shade: how much of dense attention&#39;s mass "
          "lies there. ",
          to);
    for (int level = 1; level <= 5; level++)
        fprintf(to, "<span class=\"key\" style=\"background:var(--k%d)\"></span>", level);
    fputs(" the method could see it; ", to);
    for (int level = 1; level <= 5; level++)
        fprintf(to, "<span class=\"key\" style=\"background:var(--l%d)\"></span>", level);
    fputs(" it could not (0.2, 1, 3, 10, 30% of a step and more). The grey skyline shows how much "
          "of the prompt is still in the cache. Tiles that are skipped inside the kernel are not "
          "in the pictures; the bars count them.</p>\n",
          to);
}

static wn_status write_method(FILE *to, const wn_run *run, uint32_t replay,
                              const wn_report_grid *grid, wn_error *error)
{
    char text[TEXT];
    uint32_t layer = grid->layer;
    fputs("<h3>", to);
    wn_report_text(to, run->replays[replay]->name);
    fprintf(to, " on layer %u</h3>\n<p>It ", run->trace->layers[layer].number);
    wn_summary_loss(run, run->replays[replay], (int32_t)layer, text, sizeof text);
    wn_report_text(to, text);
    if (run->fact != NULL && run->fact->num_readers > 0) {
        wn_summary_fact(run, run->replays[replay], (int32_t)layer, text, sizeof text);
        fputs(".</p>\n<p>It ", to);
        wn_report_text(to, text);
    }
    fputs(".</p>\n<div class=\"grid\">\n", to);
    for (uint32_t h = 0; h < run->trace->num_kv_heads && grid->rows > 0; h++) {
        fputs("<figure>", to);
        wn_report_grid_draw(to, grid, replay, h);
        fputs("</figure>\n", to);
    }
    fputs("<figure><figcaption>Attention mass kept by each query head: mean (bar) and least "
          "(line)</figcaption>\n",
          to);
    wn_report_bars_draw(to, run, replay, layer);
    fputs("</figure>\n</div>\n", to);
    return wn_report_words_write(to, run, replay, layer, error);
}

static wn_status write_layer(FILE *to, const wn_run *run, uint32_t layer, wn_error *error)
{
    wn_report_grid grid;
    wn_status status = wn_report_grid_make(run, layer, &grid, error);
    if (status != WN_OK)
        return status;
    fprintf(to, "<section aria-labelledby=\"layer-%u\">\n<h2 id=\"layer-%u\">Layer %u</h2>\n",
            run->trace->layers[layer].number, run->trace->layers[layer].number,
            run->trace->layers[layer].number);
    for (uint32_t i = 1; i < run->count && status == WN_OK; i++)
        status = write_method(to, run, i, &grid, error);
    fputs("</section>\n", to);
    wn_report_grid_free(&grid);
    return status;
}

static wn_status write_page(FILE *to, const wn_run *run, wn_error *error)
{
    wn_progress progress;
    wn_status status = WN_OK;
    write_head(to, run);
    write_table(to, run);
    write_times(to, run);
    write_findings(to, run);
    write_plans(to, run);
    write_legend(to);
    wn_progress_begin(&progress, "report", run->trace->num_layers);
    for (uint32_t l = 0; l < run->trace->num_layers && status == WN_OK; l++) {
        status = write_layer(to, run, l, error);
        wn_progress_show(&progress, l + 1);
    }
    wn_progress_end(&progress);
    fputs("</body>\n</html>\n", to);
    return status;
}

wn_status wn_report_write(const char *path, const wn_run *run, wn_error *error)
{
    FILE *to = fopen(path, "w");
    if (to == NULL)
        return wn_fail(error, WN_EIO, "%s: %s", path, strerror(errno));
    wn_status status = write_page(to, run, error);
    int written = !ferror(to);
    if ((fclose(to) != 0 || !written) && status == WN_OK)
        status = wn_fail(error, WN_EIO, "%s: cannot be written: %s", path, strerror(errno));
    if (status != WN_OK)
        unlink(path);
    return status;
}
