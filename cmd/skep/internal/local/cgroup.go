// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup hierarchy.
type hierarchy struct {
	mount string
	// unified is cgroup2; the others are cgroup v1.
	unified bool
	cpuset  bool
}

// cgroups are the hierarchies of this machine: cgroup2 alone, or cgroup v1 with or without cgroup2 beside it.
type cgroups []hierarchy

func mountedCgroups() (cgroups, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseCgroups(raw), nil
}

// parseCgroups reads mountinfo (proc_pid_mountinfo(5)). Only mounts of a hierarchy's root count.
func parseCgroups(mountinfo []byte) cgroups {
	var all cgroups
	seen := map[string]bool{}
	for line := range bytes.Lines(mountinfo) {
		before, after, ok := strings.Cut(string(line), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 || fields[3] != "/" || seen[fields[2]] {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			all = append(all, hierarchy{mount: fields[4], unified: true})
		case "cgroup":
			all = append(all, hierarchy{mount: fields[4], cpuset: hasOption(tail[2], "cpuset")})
		default:
			continue
		}
		seen[fields[2]] = true // the same hierarchy may be mounted twice (cpu and cpu,cpuacct)
	}
	return all
}

func hasOption(options, want string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == want {
			return true
		}
	}
	return false
}

// unified returns where cgroup2 is mounted.
func (cs cgroups) unified() (string, bool) {
	for _, h := range cs {
		if h.unified {
			return h.mount, true
		}
	}
	return "", false
}

// ensure makes the cgroup in every hierarchy.
func (cs cgroups) ensure(cgroup string) error {
	for _, h := range cs {
		at := h.mount
		for part := range strings.SplitSeq(strings.Trim(cgroup, "/"), "/") {
			parent := at
			at = filepath.Join(at, part)
			if h.unified {
				delegate(parent)
			}
			if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if h.cpuset {
				if err := inheritCpuset(parent, at); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// delegate makes the resource controllers of a cgroup2 available to its children. In a hybrid layout cgroup2 has
// none, and a controller that is missing costs only the limit it would have enforced.
func delegate(dir string) {
	for _, controller := range []string{"+cpu", "+memory", "+pids", "+cpuset"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controller), 0o644)
	}
}

// inheritCpuset fills what cgroup v1 leaves empty: no process can enter a cpuset without processors and memory.
func inheritCpuset(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(child, name))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(own)) > 0 {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0o644); err != nil {
			return fmt.Errorf("set %s of %s: %w", name, child, err)
		}
	}
	return nil
}

// enterV1 moves the calling thread, which must be locked, into the cgroup of every v1 hierarchy. A process that
// it forks starts there. cgroup2 has no threads in different cgroups, so the fork itself names that one.
func (cs cgroups) enterV1(cgroup string) error {
	for _, h := range cs {
		if h.unified {
			continue
		}
		file := filepath.Join(h.mount, cgroup, "tasks")
		if err := os.WriteFile(file, []byte(strconv.Itoa(unix.Gettid())), 0o644); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// processes lists all processes in the cgroup and below it, in any hierarchy.
func (cs cgroups) processes(cgroup string) []int {
	seen := map[int]bool{}
	var pids []int
	cs.walk(cgroup, func(dir string) {
		raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return // gone meanwhile
		}
		scanner := bufio.NewScanner(bytes.NewReader(raw))
		for scanner.Scan() {
			pid, err := strconv.Atoi(scanner.Text())
			if err == nil && pid > 0 && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	})
	return pids
}

// thaw lets frozen processes run, so that a signal can end them.
func (cs cgroups) thaw(cgroup string) {
	cs.walk(cgroup, func(dir string) {
		_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0o644) // v1; absent elsewhere
		_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0o644)      // v2; absent elsewhere
	})
}

// remove removes the cgroup and everything below it from all hierarchies. Its processes must have ended. Absence
// is not an error.
func (cs cgroups) remove(cgroup string) error {
	var dirs []string
	cs.walk(cgroup, func(dir string) { dirs = append(dirs, dir) })
	var errs []error
	for i := len(dirs) - 1; i >= 0; i-- { // children before their parents
		if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeEmpty removes the cgroup where it has no children, such as the parent of the last cluster.
func (cs cgroups) removeEmpty(cgroup string) {
	for _, h := range cs {
		_ = os.Remove(filepath.Join(h.mount, cgroup)) // refused while something is in it
	}
}

func (cs cgroups) walk(cgroup string, visit func(dir string)) {
	for _, h := range cs {
		root := filepath.Join(h.mount, path.Clean("/"+cgroup))
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile, or never there
			}
			if d.IsDir() {
				visit(p)
			}
			return nil
		})
	}
}
