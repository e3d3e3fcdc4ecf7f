/* table.c: aligned columns. */
#include "tools/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void wn_table_init(wn_table *table, uint32_t columns)
{
    *table = (wn_table){.columns = columns, .column = columns};
}

static int add_row(wn_table *table)
{
    if (table->rows == table->capacity) {
        uint32_t capacity = table->capacity > 0 ? 2 * table->capacity : 16;
        void *grown = realloc(table->cells, capacity * sizeof *table->cells);
        if (grown == NULL) {
            table->out_of_memory = 1;
            return -1;
        }
        table->cells = grown;
        table->capacity = capacity;
    }
    memset(table->cells[table->rows], 0, sizeof *table->cells);
    table->rows++;
    table->column = 0;
    return 0;
}

void wn_table_cell(wn_table *table, const char *format, ...)
{
    va_list arguments;
    if (table->out_of_memory || (table->column == table->columns && add_row(table) != 0))
        return;
    va_start(arguments, format);
    vsnprintf(table->cells[table->rows - 1][table->column++], WN_TABLE_CELL, format, arguments);
    va_end(arguments);
}

static void print_row(const wn_table *table, uint32_t row, const int *width, FILE *to)
{
    char line[WN_TABLE_COLUMNS * (WN_TABLE_CELL + 2)];
    size_t end = 0;
    for (uint32_t c = 0; c < table->columns; c++)
        end += (size_t)snprintf(line + end, sizeof line - end, c == 0 ? "%-*s" : "  %*s", width[c],
                                table->cells[row][c]);
    while (end > 0 && line[end - 1] == ' ')
        end--;
    fprintf(to, "%.*s\n", (int)end, line);
}

void wn_table_print(const wn_table *table, uint32_t head_rows, FILE *to)
{
    int width[WN_TABLE_COLUMNS] = {0}, whole = -2;
    for (uint32_t c = 0; c < table->columns; c++) {
        for (uint32_t r = 0; r < table->rows; r++) {
            int length = (int)strlen(table->cells[r][c]);
            width[c] = length > width[c] ? length : width[c];
        }
        whole += width[c] + 2;
    }
    for (uint32_t r = 0; r < table->rows; r++) {
        if (r == head_rows) {
            for (int i = 0; i < whole; i++)
                fputc('-', to);
            fputc('\n', to);
        }
        print_row(table, r, width, to);
    }
    if (table->out_of_memory)
        fputs("(the table is incomplete: out of memory)\n", to);
}

void wn_table_free(wn_table *table)
{
    free(table->cells);
    *table = (wn_table){0};
}

const char *wn_bytes_text(double bytes, char text[16])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    snprintf(text, 16, "%.*f %s",
             unit == 0 || bytes >= 99.95 ? 0
             : bytes >= 9.995            ? 1
                                         : 2,
             bytes, units[unit]);
    return text;
}
