/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * uffd.h - the kernel's layouts for moving pages and for scanning page tables, where the system's headers may be older.
 */
#ifndef KSHARED_WIRE_UFFD_H
#define KSHARED_WIRE_UFFD_H

#include <stdint.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#define UFFD_MOVE_FEATURE (1u << 16) /* UFFD_FEATURE_MOVE, Linux 6.8 */

/**
 * struct uffd_move - struct uffdio_move.
 * @move: set by the kernel: bytes moved, or -errno if there were none
 */
struct uffd_move {
	uint64_t dst;
	uint64_t src;
	uint64_t len;
	uint64_t mode;
	int64_t move;
};

#define UFFD_IOC_MOVE _IOWR(0xAA, 0x05, struct uffd_move)
#define UFFD_IOC_NEW _IO(0xAA, 0x00) /* USERFAULTFD_IOC_NEW, on /dev/userfaultfd */

/* PAGEMAP_SCAN's categories */
#define SCAN_IS_FILE (1u << 2)
#define SCAN_IS_PRESENT (1u << 3)
#define SCAN_IS_SWAPPED (1u << 4)
#define SCAN_IS_ZERO (1u << 5)

/** struct scan_region - struct page_region: a range of pages with the same categories. */
struct scan_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

/** struct scan_arg - struct pm_scan_arg, Linux 6.7. */
struct scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

#define SCAN_IOC _IOWR('f', 16, struct scan_arg)

#endif
