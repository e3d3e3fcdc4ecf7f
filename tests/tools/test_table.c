/* test_table.c: columns line up, whatever is in them. */
#include "suite.h"
#include "tools/table.h"

#include <string.h>

static void aligns(void)
{
    wn_table table;
    char *made = NULL;
    size_t bytes;
    wn_table_init(&table, 3);
    for (int row = 0; row < 40; row++) {
        wn_table_cell(&table, "row %d", row);
        wn_table_cell(&table, "%d", row * row);
        wn_table_cell(&table, "%s", row % 2 ? "odd" : "");
    }
    FILE *to = open_memstream(&made, &bytes);
    wn_table_print(&table, 1, to);
    fclose(to);
    CU_ASSERT_EQUAL(strncmp(made, "row 0      0\n--------------", 27), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "\nrow 3      9  odd\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(made, "\nrow 39  1521  odd\n"));
    free(made);
    wn_table_free(&table);
}

static void cuts_long_cells(void)
{
    wn_table table;
    wn_table_init(&table, 1);
    wn_table_cell(&table, "%0200d", 7);
    CU_ASSERT_EQUAL(strlen(table.cells[0][0]), WN_TABLE_CELL - 1);
    wn_table_free(&table);
}

static void bytes_text(void)
{
    static const struct {
        double bytes;
        const char *text;
    } cases[] = {{0, "0 B"},        {999, "999 B"},      {1000, "1.00 kB"},  {12345, "12.3 kB"},
                 {99960, "100 kB"}, {999600, "1.00 MB"}, {1.5e9, "1.50 GB"}, {3e15, "3000 TB"}};
    char text[16];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CU_ASSERT_STRING_EQUAL(wn_bytes_text(cases[i].bytes, text), cases[i].text);
}

WN_SUITE("tools.table", {"aligns", aligns}, {"cuts long cells", cuts_long_cells},
         {"bytes in words", bytes_text})
