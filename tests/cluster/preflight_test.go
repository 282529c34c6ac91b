// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUpWithoutCapabilities is root in a container that was not given what BPF needs: one clear line, a failure's status, and
// nothing begun.
func TestUpWithoutCapabilities(t *testing.T) {
	other := name + "-none"
	up := command("up", "--name", other)
	type result struct {
		out []byte
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends without the capabilities that it gave up
		for _, capability := range []uintptr{unix.CAP_BPF, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_PERFMON} {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
				done <- result{err: err}
				return
			}
		}
		out, err := up.CombinedOutput()
		done <- result{out, err}
	}()
	got := <-done
	if exit, ok := got.err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
		t.Errorf("skep up ends with %v", got.err)
	}
	if out := string(got.out); !strings.Contains(out, "does not let skep load BPF programs") || !strings.Contains(out, "CAP_BPF and CAP_NET_ADMIN") {
		t.Errorf("skep up says:\n%s", out)
	}
	for _, path := range []string{"/var/lib/skep/" + other, "/run/netns/skep-" + other + "-fabric", "/sys/fs/bpf/skep/" + other} {
		if exists(path) {
			t.Errorf("%s is there", path)
		}
	}
}
