// SPDX-License-Identifier: Apache-2.0

package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"skep.dev/skep/nodeagent/cgroup"
	"skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/runtime"
	"skep.dev/skep/nodeagent/runtime/runtimetest"
)

type rig struct {
	rt     *runtime.Containerd
	img    image.Image
	logs   *podlog.Client
	dir    string
	parent string
	ctr    *runtimetest.Containerd
}

func newRig(t *testing.T) *rig {
	t.Helper()
	parent := fmt.Sprintf("/skep-test-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	t.Cleanup(func() {
		if tree, err := cgroup.Open(); err == nil {
			if err := tree.Remove(parent); err != nil {
				t.Errorf("remove control groups: %v", err)
			}
		}
	})
	c := runtimetest.Start(t)
	ctx := runtimetest.Context(t)
	if _, err := image.Import(ctx, c.Client, runtimetest.BusyboxTar(t)); err != nil {
		t.Fatal(err)
	}
	img, err := image.NewStore(c.Client).Get(ctx, runtimetest.Image)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{rt: runtime.New(c.Client, "node"), img: img, dir: t.TempDir(), ctr: c, parent: parent}
	logDir := filepath.Join(r.dir, "log")
	logCtx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := podlog.RunLogger(logCtx, logDir, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("logger: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	r.logs = podlog.NewClient(logDir, "", slog.New(slog.DiscardHandler))
	for r.logs.Ensure(ctx) != nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	return r
}

func (r *rig) spec(t *testing.T, id, pod string, args ...string) runtime.Spec {
	t.Helper()
	s := podlog.Stream{ID: id, Path: filepath.Join(r.dir, "out", id+".log")}
	pipes, err := podlog.Prepare(r.logs.Dir(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.logs.Open(runtimetest.Context(t), id); err != nil {
		t.Fatal(err)
	}
	caps := []string{"CAP_KILL"}
	return runtime.Spec{
		ID: id, Identity: runtime.Identity{PodUID: pod, PodNamespace: "default", PodName: "p", Container: "c-" + id, Attempt: 3, SpecHash: "h"},
		ImageName: r.img.Name, ImageID: r.img.ID, ChainID: r.img.ChainID, Stdout: pipes.Stdout, Stderr: pipes.Stderr,
		OCI: &specs.Spec{
			Version: "1.0.2", Root: &specs.Root{Path: "rootfs"},
			Process: &specs.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
			Mounts: []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc"},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}},
			},
			Linux: &specs.Linux{
				CgroupsPath: r.parent + "/" + id,
				Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}},
			},
		},
	}
}

