// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/ocispec"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/runtime"
)

// startError is why a container did not start, in the words of its status.
type startError struct {
	reason string
	err    error
	// retry is how long to wait before the next try; zero takes the usual back-off.
	retry time.Duration
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// start makes and starts the next attempt of a container in the background.
func (w *worker) start(ctx context.Context, action podsync.Action) {
	c := w.container(action.Container)
	spec := findContainer(w.pod, action.Container)
	ctx, cancel := context.WithCancel(ctx)
	c.Phase, c.cancel = podsync.Starting, cancel
	job := &startJob{
		w: w, pod: w.pod, spec: spec, attempt: action.Attempt, id: newID(),
	}
	w.jobs.Go(func() {
		defer cancel()
		if err := job.run(ctx); err != nil {
			w.post(func() { w.startFailed(ctx, spec.Name, job, err) })
		}
	})
}

// startJob is one attempt at starting a container.
type startJob struct {
	w       *worker
	pod     *v1.Pod
	spec    *v1.Container
	attempt int
	id      string
	image   image.Image
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// run takes the container to running. The steps that do not need each other overlap: record and root filesystem are made while
// volumes fill, the process is created while the network is made and the pod's policy is on its way; it starts only when that
// is in force.
func (j *startJob) run(ctx context.Context) error {
	a := j.w.a
	img, err := j.ensureImage(ctx)
	if err != nil {
		return err
	}
	j.image = img
	if err := wait(ctx, j.w.sandboxReady); err != nil {
		return err
	}
	if mountsSubPath(j.spec) { // found inside the volume when the specification is made
		if err := wait(ctx, j.w.volumesReady); err != nil {
			return err
		}
	}
	spec, err := j.prepare(ctx)
	if err != nil {
		return err
	}
	if err := a.logs.Open(ctx, j.id); err != nil {
		return &startError{reason: "CreateContainerError", err: err, retry: time.Second}
	}
	if err := a.runtime.Create(ctx, spec); err != nil {
		j.cleanUp(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason := "CreateContainerError"
		if errors.Is(err, runtime.ErrCannotRun) {
			reason = "RunContainerError"
		}
		return &startError{reason: reason, err: err, retry: unavailableRetry(err)}
	}
	a.event(j.pod, j.spec.Name, v1.EventTypeNormal, "Created", "Container created")
	if err := wait(ctx, j.w.policyReady); err != nil {
		j.cleanUp(ctx)
		return err
	}
	if _, err := a.runtime.Start(ctx, j.id); err != nil {
		j.cleanUp(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &startError{reason: "RunContainerError", err: err, retry: unavailableRetry(err)}
	}
	started := time.Now()
	a.event(j.pod, j.spec.Name, v1.EventTypeNormal, "Started", "Container started")
	var hookErr error
	if l := j.spec.Lifecycle; l != nil && l.PostStart != nil {
		hookErr = j.w.runHook(ctx, j.pod, j.spec, j.id, l.PostStart)
	}
	j.w.post(func() {
		j.w.started(j, spec, started)
		if hookErr != nil && j.w.ctx.Err() == nil {
			a.event(j.pod, j.spec.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed: %v", hookErr)
			j.w.stop(j.w.ctx, podsync.Action{Kind: podsync.Stop, Container: j.spec.Name, Grace: 30 * time.Second, Reason: "FailedPostStartHook"})
		}
	})
	return nil
}

func unavailableRetry(err error) time.Duration {
	if errors.Is(err, runtime.ErrUnavailable) {
		return time.Second
	}
	return 0
}

func wait(ctx context.Context, gates ...<-chan struct{}) error {
	for _, gate := range gates {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// cleanUp removes what a start that failed has made.
func (j *startJob) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := j.w.a.discard(ctx, j.id); err != nil {
		j.w.log.Warn("container that did not start not removed", "container", j.spec.Name, "err", err)
	}
}

func (w *worker) startFailed(ctx context.Context, name string, j *startJob, err error) {
	c := w.container(name)
	c.cancel = nil
	c.Phase = podsync.None
	if c.Current != nil {
		c.Phase = podsync.Exited
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) || w.deleting() {
		return
	}
	failed := &startError{reason: "CreateContainerError", err: err}
	errors.As(err, &failed)
	pause := failed.retry
	switch {
	case pause > 0:
	case failed.reason == "ErrImagePull":
		w.attempts[name]++
		pause = podsync.RetryBackoff(w.attempts[name])
	default:
		pause = startRetry
	}
	// The number of an attempt tells a user nothing, and the message would change with each.
	c.WaitingReason, c.WaitingMessage = failed.reason, strings.ReplaceAll(failed.err.Error(), j.id, name)
	c.RetryAt = time.Now().Add(pause)
	w.log.Warn("container not started", "container", name, "reason", failed.reason, "err", failed.err)
	switch failed.reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
		// ensureImage has told already.
	default:
		w.a.event(j.pod, name, v1.EventTypeWarning, "Failed", "Error: %s", c.WaitingMessage)
	}
	switch {
	case failed.reason == "ErrImagePull":
		w.backOffPull(name, j, failed.err, pause)
	case errors.Is(failed.err, runtime.ErrCannotRun):
		w.neverRan(c, j, failed.err)
	}
}

// startRetry is the pause before another try at what costs nobody anything and a user may mend at any moment.
const startRetry = 10 * time.Second

// startErrorCode is the exit code of a container whose process never came to be, as the OCI runtimes report it.
const startErrorCode = 128

// neverRan counts a start without a process as an attempt that ended, so the restart policy decides what comes next. Why it did not
// start stays visible for a moment before the back-off is shown, or until the next attempt runs.
func (w *worker) neverRan(c *container, j *startJob, cause error) {
	now := time.Now()
	reason, message := c.WaitingReason, c.WaitingMessage
	c.Last, c.Current = c.Current, nil
	c.ID, c.Attempt, c.StartedAt = j.id, j.attempt, now
	c.Image, c.ImageID, c.SpecHash = j.image.Name, j.image.ID, specHash(j.spec)
	c.WaitingReason, c.WaitingMessage, c.RetryAt = "", "", time.Time{}
	w.ended(j.spec.Name, j.id, podsync.Exit{
		ContainerID: j.id, Code: startErrorCode, Reason: "StartError", Message: cause.Error(), FinishedAt: now,
	}, make(chan struct{}))
	c.WaitingReason, c.WaitingMessage = reason, message
	if c.Backoff == 0 {
		return
	}
	time.AfterFunc(errorVisible, func() {
		w.post(func() {
			if c.ID == j.id && c.Phase == podsync.Exited && c.WaitingReason == reason {
				c.WaitingReason, c.WaitingMessage = "", ""
			}
		})
	})
}

// errorVisible is how long an error stays in a container's status before the back-off that follows from it takes its place.
const errorVisible = 2 * time.Second

// backOffPull shows ImagePullBackOff while the next pull waits; the pull's own error stays visible for a moment, as clients expect to see it.
func (w *worker) backOffPull(name string, j *startJob, cause error, pause time.Duration) {
	retryAt := w.container(name).RetryAt
	time.AfterFunc(min(pause/2, errorVisible), func() {
		w.post(func() {
			c := w.container(name)
			if c.WaitingReason != "ErrImagePull" || !c.RetryAt.Equal(retryAt) {
				return
			}
			c.WaitingReason = "ImagePullBackOff"
			c.WaitingMessage = fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %v", j.spec.Image, cause)
			w.a.event(j.pod, name, v1.EventTypeNormal, "BackOff", "Back-off pulling image %q", j.spec.Image)
			w.a.event(j.pod, name, v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		})
	})
}

// started takes note of a running container and begins to watch it.
func (w *worker) started(j *startJob, spec runtime.Spec, at time.Time) {
	c := w.container(j.spec.Name)
	c.cancel = nil
	c.Last, c.Current = c.Current, nil
	c.ID, c.Attempt, c.StartedAt = j.id, j.attempt, at
	c.Image, c.ImageID, c.SpecHash = j.image.Name, j.image.ID, spec.SpecHash
	c.WaitingReason, c.WaitingMessage, c.RetryAt = "", "", time.Time{}
	c.Unhealthy = ""
	c.stopSignal = spec.StopSignal
	w.attempts[j.spec.Name] = 0
	c.Phase = podsync.Running
	w.watch(j.pod, j.spec, c, false)
}

// prepare puts everything together that the runtime needs. Its errors are configuration errors.
func (j *startJob) prepare(ctx context.Context) (runtime.Spec, error) {
	a := j.w.a
	pod := a.withAddrs(j.pod, j.w.addrs)
	config := func(err error) error { return &startError{reason: "CreateContainerConfigError", err: err} }
	env, err := a.envBuilder().build(ctx, pod, j.spec)
	if err != nil {
		return runtime.Spec{}, config(err)
	}
	user, home, err := a.user(ctx, pod, j.spec, j.image)
	if err != nil {
		return runtime.Spec{}, &startError{reason: "CreateContainerError", err: err}
	}
	mounts, err := a.volumes.Mounts(pod, j.spec, func(s string) string { return expand(s, env.values) })
	if err != nil {
		return runtime.Spec{}, config(err)
	}
	own, err := j.ownMounts(pod, mounts)
	if err != nil {
		return runtime.Spec{}, config(err)
	}
	in := ocispec.Input{
		Pod: pod, Container: j.spec, Image: j.image.Config, User: user,
		Env:     processEnv(j.image.Config.Env, env, hostname(pod, a.cfg.NodeName), home, j.spec.TTY),
		Command: expandAll(j.spec.Command, env.values), Args: expandAll(j.spec.Args, env.values),
		Namespaces: j.namespaces(pod), Mounts: append(own, mounts...), CgroupsPath: a.podCgroup(pod) + "/" + j.id,
		OOMScoreAdj: a.machine.oomScore(pod, j.spec), Devices: a.machine.devices(j.spec), Terminal: j.spec.TTY,
		Seccomp: seccomp.DefaultProfile,
	}
	oci, err := ocispec.Build(in)
	if err != nil {
		return runtime.Spec{}, config(err)
	}
	ocispec.Restrict(oci, a.machine.bounding)
	return j.finish(oci)
}

func (j *startJob) finish(oci *specs.Spec) (runtime.Spec, error) {
	a := j.w.a
	pipes, err := podlog.Prepare(a.logs.Dir(), podlog.Stream{
		ID: j.id, Path: podlog.Path(a.cfg.LogRoot, j.pod.Namespace, j.pod.Name, string(j.pod.UID), j.spec.Name, j.attempt),
		Terminal: j.spec.TTY, Stdin: j.spec.Stdin,
	})
	if err != nil {
		return runtime.Spec{}, &startError{reason: "CreateContainerError", err: err}
	}
	return runtime.Spec{
		ID: j.id,
		Identity: runtime.Identity{
			PodUID: string(j.pod.UID), PodNamespace: j.pod.Namespace, PodName: j.pod.Name,
			Container: j.spec.Name, Attempt: j.attempt, SpecHash: specHash(j.spec),
		},
		ImageName: j.image.Name, ImageID: j.image.ID, ChainID: j.image.ChainID, StopSignal: j.image.Config.StopSignal,
		Await: j.awaitCreate, OCI: oci, Stdin: pipes.Stdin, Stdout: pipes.Stdout, Stderr: pipes.Stderr, Terminal: j.spec.TTY,
	}, nil
}

// awaitCreate returns when everything is there that creating the process touches.
func (j *startJob) awaitCreate(ctx context.Context) error {
	if sc := j.pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		// Some name a device.
		if err := wait(ctx, j.w.networkReady); err != nil {
			return err
		}
	}
	return wait(ctx, j.w.volumesReady)
}

func mountsSubPath(c *v1.Container) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.SubPath != "" || m.SubPathExpr != "" })
}

func (j *startJob) namespaces(pod *v1.Pod) ocispec.Namespaces {
	box := j.w.a.sandboxOf(string(pod.UID))
	ns := ocispec.Namespaces{Network: j.w.netns, IPC: box.ipc(), UTS: box.uts()}
	if pod.Spec.HostIPC {
		ns.IPC = ""
	}
	if pod.Spec.HostNetwork {
		// Named, not left out: containerd's own namespace need not be the node's, and in a local cluster is that of the machine.
		ns.Network, ns.UTS = ownNetwork(), ""
	}
	return ns
}

// ownNetwork is the path of the node's network namespace, in which the agent runs.
func ownNetwork() string { return fmt.Sprintf("/proc/%d/ns/net", os.Getpid()) }

// ownMounts are the files that every container gets unless a volume takes their place.
func (j *startJob) ownMounts(pod *v1.Pod, volumes []specs.Mount) ([]specs.Mount, error) {
	a := j.w.a
	etc := filepath.Join(a.volumes.PodDir(string(pod.UID)), "etc")
	shm := a.sandboxOf(string(pod.UID)).shm()
	if pod.Spec.HostIPC {
		shm = "/dev/shm"
	}
	message, err := a.terminationFile(pod, j.spec.Name, j.id)
	if err != nil {
		return nil, err
	}
	path := j.spec.TerminationMessagePath
	if path == "" {
		path = v1.TerminationMessagePathDefault
	}
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "rprivate", "rw"}}
	}
	all := []specs.Mount{
		bind(filepath.Join(etc, "hosts"), "/etc/hosts"), bind(filepath.Join(etc, "hostname"), "/etc/hostname"),
		bind(filepath.Join(etc, "resolv.conf"), "/etc/resolv.conf"), bind(shm, "/dev/shm"), bind(message, path),
	}
	var out []specs.Mount
	for _, m := range all {
		taken := false
		for _, v := range volumes {
			taken = taken || v.Destination == m.Destination
		}
		if !taken {
			out = append(out, m)
		}
	}
	return out, nil
}

