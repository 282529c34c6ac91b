// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"syscall"
	"time"

	"github.com/moby/sys/signal"
	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/podsync"
)

// minStopGrace is what a process gets to end by itself when its preStop hook used the grace period up.
const minStopGrace = 2 * time.Second

// stop ends a container in the background: preStop hook, stop signal, grace period, kill. The end itself is noticed by watch.
func (w *worker) stop(ctx context.Context, action podsync.Action) {
	c := w.container(action.Container)
	c.Phase = podsync.Stopping
	if c.unprobe != nil && w.deleting() {
		c.unprobe()
	}
	spec := findContainer(w.pod, action.Container)
	pod, id, exited, sig := w.pod, c.ID, c.exited, stopSignal(spec, c.stopSignal)
	w.a.event(pod, spec.Name, v1.EventTypeNormal, "Killing", "%s", action.Reason)
	w.jobs.Go(func() {
		w.end(ctx, pod, spec, id, action.Grace, sig, exited)
	})
}

func stopSignal(spec *v1.Container, img string) syscall.Signal {
	name := img
	if spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		name = string(*spec.Lifecycle.StopSignal)
	}
	if sig, err := signal.ParseSignal(name); name != "" && err == nil {
		return sig
	}
	return syscall.SIGTERM
}

func (w *worker) end(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string, grace time.Duration, sig syscall.Signal, exited <-chan struct{}) {
	deadline := time.Now().Add(grace)
	if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		w.preStop(ctx, pod, spec, id, grace, exited)
	}
	kill := func(sig syscall.Signal, all bool) {
		err := retry(ctx, 200*time.Millisecond, 2*time.Second, func() error { return w.a.runtime.Kill(ctx, id, sig, all) }, func(err error) {
			w.log.Warn("container not signalled, will retry", "container", spec.Name, "err", err)
		})
		_ = err // only the end of ctx is left
	}
	kill(sig, false)
	left := time.Until(deadline)
	if grace >= minStopGrace {
		left = max(left, minStopGrace)
	}
	select {
	case <-exited:
		return
	case <-ctx.Done():
		return
	case <-time.After(left):
	}
	kill(syscall.SIGKILL, true)
}

// preStop runs the hook, at most for the grace period.
func (w *worker) preStop(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string, grace time.Duration, exited <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := w.runHook(ctx, pod, spec, id, spec.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
		w.a.event(pod, spec.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
	}
}
