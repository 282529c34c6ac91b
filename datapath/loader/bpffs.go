// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bpffsMount is where Linux distributions mount the BPF file system.
const bpffsMount = "/sys/fs/bpf"

// EnsureBPFFS makes sure that dir can hold pins: it must lie below a mounted BPF file system. The usual one is mounted when nobody
// has done it yet.
func EnsureBPFFS(dir string) error {
	if !strings.HasPrefix(dir, bpffsMount+"/") {
		return makePinDir(dir)
	}
	// Agents of several nodes may start together; mounts would stack.
	lock, err := os.Open(bpffsMount)
	if err != nil {
		return fmt.Errorf("open %s: %w", bpffsMount, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", bpffsMount, err)
	}
	if is, err := isBPFFS(bpffsMount); err != nil {
		return err
	} else if !is {
		if err := unix.Mount("bpf", bpffsMount, "bpf", 0, "mode=0700"); err != nil {
			return fmt.Errorf("mount the BPF file system: %w", err)
		}
	}
	return makePinDir(dir)
}

func makePinDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of pins: %w", err)
	}
	is, err := isBPFFS(dir)
	if err != nil {
		return err
	}
	if !is {
		return fmt.Errorf("%s is not on a BPF file system", dir)
	}
	return nil
}

func isBPFFS(path string) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return int64(stat.Type) == unix.BPF_FS_MAGIC, nil
}
