// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/nodeagent/runtime"
)

// Down removes every trace of the cluster; with keepData the API's content, the images and the logs stay. It needs
// no process of the cluster to be alive and nothing to be complete: what is absent is no fault.
func Down(ctx context.Context, name string, keepData bool) error {
	if err := ValidateName(name); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("removing a cluster needs root (sudo)")
	}
	c := Cluster{Name: name}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	cs, err := mountedCgroups()
	if err != nil {
		return err
	}
	if keepData {
		c.stopGently()
	}
	sockets := c.shimSockets() // before containerd sees its shims die, and removes what names them
	open, err := c.killAll(cs)
	if err != nil {
		return err // nothing below is safe while processes run
	}
	sockets = append(sockets, open...)
	errs := []error{c.unmergeKubeconfig(), c.unmountAll(), c.removeContainerdLeftovers(sockets), c.removePins(), c.removeNamespaces(), removeCgroups(cs, c.CgroupPath())}
	if err := errors.Join(errs...); err != nil {
		return err // the folders stay, so that a second run knows the cluster
	}
	return c.removeFolders(keepData)
}

// stopGently lets the control plane close its database.
func (c Cluster) stopGently() {
	for name, r := range c.records() {
		if name == "server" {
			_ = stop(r, 10*time.Second) // killed below otherwise
		}
	}
}

// killAll ends the recorded processes and whatever else is in the cluster's cgroups: shims and containers. It returns the sockets
// of the shims among them: one that was about to end is named by nothing else.
func (c Cluster) killAll(cs cgroups) ([]string, error) {
	var sockets []string
	pids := map[int]bool{}
	for _, r := range c.records() {
		if r.alive() {
			pids[r.PID] = true
		}
	}
	const rounds = 20 // a process may fork while the list is read, so look again until nobody is left
	for range rounds {
		cs.thaw(c.CgroupPath())
		for _, pid := range cs.processes(c.CgroupPath()) {
			pids[pid] = true
		}
		delete(pids, os.Getpid())
		if len(pids) == 0 {
			return sockets, nil
		}
		for pid := range pids {
			sockets = append(sockets, runtime.ShimSockets(pid)...)
			killAndWait(pid)
		}
		clear(pids)
	}
	return sockets, fmt.Errorf("processes of cluster %q do not end: %v", c.Name, cs.processes(c.CgroupPath()))
}

func killAndWait(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // an error means that it has ended
	waitExit(fd, 5*time.Second)
}

// unmountAll unmounts everything below the cluster's folders. Removing the folders later must never reach
// through a mount, so a mount that stays is an error.
func (c Cluster) unmountAll() error {
	for range 2 { // mounts may be stacked or hidden below others
		mounts, err := mountsBelow(c.RunDir(), c.DataDir())
		if err != nil {
			return err
		}
		for _, m := range slices.Backward(mounts) { // children come after their parents
			_ = unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	left, err := mountsBelow(c.RunDir(), c.DataDir())
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("still mounted: %s", strings.Join(left, " "))
	}
	return nil
}

func mountsBelow(dirs ...string) ([]string, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(raw), dirs), nil
}

// parseMounts returns the mount points below dirs, in mount order (proc_pid_mountinfo(5), field 5).
func parseMounts(mountinfo string, dirs []string) []string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(point, dir+"/") }) {
			found = append(found, point)
		}
	}
	return found
}

// unescape undoes the octal escapes of blanks and backslashes in mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (c Cluster) removePins() error {
	if err := os.RemoveAll(c.PinDir()); err != nil {
		return fmt.Errorf("remove BPF pins: %w", err)
	}
	_ = os.Remove(filepath.Dir(c.PinDir())) // refused while another cluster has pins
	return nil
}

// removeNamespaces finds the cluster's namespaces by name, also those of nodes that no record mentions.
func (c Cluster) removeNamespaces() error {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if c.ownsNetns(e.Name()) {
			errs = append(errs, removeNetns(e.Name()))
		}
	}
	dropNetnsDir()
	return errors.Join(errs...)
}

// ownsNetns recognises the names of the cluster's namespaces. A prefix is not enough: skep-a-b is one of cluster a-b.
func (c Cluster) ownsNetns(name string) bool {
	index, ok := strings.CutPrefix(name, "skep-"+c.Name+"-"+c.Name+"-")
	if _, err := strconv.ParseUint(index, 10, 16); ok && err == nil {
		return true
	}
	return name == c.fabricNetns()
}

// removeCgroups waits, within limits, for the kernel to take ended processes out of the cgroups.
func removeCgroups(cs cgroups, cgroup string) error {
	var err error
	for range 50 {
		if err = cs.remove(cgroup); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // there is no event for it in cgroup v1
	}
	cs.removeEmpty(filepath.Dir(cgroup))
	return err
}

// removeFolders removes data and run-time state, and the BPF mount if a cluster made it and nobody uses it.
func (c Cluster) removeFolders(keepData bool) error {
	if _, err := os.Stat(mountedBPF()); err == nil && nobodyPins() {
		if unix.Unmount(bpfRoot, 0) == nil { // refused while it is in use
			_ = os.Remove(mountedBPF())
		}
	}
	var errs []error
	if !keepData {
		errs = append(errs, os.RemoveAll(c.DataDir()))
		_ = os.Remove(dataRoot) // refused while other clusters have data
	}
	errs = append(errs, os.RemoveAll(c.RunDir()))
	_ = os.Remove(runRoot)
	return errors.Join(errs...)
}

// nobodyPins reports whether the BPF file system holds only what the kernel itself puts there.
func nobodyPins() bool {
	entries, err := os.ReadDir(bpfRoot)
	return err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !strings.HasSuffix(e.Name(), ".debug") })
}
