// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skep.dev/skep/nodeagent/runtime"
)

// testCluster is a cluster with folders of its own; whatever it makes is gone when the test ends.
func testCluster(t *testing.T) (Cluster, cgroups) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and cgroups")
	}
	for variable, value := range map[*string]string{&dataRoot: t.TempDir(), &runRoot: t.TempDir()} {
		old := *variable
		*variable = value
		t.Cleanup(func() { *variable = old })
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	c := Cluster{Name: fmt.Sprintf("t%d", os.Getpid())}
	cs, err := mountedCgroups()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), c.Name, false); err != nil {
			t.Errorf("Down: %v", err)
		}
	})
	return c, cs
}

func TestNodesReachEachOtherAndNothingElse(t *testing.T) {
	c, _ := testCluster(t)
	for range 2 { // the second run must change nothing
		if err := c.ensureFabric(); err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= 2; i++ {
			if err := c.ensureNode(c.Node(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 2 {
		to := c.Node(2).Addrs()[i]
		if err := exchange(c.Node(1), c.Node(2), to.String()); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	err := inNetns(c.Node(1).Netns(), func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteList(nil, family)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Dst == nil || r.Gw != nil {
					return fmt.Errorf("a route leads out: %v", r)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// exchange connects from one node to an address of the other.
func exchange(from, to Node, address string) error {
	var l net.Listener
	if err := inNetns(to.Netns(), func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	return inNetns(from.Netns(), func() error {
		conn, err := net.DialTimeout("tcp", l.Addr().String(), 3*time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func TestDeadNamespaceFileIsReplaced(t *testing.T) {
	c, _ := testCluster(t)
	name := c.fabricNetns()
	if err := ensureNetns(name); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(filepath.Join(netnsDir, name), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if netnsExists(name) {
		t.Fatal("still there")
	}
	if err := ensureNetns(name); err != nil {
		t.Fatal(err)
	}
	if !netnsExists(name) {
		t.Error("not made again")
	}
}

// What "ip netns add" does must not cover a cluster's namespaces.
func TestNamespacesCanBeRemovedAfterOthersWereMade(t *testing.T) {
	c, _ := testCluster(t)
	name := c.fabricNetns()
	if err := ensureNetns(name); err != nil {
		t.Fatal(err)
	}
	other := "other-" + name
	for _, args := range [][]string{{"netns", "add", other}, {"netns", "delete", other}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	if err := removeNetns(name); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(netnsDir, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestProcessStartsInsideItsNamespaceAndCgroups(t *testing.T) {
	c, cs := testCluster(t)
	n := c.Node(1)
	if err := ensureNetns(n.Netns()); err != nil {
		t.Fatal(err)
	}
	// The program looks at itself as its first act, so a later move would be seen.
	p := process{name: "probe", path: "/bin/sh", args: []string{"-c", "cat /proc/self/cgroup; readlink /proc/self/ns/net; sleep 1000; exit"}, netns: n.Netns(), cgroup: n.CgroupPath() + "/agent"}
	if started, err := c.ensure(cs, p); err != nil || !started {
		t.Fatalf("started %v, %v", started, err)
	}
	var out string
	for !strings.Contains(out, "net:[") {
		out = tail(c.LogFile("probe"), 100)
	}
	var want unix.Stat_t
	if err := unix.Stat(filepath.Join(netnsDir, n.Netns()), &want); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, fmt.Sprintf("net:[%d]", want.Ino)) {
		t.Errorf("namespace is not %d:\n%s", want.Ino, out)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, ":/") && !strings.HasSuffix(strings.TrimSpace(line), n.CgroupPath()+"/agent") {
			t.Errorf("outside the node's cgroup: %s", line)
		}
	}
	if started, err := c.ensure(cs, p); err != nil || started {
		t.Errorf("a running process was started again: %v, %v", started, err)
	}
	p.args = append(p.args, "other")
	before := c.records()["probe"]
	if started, err := c.ensure(cs, p); err != nil || !started || before.alive() {
		t.Errorf("other arguments do not replace the process: %v, %v", started, err)
	}
}

func TestReusedProcessIdIsNotOurs(t *testing.T) {
	start, _, err := processStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r := record{PID: os.Getpid(), StartTime: start, BootID: bootID()}
	if !r.alive() {
		t.Error("this process is not alive")
	}
	r.StartTime++
	if r.alive() {
		t.Error("another start time is taken for the same process")
	}
}

func TestDownKillsWhatNoRecordKnows(t *testing.T) {
	c, cs := testCluster(t)
	socket, listening := shimSocket(t, c)
	p := process{name: "orphan", path: "/bin/sh", args: []string{"-c", "sleep 1000 & sleep 1000"}, cgroup: c.CgroupPath() + "/x/y", files: []*os.File{listening}}
	if _, err := c.ensure(cs, p); err != nil {
		t.Fatal(err)
	}
	for len(cs.processes(c.CgroupPath())) < 2 {
		time.Sleep(time.Millisecond)
	}
	if err := os.RemoveAll(c.RunDir()); err != nil { // the records are lost
		t.Fatal(err)
	}
	mount := filepath.Join(c.RunDir(), "node", "volume")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := Down(context.Background(), c.Name, false); err != nil {
		t.Fatal(err)
	}
	if left := cs.processes(c.CgroupPath()); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	cs.walk(c.CgroupPath(), func(dir string) { t.Errorf("cgroup left: %s", dir) })
	if _, err := os.Stat(c.RunDir()); !os.IsNotExist(err) {
		t.Errorf("run folder left: %v", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket of a shim that neither a bundle nor a pod names is left")
	}
	if err := Down(context.Background(), c.Name, false); err != nil {
		t.Errorf("second Down: %v", err)
	}
}

// shimSocket listens where a shim of the cluster would.
func shimSocket(t *testing.T, c Cluster) (string, *os.File) {
	t.Helper()
	path := runtime.ShimSocket(c.ContainerdSocket(), "skep-"+c.Name, "ending")
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	t.Cleanup(func() { _ = os.Remove(path) })
	listening, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listening.Close() })
	return path, listening
}
