// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// outputGrace is how long the output of an ended command is still read. A process that the command left behind may
// hold the pipes open for ever.
const outputGrace = 2 * time.Second

// Exec implements Runtime. When ctx ends first, the command is killed.
func (c *Containerd) Exec(ctx context.Context, id string, req Exec) (int, error) {
	process, err := c.execProcess(ctx, id, req)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	execID := randomID()
	dir, err := os.MkdirTemp("", "skep-exec-")
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	defer os.RemoveAll(dir)
	stdin := newStdin(req.Stdin)
	streams, err := cio.NewCreator(cio.WithStreams(stdin.reader(), orDiscard(req.Stdout), orDiscard(req.Stderr)), terminal(req.Terminal), cio.WithFIFODir(dir))(execID)
	if err != nil {
		return 0, fmt.Errorf("open streams of exec in container %s: %w", id, err)
	}
	defer streams.Close()
	defer streams.Cancel()

	conf := streams.Config()
	svc := c.client.TaskService()
	if _, err := svc.Exec(ctx, &tasks.ExecProcessRequest{
		ContainerID: id, ExecID: execID, Terminal: conf.Terminal,
		Stdin: conf.Stdin, Stdout: conf.Stdout, Stderr: conf.Stderr, Spec: process,
	}); err != nil {
		return 0, native("exec in container "+id, err)
	}
	defer c.deleteExec(context.WithoutCancel(ctx), id, execID)
	if _, err := svc.Start(ctx, &tasks.StartRequest{ContainerID: id, ExecID: execID}); err != nil {
		return 0, native("exec in container "+id, err)
	}
	go c.closeExecStdin(ctx, id, execID, stdin)
	return c.waitExec(ctx, id, execID, req, streams)
}

// stdin tells when its reader has come to an end. The shim holds the pipe open itself, so closing our side says nothing to the command:
// the shim has to be told.
type stdin struct {
	io.Reader
	once  sync.Once
	ended chan struct{}
}

func newStdin(r io.Reader) *stdin {
	if r == nil {
		return nil
	}
	return &stdin{Reader: r, ended: make(chan struct{})}
}

func (s *stdin) reader() io.Reader {
	if s == nil {
		return nil
	}
	return s
}

func (s *stdin) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil {
		s.once.Do(func() { close(s.ended) })
	}
	return n, err
}

func (c *Containerd) closeExecStdin(ctx context.Context, id, execID string, s *stdin) {
	if s == nil {
		return
	}
	select {
	case <-s.ended:
		// A command that has ended already has no input to close.
		_, _ = c.client.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
	case <-ctx.Done():
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func terminal(on bool) cio.Opt {
	return func(s *cio.Streams) {
		s.Terminal = on
		if on {
			s.Stderr = nil
		}
	}
}

func (c *Containerd) waitExec(ctx context.Context, id, execID string, req Exec, streams cio.IO) (int, error) {
	resizeCtx, stop := context.WithCancel(ctx)
	defer stop()
	go c.followSize(resizeCtx, id, execID, req.Resize)

	resp, err := c.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: execID})
	if err != nil {
		return 0, native("wait for exec in container "+id, err)
	}
	drained := make(chan struct{})
	go func() {
		streams.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(outputGrace):
	case <-ctx.Done():
	}
	return int(resp.ExitStatus), nil
}

func (c *Containerd) followSize(ctx context.Context, id, execID string, sizes <-chan TerminalSize) {
	if sizes == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			// A size that arrives after the end of the process has nothing to change.
			_ = c.resize(ctx, id, execID, s)
		}
	}
}

func (c *Containerd) deleteExec(ctx context.Context, id, execID string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	svc := c.client.TaskService()
	if _, err := svc.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: execID}); err == nil {
		return
	}
	// It still runs: the caller went away. Nobody will read its output, so it ends here.
	if _, err := svc.Kill(ctx, &tasks.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(syscall.SIGKILL)}); err != nil {
		return
	}
	if _, err := svc.Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: execID}); err != nil {
		return
	}
	_, _ = svc.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: execID})
}

// execProcess is the container's own process with another command: same user, environment and limits.
func (c *Containerd) execProcess(ctx context.Context, id string, req Exec) (*anypb.Any, error) {
	if len(req.Command) == 0 {
		return nil, errors.New("exec without a command")
	}
	record, err := c.client.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, native("read container "+id, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(record.Spec.GetValue(), &spec); err != nil {
		return nil, fmt.Errorf("decode spec of container %s: %w", id, err)
	}
	process := *spec.Process
	process.Args = req.Command
	process.Terminal = req.Terminal
	process.ConsoleSize = nil
	if req.Terminal {
		process.Env = append([]string{"TERM=xterm"}, process.Env...)
	}
	any, err := typeurl.MarshalAny(&process)
	if err != nil {
		return nil, fmt.Errorf("encode exec in container %s: %w", id, err)
	}
	return &anypb.Any{TypeUrl: any.GetTypeUrl(), Value: any.GetValue()}, nil
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
