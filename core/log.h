/* log.h: log lines by topic. Silent unless WINNOW_LOG names the topic. Never on the step path. */
#ifndef WN_CORE_LOG_H
#define WN_CORE_LOG_H

#include "winnow/base.h"

void wn_log_line(uint32_t level, const char *topic, const char *format, ...) WN_PRINTF(3, 4);

#endif
