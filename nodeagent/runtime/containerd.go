// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	runtimeName = "io.containerd.runc.v2"
	// Snapshotter is the one that every image is unpacked for.
	Snapshotter = "overlayfs"
	// GroupAnnotation makes containers with one value share a shim.
	GroupAnnotation = "io.containerd.runc.v2.group"
)

// Containerd is Runtime on a containerd client whose default namespace belongs to this node.
//
// It calls the services directly instead of the client's Container and Task types: those fetch the record again for nearly
// every step, and starting a pod is a matter of milliseconds.
type Containerd struct {
	client *containerd.Client
	node   string
}

var _ Runtime = (*Containerd)(nil)

// New returns a Runtime on client. The client stays the caller's to close.
func New(client *containerd.Client, node string) *Containerd {
	return &Containerd{client: client, node: node}
}

// Version implements Runtime.
func (c *Containerd) Version(ctx context.Context) (string, error) {
	v, err := c.client.Version(ctx)
	if err != nil {
		return "", native("ask containerd for its version", err)
	}
	return v.Version, nil
}

// List implements Runtime.
func (c *Containerd) List(ctx context.Context) ([]Container, error) {
	records, err := c.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", labelNode, c.node))
	if err != nil {
		return nil, native("list containers", err)
	}
	resp, err := c.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, native("list tasks", err)
	}
	processes := make(map[string]*task.Process, len(resp.Tasks))
	for _, t := range resp.Tasks {
		processes[t.ID] = t
	}
	var out []Container
	for _, r := range records {
		ctr, ok := fromLabels(r.ID, r.Labels)
		if !ok {
			continue
		}
		ctr.CreatedAt = r.CreatedAt
		ctr.CgroupsPath = cgroupsPath(r.Spec)
		applyProcess(&ctr, processes[r.ID])
		out = append(out, ctr)
	}
	return out, nil
}

func cgroupsPath(any typeurl.Any) string {
	var s specs.Spec
	if any == nil || json.Unmarshal(any.GetValue(), &s) != nil || s.Linux == nil {
		return ""
	}
	return s.Linux.CgroupsPath
}

func applyProcess(ctr *Container, p *task.Process) {
	if p == nil {
		return
	}
	ctr.PID = p.Pid
	switch p.Status {
	case task.Status_CREATED:
		ctr.State = Created
	case task.Status_STOPPED:
		ctr.State = Exited
		ctr.ExitCode = int(p.ExitStatus)
		ctr.ExitedAt = p.ExitedAt.AsTime()
	case task.Status_UNKNOWN:
		// The shim is gone: nobody can say how the process ended.
		ctr.State = Missing
	default:
		ctr.State = Running
	}
}

// Create implements Runtime.
func (c *Containerd) Create(ctx context.Context, spec Spec) error {
	spec.OCI.Annotations = withAnnotation(spec.OCI.Annotations, GroupAnnotation, spec.PodUID)
	oci, err := typeurl.MarshalAny(spec.OCI)
	if err != nil {
		return fmt.Errorf("encode spec of container %s: %w", spec.ID, err)
	}
	record := containers.Container{
		ID:          spec.ID,
		Labels:      spec.labels(c.node),
		Image:       spec.ImageName,
		Runtime:     containers.RuntimeInfo{Name: runtimeName},
		Spec:        oci,
		Snapshotter: Snapshotter,
		SnapshotKey: spec.ID,
	}
	if _, err := c.client.ContainerService().Create(ctx, record); err != nil {
		return native("create record of container "+spec.ID, err)
	}
	// The record comes before the snapshot that it names, so that containerd's garbage collector never sees the snapshot unused.
	mounts, err := c.client.SnapshotService(Snapshotter).Prepare(ctx, spec.ID, spec.ChainID)
	if err != nil {
		return errors.Join(native("prepare root filesystem of container "+spec.ID, err), c.Delete(context.WithoutCancel(ctx), spec.ID))
	}
	if spec.Await != nil {
		if err := spec.Await(ctx); err != nil {
			return errors.Join(err, c.Delete(context.WithoutCancel(ctx), spec.ID))
		}
	}
	if err := c.createTask(ctx, spec, mounts); err != nil {
		if derr := c.Delete(context.WithoutCancel(ctx), spec.ID); derr != nil {
			return errors.Join(processError(ctx, "create", spec.ID, err), derr)
		}
		return processError(ctx, "create", spec.ID, err)
	}
	return nil
}

// cannotRunError is ErrCannotRun in the words of the OCI runtime, which users know and search for.
type cannotRunError struct{ text string }

func (e cannotRunError) Error() string        { return e.text }
func (e cannotRunError) Is(target error) bool { return target == ErrCannotRun }

