// SPDX-License-Identifier: Apache-2.0

// Package runtimetest starts a private containerd for a test: own root, state, socket and namespace, all gone at the end.
package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"skep.dev/skep/nodeagent/runtime"
)

// Image is the name of the image that BusyboxTar holds.
const Image = "docker.io/library/skep-busybox:1"

// Containerd is a private containerd.
type Containerd struct {
	Client *containerd.Client
	Socket string
	// Namespace is the default one of Client.
	Namespace string
	// Root holds everything of it.
	Root string
	cmd  *exec.Cmd
}

// Start runs a containerd for t, or skips where there is none or no right to. Leftovers of runs that died are removed.
func Start(t testing.TB) *Containerd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run containers")
	}
	bin, err := exec.LookPath("containerd")
	if err != nil {
		t.Skip("needs containerd (apt-get install containerd)")
	}
	removeDead()
	// Sockets have short paths: t.TempDir() may be too deep.
	root, err := os.MkdirTemp("", fmt.Sprintf("skep-ctrd-%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	c := &Containerd{Root: root, Socket: filepath.Join(root, "c.sock"), Namespace: filepath.Base(root)}
	t.Cleanup(func() { c.stop(t) })
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\"]\n[grpc]\naddress = %q\n",
		filepath.Join(root, "root"), filepath.Join(root, "state"), c.Socket)
	if err := os.WriteFile(filepath.Join(root, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c.cmd = exec.Command(bin, "--config", filepath.Join(root, "config.toml"))
	logFile, err := os.Create(filepath.Join(root, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	c.cmd.Stdout, c.cmd.Stderr = logFile, logFile
	// No Pdeathsig: that is the death of the thread that started it, and threads that were in another namespace do die.
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		c.Client, err = containerd.New(c.Socket, containerd.WithDefaultNamespace(c.Namespace), containerd.WithTimeout(time.Second))
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(root, "log"))
			t.Fatalf("containerd does not come up: %v\n%s", err, text)
		}
	}
}

// stop ends containerd, every shim and container of it, and unmounts what they left.
func (c *Containerd) stop(t testing.TB) {
	if c.Client != nil {
		c.Client.Close()
	}
	if c.cmd != nil && c.cmd.Process != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
	if err := sweep(c.Root); err != nil {
		t.Errorf("clean up after containerd: %v", err)
	}
}

// sweep removes a root: processes that name it on their command line (shims), the containers below them, mounts and files, and what
// they have outside of it.
func sweep(root string) error {
	for range 50 {
		if !killUsers(root) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
	if err != nil {
		return err
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, err)
		}
	}
	state := filepath.Join(runtime.ContainerdRun, "runc", filepath.Base(root)) // of its only namespace
	return errors.Join(append(errs, os.RemoveAll(state), os.RemoveAll(root))...)
}

// killUsers kills the containerd of root and its shims, with their children. It reports whether there were any.
func killUsers(root string) bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	found := false
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if !bytes.Contains(cmdline, []byte("containerd")) || !bytes.Contains(cmdline, []byte(root+"/")) {
			continue
		}
		found = true
		sockets := runtime.ShimSockets(pid)
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		for _, socket := range sockets {
			_ = os.Remove(socket)
		}
	}
	return found
}

// removeDead sweeps the roots of test processes that are no more.
func removeDead() {
	roots, _ := filepath.Glob(filepath.Join(os.TempDir(), "skep-ctrd-*"))
	for _, root := range roots {
		parts := strings.Split(filepath.Base(root), "-")
		pid, err := strconv.Atoi(parts[2])
		if err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + parts[2]); errors.Is(err, os.ErrNotExist) && pid != os.Getpid() {
			_ = sweep(root)
		}
	}
}

// BusyboxImage is an image of busybox with its usual names.
func BusyboxImage(t testing.TB) ggcr.Image {
	t.Helper()
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static (apt-get install busybox-static)")
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(busyboxLayer(bin))), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config.Env = []string{"PATH=/bin", "FROM_IMAGE=yes"}
	cfg.Config.Cmd = []string{"sleep", "3600"}
	img, err = mutate.ConfigFile(img, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func busyboxLayer(bin []byte) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range []string{"bin/", "etc/", "tmp/", "var/", "root/"} {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	file := func(name string, mode int64, data []byte) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))})
		_, _ = w.Write(data)
	}
	file("bin/busybox", 0o755, bin)
	file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\n"))
	file("etc/group", 0o644, []byte("root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n"))
	for _, cmd := range []string{"sh", "sleep", "cat", "echo", "ls", "id", "env", "true", "false", "kill", "hostname", "httpd", "nc", "wget", "test", "stat", "head", "yes", "seq", "touch", "tail", "ip", "readlink", "dd", "trap", "mount", "grep", "date", "printf"} {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + cmd, Linkname: "busybox", Mode: 0o777})
	}
	_ = w.Close()
	return buf.Bytes()
}

// BusyboxTar writes a docker archive with Image and returns its path.
func BusyboxTar(t testing.TB) string {
	t.Helper()
	tag, err := name.NewTag(Image)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := tarball.WriteToFile(path, tag, BusyboxImage(t)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Context ends with the test, or after a minute.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
