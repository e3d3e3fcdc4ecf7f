/* Findings come out in the order of the file. */
#include "tests/suite.h"

#include "core/findings.h"

static void findings_are_told_by_place(void)
{
    wn_findings findings = {0};
    wn_reason_list reasons = {0};
    wn_finding_add(&findings, 10, 1, "e");
    wn_finding_add(&findings, 2, 7, "c");
    wn_finding_add(&findings, 2, 3, "a");
    wn_finding_add(&findings, 2, 7, "d %d", 5);
    wn_finding_add(&findings, 0, 0, "whole");
    wn_findings_tell(&findings, "f.yaml", &reasons);
    CU_ASSERT_EQUAL(findings.count, 0);
    CU_ASSERT_EQUAL(reasons.count, 5);
    CU_ASSERT_STRING_EQUAL(reasons.text, "f.yaml: whole\nf.yaml:2:3: a\nf.yaml:2:7: c\n"
                                         "f.yaml:2:7: d 5\nf.yaml:10:1: e");
    wn_reasons_clear(&reasons);
}

static void many_findings_keep_their_order(void)
{
    wn_findings findings = {0};
    wn_reason_list reasons = {0};
    for (uint32_t i = 0; i < 500; i++)
        wn_finding_add(&findings, 500 - i, 1, "x");
    wn_findings_tell(&findings, "f", &reasons);
    CU_ASSERT_EQUAL(reasons.count, 500);
    CU_ASSERT_NSTRING_EQUAL(reasons.text, "f:1:1: x\nf:2:1: x\n", 18);
    wn_reasons_clear(&reasons);
}

WN_SUITE("core.findings", {"findings are told by place", findings_are_told_by_place},
         {"many findings keep their order", many_findings_keep_their_order})
