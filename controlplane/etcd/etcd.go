// SPDX-License-Identifier: Apache-2.0

// Package etcd runs the cluster's store inside this process: one etcd member on a unix socket.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	memberName = "skep"
	// A single member elects itself; short ticks bring a fresh or restarted store up in some 60 ms instead of
	// about one second.
	tickMillis     = 20
	electionMillis = 100
	// startTimeout bounds replaying the log of a large store on a slow disk.
	startTimeout = 2 * time.Minute
	// maxSocketPath is what sockaddr_un holds, less its terminator.
	maxSocketPath = 107
)

var (
	// ErrCorrupt is returned by Start when the files of an existing store cannot be read.
	ErrCorrupt = errors.New("the store's files are damaged; restore a snapshot, or move the directory away to start empty")
	// ErrInUse is returned by Start when a live process has the store open.
	ErrInUse = errors.New("another process uses this store, stop it first")
)

// Config says where the store lives.
type Config struct {
	// Dir holds the write-ahead log, snapshots and the socket. It is created with mode 0700.
	Dir string
	// UnsafeNoFsync acknowledges writes before they are on disk: for throw-away clusters only.
	UnsafeNoFsync bool
	Logger        *slog.Logger
}

// Member is a running store.
type Member struct {
	etcd     *embed.Etcd
	endpoint string
	tempDir  string
	lock     *os.File
	// failed receives the first reason for which etcd gave up.
	failed chan error
	// started lets the log through: before, etcd warns about a fresh directory, and real errors are returned.
	started atomic.Bool
}

// Start opens or creates the store and returns once it serves.
//
// The socket is reachable by its owner only, since it lies in a directory of mode 0700; no TCP port is opened.
func Start(ctx context.Context, cfg Config) (*Member, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the store's directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	socket, tempDir, err := socketPath(cfg.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	m := &Member{endpoint: "unix://" + socket, tempDir: tempDir, lock: lock, failed: make(chan error, 1)}
	if err := m.start(ctx, cfg, socket); err != nil {
		m.release()
		return nil, err
	}
	return m, nil
}

// start runs etcd's own start in a goroutine, because etcd panics, on goroutines of its own, when it meets a
// file it cannot read. That arrives in m.failed and leaves the goroutine behind: the process is about to end.
func (m *Member) start(ctx context.Context, cfg Config, socket string) error {
	// What a killed process left would make the bind fail.
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	started := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				started <- fmt.Errorf("%w: %v", ErrCorrupt, p)
			}
		}()
		e, err := embed.StartEtcd(embedConfig(cfg, socket, zapLogger(cfg.Logger, &m.started, m.fail)))
		if err == nil {
			m.etcd = e
		}
		started <- err
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case err := <-started:
		if err != nil {
			return describe(err)
		}
	case err := <-m.failed:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case <-ctx.Done():
		return fmt.Errorf("wait for the store: %w", ctx.Err())
	}
	select {
	case <-m.etcd.Server.ReadyNotify():
		m.started.Store(true)
		return nil
	case err := <-m.etcd.Err():
		m.etcd.Close()
		return describe(err)
	case err := <-m.failed:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case <-ctx.Done():
		m.etcd.Close()
		return fmt.Errorf("wait for the store: %w", ctx.Err())
	}
}

// fail records why etcd gave up; only the first reason counts.
func (m *Member) fail(err error) {
	select {
	case m.failed <- err:
	default:
	}
}

// lockDir keeps a second member out at once; etcd itself would wait for ever for the database's lock.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the store's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrInUse, dir), f.Close())
	}
	return f, nil
}

func embedConfig(cfg Config, socket string, log *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = memberName
	c.Dir = filepath.Join(cfg.Dir, "member-data")
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	// A single member has no peers and so no peer listener; the advertised URL is only its identity.
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	c.InitialCluster = c.InitialClusterFromName(memberName)
	c.TickMs = tickMillis
	c.ElectionMs = electionMillis
	c.UnsafeNoFsync = cfg.UnsafeNoFsync
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return c
}

// socketPath is in dir, unless that makes the path too long for a socket address.
func socketPath(dir string) (socket, tempDir string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", fmt.Errorf("resolve %s: %w", dir, err)
	}
	if s := filepath.Join(abs, "etcd.sock"); len(s) <= maxSocketPath {
		return s, "", nil
	}
	tempDir, err = os.MkdirTemp("", "skep-etcd-")
	if err != nil {
		return "", "", fmt.Errorf("make a directory for the store's socket: %w", err)
	}
	return filepath.Join(tempDir, "etcd.sock"), tempDir, nil
}

// damage holds what etcd's errors say about files that it cannot use.
var damage = []string{"invalid database", "checksum", "crc mismatch", "file corrupt", "unexpected EOF", "slice bounds", "wal:"}

func describe(err error) error {
	for _, text := range damage {
		if strings.Contains(err.Error(), text) {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return err
}

// Endpoint is the URL for clients.
func (m *Member) Endpoint() string { return m.endpoint }

// Wait returns the reason when the store stops by itself, and nil when ctx ends first.
func (m *Member) Wait(ctx context.Context) error {
	select {
	case err := <-m.etcd.Err():
		return fmt.Errorf("the store stopped: %w", err)
	case err := <-m.failed:
		return fmt.Errorf("the store gave up: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// Close stops the store and waits until its files are closed.
func (m *Member) Close() {
	m.started.Store(false) // closing listeners makes etcd log errors
	m.etcd.Close()
	m.release()
}

func (m *Member) release() {
	// Closing drops the lock; a leftover empty directory below the temporary directory harms nobody.
	_ = m.lock.Close()
	if m.tempDir != "" {
		_ = os.RemoveAll(m.tempDir)
	}
}