func (r *rig) start(t *testing.T, id, pod string, args ...string) {
	t.Helper()
	ctx := runtimetest.Context(t)
	if err := r.rt.Create(ctx, r.spec(t, id, pod, args...)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.rt.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) log(t *testing.T, id string) string {
	t.Helper()
	if err := r.logs.Drain(runtimetest.Context(t), id); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(r.dir, "out", id+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestContainerd(t *testing.T) {
	r := newRig(t)
	ctx := runtimetest.Context(t)

	t.Run("output of both streams is in the log when the end is known", func(t *testing.T) {
		r.start(t, "out", "pod1", "sh", "-c", "echo one; echo two >&2; printf three; exit 7")
		exit, err := r.rt.Wait(ctx, "out")
		if err != nil || exit.Code != 7 {
			t.Fatalf("exit %+v, %v", exit, err)
		}
		got := r.log(t, "out")
		for _, want := range []string{" stdout F one\n", " stderr F two\n", " stdout P three\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("log lacks %q:\n%s", want, got)
			}
		}
	})

	t.Run("exec runs in the container and returns output and code", func(t *testing.T) {
		r.start(t, "long", "pod2", "sleep", "600")
		var out, errOut bytes.Buffer
		code, err := r.rt.Exec(ctx, "long", runtime.Exec{Command: []string{"sh", "-c", "cat; echo err >&2; exit 3"}, Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errOut})
		if err != nil || code != 3 || out.String() != "in" || errOut.String() != "err\n" {
			t.Fatalf("code %d, %v, out %q, err %q", code, err, out.String(), errOut.String())
		}
		if _, err := r.rt.Exec(ctx, "absent", runtime.Exec{Command: []string{"true"}}); !errors.Is(err, runtime.ErrNotFound) {
			t.Fatalf("exec in an absent container: %v", err)
		}
	})

	t.Run("an exec that is given up is killed", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if _, err := r.rt.Exec(short, "long", runtime.Exec{Command: []string{"sleep", "599"}, Stdout: io.Discard}); err == nil {
			t.Fatal("no error")
		}
		var out bytes.Buffer
		if _, err := r.rt.Exec(ctx, "long", runtime.Exec{Command: []string{"sh", "-c", "cat /proc/*/cmdline | grep -c 599 || true"}, Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		// The searching shell itself names the number once.
		if got := strings.TrimSpace(out.String()); got != "1" && got != "0" {
			t.Fatalf("the command lives on: %s", got)
		}
	})

	t.Run("containers of one pod share a shim", func(t *testing.T) {
		r.start(t, "mate", "pod2", "sleep", "600")
		if n := shims(t, r.ctr.Root, 2); n != 2 {
			t.Fatalf("%d shims for two pods", n)
		}
	})

	t.Run("a new agent finds what an old one started", func(t *testing.T) {
		fresh := runtime.New(r.ctr.Client, "node")
		list, err := fresh.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		states := map[string]runtime.State{}
		for _, c := range list {
			states[c.ID] = c.State
			if c.Attempt != 3 || c.PodName != "p" || c.SpecHash != "h" || c.CgroupsPath == "" {
				t.Errorf("identity lost: %+v", c)
			}
		}
		if states["out"] != runtime.Exited || states["long"] != runtime.Running || states["mate"] != runtime.Running {
			t.Fatalf("states %v", states)
		}
		if list, err := runtime.New(r.ctr.Client, "other").List(ctx); err != nil || len(list) != 0 {
			t.Fatalf("another node's agent sees %v, %v", list, err)
		}
	})

	t.Run("kill ends it and delete leaves nothing", func(t *testing.T) {
		if err := r.rt.Kill(ctx, "long", syscall.SIGKILL, true); err != nil {
			t.Fatal(err)
		}
		if exit, err := r.rt.Wait(ctx, "long"); err != nil || exit.Code != 137 {
			t.Fatalf("exit %+v, %v", exit, err)
		}
		for _, id := range []string{"out", "long", "mate", "never-was"} {
			if err := r.rt.Delete(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
		if list, err := r.rt.List(ctx); err != nil || len(list) != 0 {
			t.Fatalf("left: %v, %v", list, err)
		}
		if n := shims(t, r.ctr.Root, 0); n != 0 {
			t.Fatalf("%d shims left", n)
		}
	})

	t.Run("a command that is not there is refused with its name", func(t *testing.T) {
		spec := r.spec(t, "bad", "pod3", "no-such-command")
		err := r.rt.Create(ctx, spec)
		if err == nil || !strings.Contains(err.Error(), "no-such-command") {
			t.Fatalf("error %v", err)
		}
		if list, err := r.rt.List(ctx); err != nil || len(list) != 0 {
			t.Fatalf("left: %v, %v", list, err)
		}
	})
}

// shims counts the shims of a containerd, waiting a while for the number to become want: they end by themselves.
func shims(t *testing.T, root string, want int) int {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		n := 0
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			data, _ := os.ReadFile(p)
			args := strings.Split(string(data), "\x00")
			if strings.Contains(args[0], "containerd-shim") && strings.Contains(string(data), root+"/") {
				n++
			}
		}
		if n == want || time.Now().After(deadline) {
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAShimThatDoesNotEndIsKilled(t *testing.T) {
	r := newRig(t)
	socket := runtime.ShimSocket(r.ctr.Socket, r.ctr.Namespace, "pod-lost")
	if err := runtime.EndShim(runtimetest.Context(t), socket); err != nil {
		t.Errorf("where there is none: %v", err)
	}
	r.start(t, "lost", "pod-lost", "sleep", "100")
	if _, err := os.Lstat(socket); err != nil {
		t.Fatalf("the shim does not listen where it is expected to: %v", err)
	}
	if err := runtime.EndShim(runtimetest.Context(t), socket); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("its socket is still there")
	}
	if n := shims(t, r.ctr.Root, 0); n != 0 {
		t.Errorf("%d shims are still there", n)
	}
}

func TestTheSocketOfAShimThatWasKilledIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shim")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as if killed
	l.Close()
	if err := runtime.EndShim(t.Context(), path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("it is still there")
	}
}
