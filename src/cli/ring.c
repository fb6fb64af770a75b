// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring.c - `kshared ring create|ls|stat|watch|send|recv|rm`: message channels; here those that make and remove them.
 */
#include <string.h>
#include <sys/stat.h>

#include "cli/ring.h"

const struct hint ring_hints[] = {
	{ EINVAL, "this is no good name", "give a name without '..'" },
	{ ENOENT, "there is no such ring, or this folder has no memory objects",
	  "'kshared ring ls' shows what is there" },
	{ EISDIR, "it is a board, not a ring", "name a ring inside it" },
	{ EPROTO, "it is no ring, or one of another version",
	  "'kshared ring ls' shows those that are" },
	{ EPERM, "it is no ring: it could shrink", "'kshared ring ls' shows those that are" },
	{ EBADMSG, "what is in it makes no sense: somebody has written over it",
	  "remove it and make it anew" },
	{ EOVERFLOW, "the writer did not wait for this receiver", "send it again" },
	{ EMSGSIZE, "this is longer than the ring's longest message",
	  "make the ring with more --data" },
	{ 0 },
};

static const char *const shapes[] = {
	[KRING_ONE_TO_ONE] = "one-to-one",
	[KRING_MANY_TO_ONE] = "many-to-one",
	[KRING_BROADCAST] = "broadcast",
};

/** ring_shape_name() - what a shape is called on the command line and in JSON. */
const char *ring_shape_name(uint32_t shape)
{
	return shape >= KRING_ONE_TO_ONE && shape <= KRING_BROADCAST ? shapes[shape] : "?";
}

/** ring_state_name() - the same for the state of a place. */
const char *ring_state_name(uint32_t state)
{
	switch (state) {
	case KRING_ALIVE:
		return "alive";
	case KRING_CLOSED:
		return "closed";
	case KRING_DEAD:
		return "dead";
	default:
		return "?";
	}
}

static int parse_shape(const char *text, uint32_t *ret)
{
	for (uint32_t i = KRING_ONE_TO_ONE; i <= KRING_BROADCAST; i++) {
		if (strcmp(shapes[i], text) == 0) {
			*ret = i;
			return CLI_OK;
		}
	}
	return cli_usage(RING_NAME, "a shape is one-to-one, many-to-one or broadcast, not '%s'",
			 text);
}

enum sort { ANY, POWER_OF_TWO, MULTIPLE_OF_8 };

/* A number for kring_conf, from @min to @max. */
static int parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			enum sort sort, uint64_t *ret)
{
	static const char *const names[] = { "a number", "a power of two", "a multiple of 8" };
	uint64_t n;

	if (cli_parse_size(text, &n) < 0 || n < min || n > max ||
	    (sort == POWER_OF_TWO && (n & (n - 1))) || (sort == MULTIPLE_OF_8 && n % 8))
		return cli_usage(RING_NAME, "%s is %s from %llu to %llu, not '%s'", option,
				 names[sort], (unsigned long long)min, (unsigned long long)max,
				 text);
	*ret = n;
	return CLI_OK;
}

static int parse_conf(struct kring_conf *conf, unsigned int *mode, int argc, char **argv)
{
	static const struct option options[] = {
		{ .name = "shape", .has_arg = required_argument, .val = 's' },
		{ .name = "slots", .has_arg = required_argument, .val = 'n' },
		{ .name = "slot-size", .has_arg = required_argument, .val = 'z' },
		{ .name = "data", .has_arg = required_argument, .val = 'd' },
		{ .name = "writers", .has_arg = required_argument, .val = 'w' },
		{ .name = "readers", .has_arg = required_argument, .val = 'r' },
		{ .name = "protected", .has_arg = no_argument, .val = 'p' },
		{ .name = "blocking", .has_arg = no_argument, .val = 'b' },
		{ .name = "mode", .has_arg = required_argument, .val = 'm' },
		{ 0 },
	};
	uint64_t n = 0;
	int c, r = CLI_OK;

	while (r == CLI_OK && (c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case 's':
			r = parse_shape(optarg, &conf->shape);
			break;
		case 'n':
			r = parse_number("--slots", optarg, 2, 1u << 20, POWER_OF_TWO, &n);
			conf->slots = (uint32_t)n;
			break;
		case 'z':
			r = parse_number("--slot-size", optarg, 64, 4096, MULTIPLE_OF_8, &n);
			conf->slot_bytes = (uint32_t)n;
			break;
		case 'd':
			r = parse_number("--data", optarg, 4096, 1ULL << 40, POWER_OF_TWO, &n);
			conf->data_bytes = n;
			break;
		case 'w':
			r = parse_number("--writers", optarg, 1, 256, ANY, &n);
			conf->writers = (uint32_t)n;
			break;
		case 'r':
			r = parse_number("--readers", optarg, 1, 256, ANY, &n);
			conf->readers = (uint32_t)n;
			break;
		case 'p':
			conf->flags |= KRING_PROTECTED;
			break;
		case 'b':
			conf->flags |= KRING_BLOCKING;
			break;
		case 'm':
			if (cli_parse_mode(optarg, 0777, mode) < 0)
				r = cli_usage(RING_NAME, "'%s' is no mode of three octal digits",
					      optarg);
			/* It is meant exactly, as that of mkdir -m. */
			umask(0);
			break;
		default:
			r = cli_bad_option(RING_NAME, c, argv);
			break;
		}
	}
	return r;
}

