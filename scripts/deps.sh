#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Install what skep needs from Debian or Ubuntu, unless it is there. Arguments choose what for:
#   run     to run a local cluster (the default)
#   test    and for the tests
#   kernel  and to boot other kernels in a virtual machine
#   gen     and to compile bpf/ again ("make generate")
set -euo pipefail

declare -A provides=(
  [containerd]=containerd
  [runc]=runc
  [ip]=iproute2
  [nft]=nftables
)
for purpose in "$@"; do
  case $purpose in
    run) ;;
    test) provides[busybox]=busybox-static ;;
    kernel) provides[busybox]=busybox-static provides[qemu-system-x86_64]=qemu-system-x86 ;;
    gen) provides[clang-19]=clang-19 provides[llvm-strip-19]=llvm-19 ;;
    *) echo "deps.sh: unknown purpose $purpose" >&2; exit 2 ;;
  esac
done

# The tools of an ordinary user's path are not all: some are in sbin.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()
for program in "${!provides[@]}"; do
  command -v "$program" >/dev/null || missing+=("${provides[$program]}")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "deps.sh: please install: ${missing[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "deps.sh: run as root to install: ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
