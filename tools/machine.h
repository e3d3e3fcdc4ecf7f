/* machine.h: what a figure of speed, or a bug report, must say about the machine. */
#ifndef WN_TOOLS_MACHINE_H
#define WN_TOOLS_MACHINE_H

typedef struct wn_machine {
    char processor[256]; /* "unknown" if the system does not tell */
    char flags[512];     /* of the processor's, those that a kernel could be written for */
    char memory[64];     /* "24634456 kB" */
    char system[256];    /* "Linux 6.1.0 x86_64" */
    long processors;     /* online */
} wn_machine;

wn_machine wn_machine_read(void);
/* The commit of the source tree that the command was built from, as it is now, with "-dirty" if it
 * is not what was committed; "unknown" without one. */
void wn_machine_commit(char text[64]);

#endif
