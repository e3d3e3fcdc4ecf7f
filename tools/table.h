/* table.h: rows of short texts, printed in columns. */
#ifndef WN_TOOLS_TABLE_H
#define WN_TOOLS_TABLE_H

#include <stdint.h>
#include <stdio.h>

#define WN_TABLE_COLUMNS 16
#define WN_TABLE_CELL 48 /* bytes of a cell, NUL included; longer texts are cut */

typedef struct wn_table {
    char (*cells)[WN_TABLE_COLUMNS][WN_TABLE_CELL];
    uint32_t columns, rows, capacity;
    uint32_t column; /* of the next cell; columns: the row is full */
    uint32_t out_of_memory;
    uint32_t reserved;
} wn_table;

void wn_table_init(wn_table *table, uint32_t columns);
/* The next cell, row by row. Texts are ASCII. */
void wn_table_cell(wn_table *table, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* The first column to the left, the others to the right. head_rows: rows before the rule. */
void wn_table_print(const wn_table *table, uint32_t head_rows, FILE *to);
void wn_table_free(wn_table *table);

/* "12.3 kB", in units of 1000, at most 8 characters and NUL. Returns text. */
const char *wn_bytes_text(double bytes, char text[16]);

#endif
