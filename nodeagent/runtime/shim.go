// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// RemoveDeadSocket removes a socket that nobody listens on any more: a shim that is killed while it ends leaves its own behind, and
// containerd has forgotten it by then.
func RemoveDeadSocket(path string) error {
	conn, err := net.Dial("unix", path)
	if err == nil {
		return conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil // there is none, or somebody has it
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of a shim that has ended: %w", err)
	}
	return nil
}
