/* test_host.c: what plugins are given: services by id, memory, the log, the op table. */
#include "suite.h"

#include "core/registry.h"

#include <string.h>

static void negotiation(void)
{
    const wn_host *host = wn_core_host();
    CU_ASSERT_EQUAL(host->struct_size, WN_SIZEOF(wn_host));
    CU_ASSERT_EQUAL(host->reserved, 0);
    CU_ASSERT(host->abi_min <= WN_ABI_VERSION && WN_ABI_VERSION <= host->abi_max);
    CU_ASSERT_STRING_EQUAL(host->name, "libwinnow 0.1.0");
    CU_ASSERT_PTR_NOT_NULL(host->error);
    CU_ASSERT_PTR_NULL(host->get_service("winnow.ops/2"));
    CU_ASSERT_PTR_NULL(host->get_service("winnow.ops/1 "));
    CU_ASSERT_PTR_NULL(host->get_service(""));
    CU_ASSERT_PTR_NULL(host->get_service(NULL));
}

static void memory(void)
{
    const wn_memory *service = wn_core_host()->get_service(WN_SERVICE_MEMORY);
    CU_ASSERT_PTR_NOT_NULL_FATAL(service);
    CU_ASSERT_EQUAL(service->struct_size, WN_SIZEOF(wn_memory));
    for (uint64_t alignment = 1; alignment <= 4096; alignment *= 2) {
        unsigned char *piece = service->allocate(100, alignment);
        CU_ASSERT_PTR_NOT_NULL_FATAL(piece);
        CU_ASSERT_EQUAL((uintptr_t)piece % (alignment < 16 ? 16 : alignment), 0);
        memset(piece, 1, 100);
        service->release(piece);
    }
    void *nothing = service->allocate(0, 0);
    CU_ASSERT_PTR_NOT_NULL(nothing);
    service->release(nothing);
    service->release(NULL);
    CU_ASSERT_PTR_NULL(service->allocate(100, 3));
    CU_ASSERT_PTR_NULL(service->allocate(100, 48));
#ifndef __SANITIZE_ADDRESS__ /* which ends the process instead of giving NULL */
    CU_ASSERT_PTR_NULL(service->allocate(UINT64_MAX / 4, 64));
#endif
}

static char line[256];
static void sink(void *context, uint32_t level, const char *topic, const char *said)
{
    snprintf(line, sizeof line, "%d %u %s %s", *(int *)context, level, topic, said);
}

static void log_lines(void)
{
    int mark = 7;
    const wn_log *service = wn_core_host()->get_service(WN_SERVICE_LOG);
    CU_ASSERT_PTR_NOT_NULL_FATAL(service);
    wn_log_to(sink, &mark);
    unsetenv("WINNOW_LOG");
    service->write(WN_LOG_INFO, "sample", "quiet");
    CU_ASSERT_STRING_EQUAL(line, "");
    setenv("WINNOW_LOG", "load", 1);
    service->write(WN_LOG_WARNING, "sample", "100 % loud");
    CU_ASSERT_STRING_EQUAL(line, "7 2 load sample: 100 % loud");
    service->write(WN_LOG_WARNING, NULL, NULL);
    CU_ASSERT_STRING_EQUAL(line, "7 2 load (a plugin): ");
    wn_log_to(NULL, NULL);
    unsetenv("WINNOW_LOG");
}

static void ops(void)
{
    const wn_ops *table = wn_core_host()->get_service(WN_SERVICE_OPS);
    CU_ASSERT_PTR_NOT_NULL_FATAL(table);
    CU_ASSERT_PTR_EQUAL(table, wn_cpu_ops());
    CU_ASSERT_EQUAL(table->struct_size, WN_SIZEOF(wn_ops));
    CU_ASSERT_EQUAL(table->device, WN_DEVICE_CPU);
    CU_ASSERT(strlen(wn_cpu_ops_report()) > 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(wn_cpu_ops_report(), "generation"));
}

WN_SUITE("core.host", {"negotiation", negotiation}, {"memory", memory}, {"log lines", log_lines},
         {"ops", ops})
