// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ContainerdRun is where containerd keeps some things whatever its own state directory is: the sockets of shims, runc's state.
const ContainerdRun = "/run/containerd"

// ShimSocket is where containerd puts the socket of the shim that runs a pod: the name is a hash of containerd's own socket, the
// containerd namespace and what the shim is for, so no two clusters, and no containerd of anybody else, share one.
func ShimSocket(containerd, namespace, pod string) string {
	sum := sha256.Sum256([]byte(filepath.Join(containerd, namespace, pod)))
	return filepath.Join(ContainerdRun, "s", hex.EncodeToString(sum[:]))
}

// ShimSockets are the sockets below ContainerdRun that a process has open: those of a shim, whatever it is for and whether or not
// containerd still knows it. A process that has ended has none.
func ShimSockets(pid int) []string {
	process := fmt.Sprintf("/proc/%d", pid)
	table, _ := os.ReadFile(process + "/net/unix") // an error means that the process has ended
	paths := map[string]string{}                   // by inode, as the links of descriptors name it
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) == 8 && strings.HasPrefix(fields[7], ContainerdRun+"/") {
			paths["socket:["+fields[6]+"]"] = fields[7]
		}
	}
	if len(paths) == 0 {
		return nil
	}
	var sockets []string
	descriptors, _ := os.ReadDir(process + "/fd")
	for _, d := range descriptors {
		target, _ := os.Readlink(filepath.Join(process, "fd", d.Name()))
		if path, ok := paths[target]; ok {
			sockets = append(sockets, path)
		}
	}
	slices.Sort(sockets)
	return slices.Compact(sockets) // an accepted connection has the path of its listener
}

// shimEnds is how long a shim may take to end by itself.
const shimEnds = 2 * time.Second

// EndShim makes sure that the shim of a socket has gone, and its socket with it. A shim ends by itself when its last container is
// deleted. One that containerd has lost sight of does not, and is killed; one that was killed before has left its socket behind.
func EndShim(ctx context.Context, socket string) error {
	short, cancel := context.WithTimeout(ctx, shimEnds)
	defer cancel()
	if gone, err := awaitShim(short, socket); gone || ctx.Err() != nil {
		return err
	}
	for _, pid := range shimsAt(socket) {
		_ = unix.Kill(pid, unix.SIGKILL) // an error means that it has ended
	}
	again, cancel := context.WithTimeout(ctx, shimEnds)
	defer cancel()
	gone, err := awaitShim(again, socket)
	if !gone && err == nil {
		return fmt.Errorf("a shim without containers does not end: it listens on %s", socket)
	}
	return err
}

// awaitShim waits until nobody listens on a socket, and removes it. It reports false when ctx ended first.
func awaitShim(ctx context.Context, socket string) (bool, error) {
	for {
		conn, err := net.Dial("unix", socket)
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return true, fmt.Errorf("remove the socket of a shim that has ended: %w", err)
			}
			return true, nil
		case errors.Is(err, fs.ErrNotExist):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("look at a shim: %w", err)
		}
		conn.Close()
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// shimsAt finds the processes that have a shim's socket open.
func shimsAt(socket string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc") // it is always there
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && slices.Contains(ShimSockets(pid), socket) {
			pids = append(pids, pid)
		}
	}
	return pids
}
