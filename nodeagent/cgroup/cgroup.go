// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes, reads and removes the control groups of pods, on cgroup v1, v2 and the hybrid layout.
//
// Containers' own groups are the runtime's work; this package handles the pod's group above them.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Root is where control groups are mounted.
const Root = "/sys/fs/cgroup"

// Limits of a pod; zero means none.
type Limits struct {
	CPUShares   uint64
	CPUQuota    int64 // microseconds per CPUPeriod
	CPUPeriod   uint64
	MemoryBytes int64
	Pids        int64
}

// Tree knows the layout of this machine's control groups.
type Tree struct {
	root    string
	unified bool
	// hierarchies are the directories that a group has to be made in.
	hierarchies []string
}

// Open looks at the machine's layout.
func Open() (*Tree, error) { return open(Root) }

func open(root string) (*Tree, error) {
	t := &Tree{root: root}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		t.unified = true
		t.hierarchies = []string{root}
		return t, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("look at control groups: %w", err)
	}
	for _, e := range entries {
		// Links such as cpu -> cpu,cpuacct are the same hierarchy again.
		if e.IsDir() {
			t.hierarchies = append(t.hierarchies, filepath.Join(root, e.Name()))
		}
	}
	if len(t.hierarchies) == 0 {
		return nil, fmt.Errorf("no control groups are mounted at %s", root)
	}
	return t, nil
}

// Unified says that the machine has cgroup v2 only.
func (t *Tree) Unified() bool { return t.unified }

// SetPod makes a pod's group and sets its limits.
func (t *Tree) SetPod(path string, l Limits) error {
	if t.unified {
		return t.setV2(path, l)
	}
	var errs []error
	for file, value := range filesV1(l) {
		controller, _, _ := strings.Cut(file, ".")
		dir := t.controller(controller)
		if dir == "" {
			continue
		}
		dir = filepath.Join(dir, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		if value != "" {
			errs = append(errs, os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set control group %s: %w", path, err)
	}
	return nil
}

func filesV1(l Limits) map[string]string {
	files := map[string]string{"cpu.shares": "", "memory.limit_in_bytes": "", "pids.max": ""}
	if l.CPUShares > 0 {
		files["cpu.shares"] = strconv.FormatUint(l.CPUShares, 10)
	}
	if l.CPUQuota > 0 {
		files["cpu.cfs_quota_us"] = strconv.FormatInt(l.CPUQuota, 10)
	}
	if l.MemoryBytes > 0 {
		files["memory.limit_in_bytes"] = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.Pids > 0 {
		files["pids.max"] = strconv.FormatInt(l.Pids, 10)
	}
	return files
}

// controller is the directory of a v1 controller's hierarchy, which may be shared with others ("cpu,cpuacct").
func (t *Tree) controller(name string) string {
	for _, h := range t.hierarchies {
		for part := range strings.SplitSeq(filepath.Base(h), ",") {
			if part == name {
				return h
			}
		}
	}
	return ""
}

func (t *Tree) setV2(path string, l Limits) error {
	dir := filepath.Join(t.root, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make control group %s: %w", path, err)
	}
	if err := t.delegate(path); err != nil {
		return err
	}
	files := map[string]string{}
	if l.CPUShares > 0 {
		files["cpu.weight"] = strconv.FormatUint(weight(l.CPUShares), 10)
	}
	if l.CPUQuota > 0 {
		files["cpu.max"] = fmt.Sprintf("%d %d", l.CPUQuota, l.CPUPeriod)
	}
	if l.MemoryBytes > 0 {
		files["memory.max"] = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.Pids > 0 {
		files["pids.max"] = strconv.FormatInt(l.Pids, 10)
	}
	for file, value := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set control group %s: %w", path, err)
		}
	}
	return nil
}

// delegate gives every group on the way to path the controllers that pods need.
func (t *Tree) delegate(path string) error {
	dir := t.root
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		control := filepath.Join(dir, "cgroup.subtree_control")
		for _, c := range []string{"+cpu", "+memory", "+pids", "+io", "+cpuset"} {
			// A controller that this kernel lacks limits nothing; what is needed and missing shows when the limit is written.
			_ = os.WriteFile(control, []byte(c), 0o644)
		}
		dir = filepath.Join(dir, part)
	}
	return nil
}

// weight converts v1 shares (2 to 262144) to a v2 weight (1 to 10000), linearly as runtimes do.
func weight(shares uint64) uint64 {
	return 1 + (min(max(shares, 2), 262144)-2)*9999/262142
}

// OOMKills counts the processes of a group that the kernel killed for want of memory. A group that is gone has none.
func (t *Tree) OOMKills(path string) int {
	file := filepath.Join(t.root, path, "memory.events")
	if !t.unified {
		file = filepath.Join(t.controller("memory"), path, "memory.oom_control")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			count, _ := strconv.Atoi(n)
			return count
		}
	}
	return 0
}

// Remove removes a group and those below it in every hierarchy. Processes must have ended. Absence is not an error.
func (t *Tree) Remove(path string) error {
	if strings.Trim(path, "/") == "" {
		return errors.New("refusing to remove the root control group")
	}
	var errs []error
	for _, h := range t.hierarchies {
		errs = append(errs, removeTree(filepath.Join(h, path)))
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove control group: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// The kernel lets go of a group a moment after its last process.
	for range 20 {
		if err = os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("remove control group: %w", err)
}

// Children lists the names of the groups directly below path, over all hierarchies.
func (t *Tree) Children(path string) []string {
	seen := map[string]bool{}
	var out []string
	for _, h := range t.hierarchies {
		entries, err := os.ReadDir(filepath.Join(h, path))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				out = append(out, e.Name())
			}
		}
	}
	return out
}
