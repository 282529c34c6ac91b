// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childVariable makes the test binary check for BPF and end as a command would.
const childVariable = "SKEP_TEST_PREFLIGHT_BPF"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	if err := Run(Root, BPF); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestBPFNeedsCapabilities is root in a container that was not given what BPF needs.
func TestBPFNeedsCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to have capabilities to give up")
	}
	if out, err := checkBPF(t); err != nil || out != "" {
		t.Errorf("with every capability: %v\n%s", err, out)
	}
	out, err := checkBPF(t, unix.CAP_BPF, unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
		t.Errorf("without capabilities: %v", err)
	}
	for _, want := range []string{"does not let skep load BPF programs", "operation not permitted", "CAP_BPF and CAP_NET_ADMIN"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in: %s", want, out)
		}
	}
	if strings.Count(out, "\n") != 1 {
		t.Errorf("one fault is not one line: %s", out)
	}
}

// checkBPF runs the check in a process that can never have some capabilities. The thread that forks it gives them up and ends.
func checkBPF(t *testing.T, without ...uintptr) (string, error) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"=1")
	var out strings.Builder
	child.Stdout, child.Stderr = &out, &out
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not used again
		for _, capability := range without {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
				done <- fmt.Errorf("give up capability %d: %w", capability, err)
				return
			}
		}
		done <- child.Run()
	}()
	err := <-done
	return out.String(), err
}
