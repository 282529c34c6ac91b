// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelRelease(t *testing.T) {
	for release, ok := range map[string]bool{
		"5.10.0-30-amd64": true, "5.10": true, "6.1.0": true, "7.0-rc1": true, "10.2.1": true,
		"5.9.16": false, "4.19.0-27-amd64": false, "3.10.0-1160.el7.x86_64": false, "unknown": false,
	} {
		if err := kernelRelease(release); (err == nil) != ok {
			t.Errorf("%s: %v", release, err)
		}
	}
}

func TestEveryFaultIsReportedAtOnce(t *testing.T) {
	err := Run(func() error { return errors.New("first") }, func() error { return nil }, func() error { return errors.New("second") })
	if err == nil || err.Error() != "first\nsecond" {
		t.Errorf("got %v", err)
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	err := Binaries("sh", "no-such-program", "nor-this")()
	if err == nil || !strings.Contains(err.Error(), "no-such-program nor-this") || strings.Contains(err.Error(), "sh ") {
		t.Errorf("got %v", err)
	}
}

func TestTakenPort(t *testing.T) {
	first, err := Listen(0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.Addr().(*net.TCPAddr).Port
	if _, err := Listen(port, false); err == nil || !strings.Contains(err.Error(), "already taken") {
		t.Errorf("a taken port gives %v", err)
	}
	if err := Port(first.Addr().String())(); err == nil || !strings.Contains(err.Error(), "already taken") {
		t.Errorf("a taken port gives %v", err)
	}
	other, err := Listen(port, true)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
}

func TestSocketWithoutListener(t *testing.T) {
	if err := Socket(filepath.Join(t.TempDir(), "absent.sock"), "containerd", 0)(); err == nil || !strings.Contains(err.Error(), "containerd does not answer") {
		t.Errorf("got %v", err)
	}
}
