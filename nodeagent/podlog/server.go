// SPDX-License-Identifier: Apache-2.0

package podlog

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// request and response are one JSON line each on the logger's socket. After "attach" the connection carries frames.
type request struct {
	Op  string   `json:"op"`
	ID  string   `json:"id,omitempty"`
	IDs []string `json:"ids,omitempty"`
}

type response struct {
	Err string `json:"err,omitempty"`
	PID int    `json:"pid,omitempty"`
}

// SocketName and PIDName are the logger's files in its directory.
const (
	SocketName = "logger.sock"
	PIDName    = "logger.pid"
)

// RunLogger is the logger process of the node agent whose log directory is dir. It returns when ctx ends or an agent asks it to stop.
func RunLogger(ctx context.Context, dir string, logger *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	socket := filepath.Join(dir, SocketName)
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", socket, err)
	}
	// The socket must outlive a close: a successor may have put its own in the same place.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.WriteFile(filepath.Join(dir, PIDName), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		return errors.Join(fmt.Errorf("write pid file: %w", err), l.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &server{dir: dir, log: logger, stop: stop, open: map[string]*container{}, now: time.Now}
	s.adopt()
	return s.serve(ctx, l)
}

type server struct {
	dir  string
	log  *slog.Logger
	stop context.CancelFunc
	now  func() time.Time

	mu   sync.Mutex // guards open
	open map[string]*container
}

// adopt continues what an earlier logger read.
func (s *server) adopt() {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := s.openContainer(e.Name()); err != nil {
			s.log.Warn("container log not continued", "container", e.Name(), "err", err)
		}
	}
}

func (s *server) serve(ctx context.Context, l net.Listener) error {
	go func() {
		<-ctx.Done()
		l.Close()
	}()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go s.handle(ctx, conn)
	}
}

func (s *server) handle(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	var req request
	if err := json.NewDecoder(conn).Decode(&req); err != nil {
		return
	}
	reply := func(err error) bool {
		resp := response{PID: os.Getpid()}
		if err != nil {
			resp.Err = err.Error()
		}
		return json.NewEncoder(conn).Encode(resp) == nil && err == nil
	}
	switch req.Op {
	case "ping":
		reply(nil)
	case "open":
		reply(s.openContainer(req.ID))
	case "drain":
		reply(s.drain(ctx, req.ID))
	case "close":
		s.closeContainer(req.ID)
		reply(nil)
	case "retain":
		s.retain(req.IDs)
		reply(nil)
	case "stop":
		reply(nil)
		s.stop()
	case "attach":
		c := s.lookup(req.ID)
		if c == nil {
			reply(fmt.Errorf("container %s has no open output", req.ID))
			return
		}
		if reply(nil) {
			c.attach(ctx, conn)
		}
	default:
		reply(fmt.Errorf("unknown request %q", req.Op))
	}
}

func (s *server) lookup(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[id]
}

func (s *server) openContainer(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] != nil {
		return nil
	}
	stream, err := loadStream(s.dir, id)
	if err != nil {
		return err
	}
	out, err := openFile(stream, s.now)
	if err != nil {
		return err
	}
	c := &container{stream: stream, file: out, log: s.log, done: make(chan struct{}), clients: map[net.Conn]struct{}{}}
	s.open[id] = c
	pipes := pipesOf(filepath.Join(s.dir, id), stream)
	var wg sync.WaitGroup
	wg.Go(func() { c.copy(pipes.Stdout, "stdout") })
	if pipes.Stderr != "" {
		wg.Go(func() { c.copy(pipes.Stderr, "stderr") })
	}
	go func() {
		wg.Wait()
		c.finish()
	}()
	return nil
}

// drain returns once everything that the container wrote is in its file.
func (s *server) drain(ctx context.Context, id string) error {
	c := s.lookup(id)
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *server) closeContainer(id string) {
	s.mu.Lock()
	c := s.open[id]
	delete(s.open, id)
	s.mu.Unlock()
	if c != nil {
		release(s.dir, c.stream)
		return
	}
	if stream, err := loadStream(s.dir, id); err == nil {
		release(s.dir, stream)
	}
}

// retain closes every container that is not in ids.
func (s *server) retain(ids []string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(ids, e.Name()) {
			s.closeContainer(e.Name())
		}
	}
}

// container is one open log.
type container struct {
	stream Stream
	file   *file
	log    *slog.Logger
	done   chan struct{} // closed when both streams have ended and are written

	mu      sync.Mutex // guards clients; held across short writes to them, which have a deadline
	clients map[net.Conn]struct{}
}

// copy reads one pipe to its end. Opening blocks until the shim has opened the other end.
func (c *container) copy(path, stream string) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		c.log.Warn("container output not opened", "container", c.stream.ID, "err", err)
		return
	}
	defer f.Close()
	var split splitter
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			c.fanout(stream, buf[:n])
			c.write(stream, split.feed(buf[:n]))
		}
		if err != nil {
			c.write(stream, split.flush())
			return
		}
	}
}

func (c *container) write(stream string, lines []line) {
	if len(lines) == 0 {
		return
	}
	// A full disk costs log lines, never the container's progress.
	if err := c.file.write(stream, lines); err != nil {
		c.log.Warn("container output lost", "container", c.stream.ID, "err", err)
	}
}

func (c *container) finish() {
	if err := c.file.close(); err != nil {
		c.log.Warn("close container log", "container", c.stream.ID, "err", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.done)
	for conn := range c.clients {
		conn.Close()
	}
	c.clients = nil
}

// attachTimeout is how long an attached client may stall a container's output before it is dropped.
const attachTimeout = 2 * time.Second

func (c *container) fanout(stream string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.clients {
		_ = conn.SetWriteDeadline(time.Now().Add(attachTimeout))
		if err := writeFrame(conn, stream, data); err != nil {
			conn.Close()
			delete(c.clients, conn)
		}
	}
}

func (c *container) attach(ctx context.Context, conn net.Conn) {
	c.mu.Lock()
	if c.clients == nil {
		c.mu.Unlock()
		return
	}
	c.clients[conn] = struct{}{}
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	// The client says nothing; reading ends when it goes away or finish closes the connection.
	_, _ = io.Copy(io.Discard, conn)
	c.mu.Lock()
	delete(c.clients, conn)
	c.mu.Unlock()
}

// A frame is one byte for the stream, four bytes of length (big endian), data.
func writeFrame(w io.Writer, stream string, data []byte) error {
	head := make([]byte, 5, 5+len(data))
	if stream == "stderr" {
		head[0] = 1
	}
	binary.BigEndian.PutUint32(head[1:], uint32(len(data)))
	_, err := w.Write(append(head, data...))
	return err
}

func readFrames(r io.Reader, stdout, stderr io.Writer) error {
	var head [5]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		w := stdout
		if head[0] == 1 {
			w = stderr
		}
		if w == nil {
			w = io.Discard
		}
		if _, err := io.CopyN(w, r, int64(binary.BigEndian.Uint32(head[1:]))); err != nil {
			return err
		}
	}
}
