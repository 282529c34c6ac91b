#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Fetches Debian's 5.10 kernel with the modules that the tests need into a cache outside the tree and prints where it is:
#
#     fetch.sh [CACHE_DIR]
#
# The repository's address is the one that this machine already uses for its own release; only the suite differs. apt
# verifies the signature with Debian's keyring. Nothing of the machine's own apt state is touched.
set -eu

suite=bullseye-security
# In the order of their names each comes after those that it needs.
modules="crypto/crc32c_generic drivers/net/veth lib/libcrc32c net/sched/cls_bpf net/sched/sch_ingress net/sctp/sctp"
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/skep/kernel}
done_mark=$cache/5.10/complete
if [ "$(cat "$done_mark" 2>/dev/null)" = "$modules" ]; then
	echo "$cache/5.10"
	exit 0
fi

# The security repository of this release serves the other releases' suites too.
uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk '$2 ~ /-security$/ {print $1; exit}')
[ -n "$uri" ] || { echo "apt knows no security repository" >&2; exit 1; }

apt=$cache/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$apt/sources.list"
private() {
	# The cache is root's own folder, which the unprivileged download user of apt could not read.
	apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/parts" \
		-o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Acquire::Check-Valid-Until=false "$@"
}
private update >&2
package=$(apt-cache -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/parts" \
	-o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" pkgnames linux-image-5.10 |
	grep -E '^linux-image-5\.10\.0-[0-9]+-amd64$' | sort -V | tail -n 1)
[ -n "$package" ] || { echo "no 5.10 kernel in $suite" >&2; exit 1; }

work=$cache/unpack.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root" "$cache/5.10"
(cd "$work" && private download "$package" >&2 && dpkg -x ./*.deb root)
cp "$work"/root/boot/vmlinuz-* "$cache/5.10/vmlinuz"
for module in $modules; do
	find "$work/root/lib/modules" -path "*/$module.ko" -exec cp {} "$cache/5.10/" \;
done
echo "$modules" >"$done_mark"
echo "$cache/5.10"
