// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// clusterProcesses finds every process that belongs to the cluster: by its command line or by its cgroup.
func clusterProcesses() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		commandLine, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if len(commandLine) == 0 {
			continue // a zombie, which nobody can end but its parent, or a kernel thread
		}
		cgroups, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		if bytes.Contains(commandLine, []byte("/"+name+"/")) || bytes.Contains(cgroups, []byte("/skep/"+name+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// leftovers lists everything of the cluster that is still on the machine.
func leftovers() []string {
	var left []string
	for _, pid := range clusterProcesses() {
		commandLine, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		left = append(left, "process "+strconv.Itoa(pid)+" "+strings.ReplaceAll(string(commandLine), "\x00", " "))
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/"+name) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{
		"/run/netns/skep-" + name + "-*", "/var/lib/skep/" + name, "/run/skep/" + name, "/sys/fs/bpf/skep/" + name,
	} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		left = append(left, below(root, "skep/"+name)...)
	}
	return left
}

// below finds folders whose path ends in suffix, at most one level of hierarchy mounts deep.
func below(root, suffix string) []string {
	var found []string
	entries, _ := os.ReadDir(root)
	for _, dir := range append([]fs.DirEntry{nil}, entries...) {
		path := filepath.Join(root, suffix)
		if dir != nil {
			path = filepath.Join(root, dir.Name(), suffix)
		}
		if _, err := os.Stat(path); err == nil {
			found = append(found, "cgroup "+path)
		}
	}
	return found
}
