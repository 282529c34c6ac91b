// SPDX-License-Identifier: Apache-2.0

package podlog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Command is the hidden subcommand under which an executable runs RunLogger; its only argument is the directory.
const Command = "container-log"

// Client talks to the logger of one directory and keeps one running.
type Client struct {
	dir        string
	executable string
	log        *slog.Logger

	startMu sync.Mutex // one start at a time; held while a logger comes up
}

// NewClient returns a client for the logger of dir. executable, run as "executable container-log DIR", is the logger; empty means that
// somebody else runs it.
func NewClient(dir, executable string, logger *slog.Logger) *Client {
	return &Client{dir: dir, executable: executable, log: logger}
}

// Dir is where Prepare makes pipes for this logger.
func (c *Client) Dir() string { return c.dir }

// Ensure makes a logger of this executable run: one that is there stays, an older build is replaced. What containers write
// in between waits in their pipes.
func (c *Client) Ensure(ctx context.Context) error {
	pid, err := c.call(ctx, request{Op: "ping"})
	if err == nil && c.sameBuild(pid) {
		return nil
	}
	if err == nil {
		if _, err := c.call(ctx, request{Op: "stop"}); err != nil {
			c.log.Warn("older logger does not stop", "err", err)
		}
	}
	return c.start(ctx)
}

func (c *Client) sameBuild(pid int) bool {
	if c.executable == "" {
		return true
	}
	running, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/exe")
	if err != nil {
		return false
	}
	own, err := os.Stat(c.executable)
	return err == nil && os.SameFile(running, own)
}

func (c *Client) start(ctx context.Context) error {
	c.startMu.Lock()
	defer c.startMu.Unlock()
	if pid, err := c.call(ctx, request{Op: "ping"}); err == nil && c.sameBuild(pid) {
		return nil
	}
	if c.executable == "" {
		return errors.New("the container logger does not answer")
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", c.dir, err)
	}
	cmd := exec.Command(c.executable, Command, c.dir)
	// Its own session: signals meant for the agent's do not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), "GOGC=25", "GOMAXPROCS=2")
	out, err := os.OpenFile(filepath.Join(c.dir, "logger.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start container logger: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start container logger: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return c.await(ctx, cmd.Process.Pid, exited)
}

// await polls the socket of a logger that was just started; nothing announces that a socket listens.
func (c *Client) await(ctx context.Context, pid int, exited <-chan struct{}) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		if got, err := c.call(ctx, request{Op: "ping"}); err == nil && got == pid {
			return nil
		}
		select {
		case <-tick.C:
		case <-exited:
			return fmt.Errorf("container logger ended at once, see %s", filepath.Join(c.dir, "logger.log"))
		case <-deadline:
			return errors.New("container logger did not come up within 10 seconds")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Supervise keeps a logger running until ctx ends: it holds a connection and starts a new logger when that breaks.
func (c *Client) Supervise(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.Ensure(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("container logger not running", "err", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		c.watch(ctx)
	}
}

// watch blocks while the logger lives: a connection without a request stays open until its process ends.
func (c *Client) watch(ctx context.Context) {
	conn, err := c.dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_, _ = conn.Read(make([]byte, 1))
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join(c.dir, SocketName))
}

func (c *Client) call(ctx context.Context, req request) (int, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return 0, err
	}
	var resp response
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return 0, err
	}
	if resp.Err != "" {
		return 0, errors.New(resp.Err)
	}
	return resp.PID, nil
}

// retry runs a request, starting the logger when it is not there.
func (c *Client) retry(ctx context.Context, req request) error {
	_, err := c.call(ctx, req)
	var opErr *net.OpError
	if err == nil || (!errors.As(err, &opErr) && !errors.Is(err, io.EOF)) {
		return err
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	_, err = c.call(ctx, req)
	return err
}

// Open makes the logger read the pipes that Prepare made for id. It must come before the container is created: the
// shim waits for a reader.
func (c *Client) Open(ctx context.Context, id string) error {
	if err := c.retry(ctx, request{Op: "open", ID: id}); err != nil {
		return fmt.Errorf("open log of container %s: %w", id, err)
	}
	return nil
}

// Drain returns when all output of an ended container is in its file, or ctx ends.
func (c *Client) Drain(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{Op: "drain", ID: id})
	return err
}

// Close forgets a container's pipes. The log file stays.
func (c *Client) Close(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{Op: "close", ID: id})
	return err
}

// Retain closes everything but ids.
func (c *Client) Retain(ctx context.Context, ids []string) error {
	return c.retry(ctx, request{Op: "retain", IDs: ids})
}

// Stop ends the logger process.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: "stop"})
	return err
}

// Attach copies a container's output from now on until it ends or ctx does.
func (c *Client) Attach(ctx context.Context, id string, stdout, stderr io.Writer) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(request{Op: "attach", ID: id}); err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	in := bufio.NewReader(conn)
	answer, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	var resp response
	if err := json.Unmarshal(answer, &resp); err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	if resp.Err != "" {
		return errors.New(resp.Err)
	}
	err = readFrames(in, stdout, stderr)
	if ctx.Err() != nil {
		return nil
	}
	return err
}
