// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func start(t *testing.T, dir string) *Member {
	t.Helper()
	m, err := Start(t.Context(), Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func client(t *testing.T, m *Member) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Endpoint()}, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWhatWasWrittenIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	if _, err := client(t, m).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	m.Close()
	m = start(t, dir)
	defer m.Close()
	got, err := client(t, m).Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Fatalf("got %v", got.Kvs)
	}
}

func TestALongDirectoryStillGetsASocket(t *testing.T) {
	m := start(t, filepath.Join(t.TempDir(), strings.Repeat("d", 100)))
	defer m.Close()
	if _, err := client(t, m).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedFilesAreReportedAsSuch(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	if _, err := client(t, m).Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if err := os.WriteFile(filepath.Join(dir, "member-data/member/snap/db"), []byte(strings.Repeat("x", 64<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(context.Background(), Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrCorrupt) {
		t.Fatalf("got %v, want %v", err, ErrCorrupt)
	}
}

func TestASecondMemberIsRefused(t *testing.T) {
	dir := t.TempDir()
	m := start(t, dir)
	defer m.Close()
	if _, err := Start(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want %v", err, ErrInUse)
	}
	if _, err := client(t, m).Put(t.Context(), "k", "v"); err != nil {
		t.Fatalf("the first member was disturbed: %v", err)
	}
}
