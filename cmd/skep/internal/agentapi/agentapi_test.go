// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skep.dev/skep/datapath"
)

type source struct {
	status datapath.Status
	err    error
}

func (s source) Status(context.Context) (datapath.Status, error) { return s.status, s.err }

func serve(t *testing.T, s StatusSource) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "node", "agent.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, socket, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
	}
}

func TestStatusArrivesWhole(t *testing.T) {
	want := datapath.Status{
		Programs: []datapath.Program{{Name: "skep_tc_pod", Hook: "tc ingress", Target: "lxc1", ID: 7}},
		Drops:    []datapath.Counter{{Name: "POLICY", Packets: 3, Bytes: 180}},
	}
	got, err := Status(context.Background(), serve(t, source{status: want}))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestErrorOfTheDatapathReachesTheUser(t *testing.T) {
	_, err := Status(context.Background(), serve(t, source{err: errors.New("map is gone")}))
	if err == nil || !strings.Contains(err.Error(), "map is gone") {
		t.Errorf("got %v", err)
	}
}

func TestSocketIsForRootOnly(t *testing.T) {
	info, err := os.Stat(serve(t, source{}))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v lets others in", info.Mode())
	}
}