static int create(const struct cli *cli, int argc, char **argv)
{
	static const struct hint hints[] = {
		{ EINVAL, "this is no good name", "give a name without '..'" },
		{ ENOENT, "there is no such board, or this folder has no memory objects",
		  "make a board with mkdir in the mounted folder" },
		{ EEXIST, "the name, or the same with '.ctl' for --protected, is taken",
		  "choose another one or remove the ring with 'kshared ring rm'" },
		{ 0 },
	};
	struct kring_conf conf = { .shape = KRING_ONE_TO_ONE };
	unsigned int mode = 0600;
	int r = parse_conf(&conf, &mode, argc, argv);

	if (r != CLI_OK)
		return r;
	if (argc - optind != 1)
		return cli_usage(RING_NAME, "create takes one NAME");
	if (conf.writers > 1 && conf.shape != KRING_MANY_TO_ONE)
		return cli_usage(RING_NAME, "--writers goes with --shape many-to-one only");
	if (conf.readers > 1 && conf.shape != KRING_BROADCAST)
		return cli_usage(RING_NAME, "--readers goes with --shape broadcast only");
	if ((conf.flags & KRING_BLOCKING) && conf.shape != KRING_BROADCAST)
		return cli_usage(
			RING_NAME,
			"--blocking goes with --shape broadcast only; the others always wait");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	if (kring_create(k, argv[optind], &conf, mode) < 0)
		return cli_refuse(argv[optind], errno, hints);
	return CLI_OK;
}

static int rm(const struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { 0 } };
	int c = getopt_long(argc, argv, ":", options, NULL);

	if (c != -1)
		return cli_bad_option(RING_NAME, c, argv);
	if (argc - optind != 1)
		return cli_usage(RING_NAME, "rm takes one NAME");

	cleanup_connection struct kshared *k = cli_connect(cli);
	if (!k)
		return CLI_FAILED;
	/* Not another memory object by mistake; one that is damaged, or that its owner may not read, is removed all the same. */
	cleanup_ring struct kring *r = kring_open(k, argv[optind], KRING_OBSERVER);
	if (!r && errno != EBADMSG && errno != EACCES && errno != ENOENT)
		return cli_refuse(argv[optind], errno, ring_hints);
	if (kring_remove(k, argv[optind]) < 0)
		return cli_refuse(argv[optind], errno, errno == EPERM ? NULL : ring_hints);
	return CLI_OK;
}

/** cmd_ring() - ring create|ls|stat|watch|send|recv|rm. Return: an exit status. */
int cmd_ring(const struct cli *cli, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(const struct cli *cli, int argc, char **argv);
	} verbs[] = {
		{ "create", create },  { "ls", ring_ls },
		{ "stat", ring_stat }, { "watch", ring_watch },
		{ "send", ring_send }, { "recv", ring_recv },
		{ "rm", rm },
	};

	if (argc < 2)
		return cli_usage(RING_NAME,
				 "create, ls, stat, watch, send, recv or rm must follow");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(cli, argc - 1, argv + 1);
	return cli_usage(RING_NAME, "'%s' is none of create, ls, stat, watch, send, recv, rm",
			 argv[1]);
}
