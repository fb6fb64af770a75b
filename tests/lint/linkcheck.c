// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * linkcheck.c - a program that does nothing: what matters is that it links. See meson.build.
 */
int main(void)
{
	return 0;
}
