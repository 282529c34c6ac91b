// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestOnlyDeadSocketsAreRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shim")
	if err := RemoveDeadSocket(path); err != nil {
		t.Errorf("where there is none: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as if killed
	if err := RemoveDeadSocket(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("the socket of somebody who listens was removed")
	}
	l.Close()
	if err := RemoveDeadSocket(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket of somebody who has gone is still there")
	}
}

func TestShimSocketsOfAProcess(t *testing.T) {
	path := ShimSocket(t.TempDir(), "skep-test", t.Name())
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		t.Skipf("needs root to make what containerd makes: %v", err)
	}
	if got := ShimSockets(os.Getpid()); len(got) > 0 {
		t.Errorf("before there is one: %v", got)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if got := ShimSockets(os.Getpid()); !slices.Equal(got, []string{path}) {
		t.Errorf("got %v, want %s", got, path)
	}
}
