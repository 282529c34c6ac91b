#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#
# Copies the third-party headers that bpf/ includes, and only those, out of Debian's libbpf-dev and linux-libc-dev,
# with their licences. Run it after installing newer versions of the two packages; never edit the copies.
set -eu
cd "$(dirname "$0")"
multiarch=/usr/include/$(gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)
roots='bpf/bpf_helpers.h bpf/bpf_endian.h linux/bpf.h linux/if_ether.h linux/ip.h linux/ipv6.h
	linux/in.h linux/in6.h linux/tcp.h linux/udp.h linux/pkt_cls.h linux/types.h asm/errno.h'

rm -rf bpf linux asm asm-generic
for header in linux/types.h $roots; do
	echo "#include <$header>"
done | clang-19 -target bpf -M -I/usr/include -I"$multiarch" -x c - |
	tr -d '\\' | tr -s ' ' '\n' | grep '\.h$' | grep -v llvm | while read -r file; do
	name=${file#"$multiarch"/}
	name=${name#/usr/include/}
	mkdir -p "$(dirname "$name")"
	cp "$file" "$name"
done
cp /usr/share/doc/libbpf-dev/copyright LICENSE.libbpf
cp /usr/share/doc/linux-libc-dev/copyright LICENSE.linux-libc
dpkg-query -W -f '${Package} ${Version}\n' libbpf-dev linux-libc-dev >VERSIONS
