/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * port_clock.h - the clock of samples: CLOCK_MONOTONIC of the initial time namespace, in which the kernel's own publishers live.
 *
 * A process in another time namespace (time_namespaces(7)) has another CLOCK_MONOTONIC; what differs is told by /proc.
 */
#ifndef KSHARED_WIRE_PORT_CLOCK_H
#define KSHARED_WIRE_PORT_CLOCK_H

#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PORT_TIME_INIT "time:[4026531834]" /* the kernel's PROC_TIME_INIT_INO */

/**
 * port_clock_offset() - what to add to a sample's time to have the caller's CLOCK_MONOTONIC.
 * Return: ns; 0: none, or it cannot be told: there is no /proc, or the process is between unshare(CLONE_NEWTIME) and fork().
 */
static inline int64_t port_clock_offset(void)
{
	char own[64] = "", children[64] = "", text[256] = "";
	int64_t s, ns;
	char *line;
	int fd;

	if (readlink("/proc/self/ns/time", own, sizeof(own) - 1) <= 0 ||
	    !strcmp(own, PORT_TIME_INIT))
		return 0;
	/* The file is of those that children will have. */
	if (readlink("/proc/self/ns/time_for_children", children, sizeof(children) - 1) <= 0 ||
	    strcmp(own, children) != 0)
		return 0;
	fd = open("/proc/self/timens_offsets", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	line = strstr(text, "monotonic");
	if (!line || sscanf(line, "monotonic %" SCNd64 " %" SCNd64, &s, &ns) != 2)
		return 0;
	return s * 1000000000 + ns;
}

#endif
