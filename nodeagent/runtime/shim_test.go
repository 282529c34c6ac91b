// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"net"
	"os"
	"path/filepath"
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