// terminationFile is where a container leaves its last words.
func (a *agent) terminationFile(pod *v1.Pod, name, id string) (string, error) {
	dir := filepath.Join(a.volumes.PodDir(string(pod.UID)), "containers", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	path := filepath.Join(dir, id[:12])
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	// Any user of the container may write to it.
	return path, errors.Join(f.Chmod(0o666), f.Close())
}

// user finds out who the container runs as.
func (a *agent) user(ctx context.Context, pod *v1.Pod, c *v1.Container, img image.Image) (ocispec.User, string, error) {
	var uid, gid *int64
	var groups []int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		uid, gid, groups = sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups
		if sc.FSGroup != nil {
			groups = append(append([]int64{}, groups...), *sc.FSGroup)
		}
	}
	if sc := c.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			uid = sc.RunAsUser
		}
		if sc.RunAsGroup != nil {
			gid = sc.RunAsGroup
		}
	}
	spec := img.Config.User
	if uid != nil {
		spec = strconv.FormatInt(*uid, 10)
	}
	passwd, group, err := a.images.Accounts(ctx, img)
	if err != nil {
		return ocispec.User{}, "", err
	}
	account, err := image.ResolveUser(spec, passwd, group)
	if err != nil {
		return ocispec.User{}, "", err
	}
	u := ocispec.User{UID: account.UID, GID: account.GID, AdditionalGIDs: account.Groups}
	if gid != nil {
		u.GID = uint32(*gid)
	}
	for _, g := range groups {
		u.AdditionalGIDs = append(u.AdditionalGIDs, uint32(g))
	}
	return u, account.Home, nil
}

// processEnv is the whole environment: the image's, the container's on top, and what every process may expect.
func processEnv(img []string, env *environment, host, home string, tty bool) []string {
	values := map[string]string{}
	var names []string
	set := func(name, value string, override bool) {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		} else if !override {
			return
		}
		values[name] = value
	}
	set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", true)
	set("HOSTNAME", host, true)
	for _, kv := range img {
		name, value, _ := strings.Cut(kv, "=")
		set(name, value, true)
	}
	for _, name := range env.names {
		set(name, env.values[name], true)
	}
	if home != "" {
		set("HOME", home, false)
	}
	if tty {
		set("TERM", "xterm", false)
	}
	out := make([]string, 0, len(names))
	for _, name := range names {
		out = append(out, name+"="+values[name])
	}
	return out
}

// specHash identifies a container definition. Resources may change without a restart and are left out.
func specHash(c *v1.Container) string {
	c = c.DeepCopy()
	c.Resources = v1.ResourceRequirements{}
	data, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	h := fnv.New64a()
	_, _ = h.Write(data)
	return strconv.FormatUint(h.Sum64(), 16)
}
