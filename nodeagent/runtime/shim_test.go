// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

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
