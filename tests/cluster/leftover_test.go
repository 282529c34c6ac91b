// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
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

// footprint is what a cluster has on the machine outside its folders and that only the running cluster tells: taken before it goes.
type footprint struct {
	// shims are the sockets of the shims, in a folder that all clusters share.
	shims []string
}

// links are the devices of the machine's own network namespace before there was a cluster, which adds none.
var links = hostLinks()

func hostLinks() map[string]bool {
	found := map[string]bool{}
	interfaces, _ := net.Interfaces()
	for _, link := range interfaces {
		found[link.Name] = true
	}
	return found
}

// takeFootprint finds the sockets that processes of the cluster listen on.
func takeFootprint() footprint {
	var f footprint
	for _, pid := range clusterProcesses() {
		sockets, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
		paths := map[string]string{} // by inode
		for line := range strings.Lines(string(sockets)) {
			if fields := strings.Fields(line); len(fields) == 8 && strings.HasPrefix(fields[7], "/run/containerd/") {
				paths[fields[6]] = fields[7]
			}
		}
		descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, d := range descriptors {
			target, _ := os.Readlink(d)
			if path := paths[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")]; path != "" {
				f.shims = append(f.shims, path)
			}
		}
	}
	slices.Sort(f.shims)
	f.shims = slices.Compact(f.shims)
	return f
}

// leftovers lists everything of the cluster that is still on the machine.
func leftovers(f footprint) []string {
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
	patterns := []string{
		"/run/netns/skep-" + name + "-*", "/var/lib/skep/" + name, "/run/skep/" + name, "/sys/fs/bpf/skep/" + name,
		"/run/containerd/runc/skep-" + name + "-*",
	}
	for _, pattern := range append(patterns, f.shims...) {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	for _, root := range cgroupMounts(string(mounts)) {
		if path := filepath.Join(root, "skep", name); exists(path) {
			left = append(left, "cgroup "+path)
		}
	}
	for link := range hostLinks() {
		if !links[link] {
			left = append(left, "link "+link)
		}
	}
	return append(left, contexts()...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// cgroupMounts are the roots of all hierarchies, of either version.
func cgroupMounts(mounts string) []string {
	var roots []string
	for line := range strings.Lines(mounts) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[2], "cgroup") {
			roots = append(roots, fields[1])
		}
	}
	return roots
}

// contexts are the entries of the user's kubeconfig, which was empty before.
func contexts() []string {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return []string{"kubeconfig: " + err.Error()}
	}
	var found []string
	for context := range config.Contexts {
		found = append(found, "kubeconfig context "+context)
	}
	for cluster := range config.Clusters {
		found = append(found, "kubeconfig cluster "+cluster)
	}
	for user := range config.AuthInfos {
		found = append(found, "kubeconfig user "+user)
	}
	return found
}

// TestFootprintIsSeen shows that what must be gone after skep down would be found if it were not: all of it is there now.
func TestFootprintIsSeen(t *testing.T) {
	ns := namespace(t, "footprint")
	createPods(t, ns, probePod("one", nodeName(1), nil))
	left := leftovers(takeFootprint())
	for _, want := range []string{
		"process ", "mount ", "/run/netns/skep-" + name + "-fabric", "/run/netns/skep-" + name + "-" + nodeName(1), "/var/lib/skep/" + name,
		"/run/skep/" + name, "/sys/fs/bpf/skep/" + name, "/run/containerd/s/", "/run/containerd/runc/skep-" + name + "-" + nodeName(1),
		"cgroup ", "kubeconfig context ", "kubeconfig cluster ", "kubeconfig user ",
	} {
		if !slices.ContainsFunc(left, func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("a running cluster shows no %q; it shows:\n%s", want, strings.Join(left, "\n"))
		}
	}
	if i := slices.IndexFunc(left, func(line string) bool { return strings.HasPrefix(line, "link ") }); i >= 0 {
		t.Errorf("a cluster adds nothing to the machine's own network: %s", left[i])
	}
}