// processError tells an error of the process itself from one of the runtime or of whoever waits for it.
func processError(ctx context.Context, verb, id string, err error) error {
	// containerd gives no code for it; a shim that did not start, for one, is not the container's fault and worth another try.
	at := strings.Index(message(err), "OCI runtime")
	if ctx.Err() != nil || at < 0 {
		return native(verb+" container "+id, err)
	}
	// containerd ends its messages with the class of the error.
	return cannotRunError{strings.TrimSuffix(message(err)[at:], ": unknown")}
}

func withAnnotation(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = make(map[string]string, 1)
	}
	m[k] = v
	return m
}

func (c *Containerd) createTask(ctx context.Context, spec Spec, mounts []mount.Mount) error {
	opts, err := typeurl.MarshalAny(&runcoptions.Options{})
	if err != nil {
		return err
	}
	req := &tasks.CreateTaskRequest{
		ContainerID: spec.ID,
		Stdin:       spec.Stdin,
		Stdout:      spec.Stdout,
		Stderr:      spec.Stderr,
		Terminal:    spec.Terminal,
		Options:     &anypb.Any{TypeUrl: opts.GetTypeUrl(), Value: opts.GetValue()},
	}
	for _, m := range mounts {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	_, err = c.client.TaskService().Create(ctx, req)
	return err
}

// Start implements Runtime.
func (c *Containerd) Start(ctx context.Context, id string) (uint32, error) {
	resp, err := c.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id})
	if err != nil {
		return 0, processError(ctx, "start", id, err)
	}
	return resp.Pid, nil
}

// Wait implements Runtime.
func (c *Containerd) Wait(ctx context.Context, id string) (Exit, error) {
	resp, err := c.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id})
	if err != nil {
		return Exit{}, native("wait for container "+id, err)
	}
	return Exit{Code: int(resp.ExitStatus), At: resp.ExitedAt.AsTime()}, nil
}

// Kill implements Runtime.
func (c *Containerd) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	_, err := c.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig), All: all})
	if err = native("signal container "+id, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Delete implements Runtime.
func (c *Containerd) Delete(ctx context.Context, id string) error {
	if err := c.deleteTask(ctx, id); err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error {
		err := native("remove root filesystem of container "+id, c.client.SnapshotService(Snapshotter).Remove(ctx, id))
		return ignoreNotFound(err)
	})
	group.Go(func() error {
		return ignoreNotFound(native("remove record of container "+id, c.client.ContainerService().Delete(ctx, id)))
	})
	return group.Wait()
}

// deleteTask removes the container's process. One that still runs is killed first; the kernel may take its time, so Wait comes between.
func (c *Containerd) deleteTask(ctx context.Context, id string) error {
	_, err := c.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	err = native("delete container "+id, err)
	if err == nil || errors.Is(err, ErrNotFound) {
		return nil
	}
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	if kerr := c.Kill(ctx, id, syscall.SIGKILL, true); kerr != nil {
		return errors.Join(err, kerr)
	}
	waitCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, werr := c.Wait(waitCtx, id); werr != nil && !errors.Is(werr, ErrNotFound) {
		return errors.Join(err, werr)
	}
	_, err = c.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	return ignoreNotFound(native("delete container "+id, err))
}

// Resize implements Runtime.
func (c *Containerd) Resize(ctx context.Context, id string, size TerminalSize) error {
	return c.resize(ctx, id, "", size)
}

func (c *Containerd) resize(ctx context.Context, id, execID string, size TerminalSize) error {
	_, err := c.client.TaskService().ResizePty(ctx, &tasks.ResizePtyRequest{
		ContainerID: id, ExecID: execID, Width: uint32(size.Width), Height: uint32(size.Height),
	})
	return native("resize terminal of container "+id, err)
}

// CloseStdin implements Runtime.
func (c *Containerd) CloseStdin(ctx context.Context, id string) error {
	_, err := c.client.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, Stdin: true})
	return native("close standard input of container "+id, err)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// native turns an error of the wire into one of this package's vocabulary.
func native(what string, err error) error {
	if err == nil {
		return nil
	}
	if status.Code(err) == codes.Unavailable || errdefs.IsUnavailable(err) {
		return fmt.Errorf("%s: %w: %s", what, ErrUnavailable, message(err))
	}
	plain := errgrpc.ToNative(err)
	if errdefs.IsNotFound(plain) || errdefs.IsNotFound(err) {
		return fmt.Errorf("%s: %w: %s", what, ErrNotFound, message(err))
	}
	if errors.Is(plain, context.Canceled) || errors.Is(plain, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, plain)
	}
	return fmt.Errorf("%s: %s", what, message(err))
}

// message is the error's text without "rpc error: code = …", which tells a user nothing.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
