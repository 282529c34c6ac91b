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
// One that is stopping already gets what action leaves it.
func (w *worker) stop(ctx context.Context, action podsync.Action) {
	c := w.container(action.Container)
	if c.unprobe != nil && w.deleting() {
		c.unprobe()
	}
	c.StopBy = time.Now().Add(action.Grace)
	if c.Phase == podsync.Stopping {
		select {
		case <-c.hurry: // a newer word replaces one that was not heard yet
		default:
		}
		c.hurry <- action.Grace
		return
	}
	c.Phase, c.hurry = podsync.Stopping, make(chan time.Duration, 1)
	spec := findContainer(w.pod, action.Container)
	w.a.event(w.pod, spec.Name, v1.EventTypeNormal, "Killing", "%s", action.Reason)
	s := &stopJob{
		w: w, pod: w.pod, spec: spec, id: c.ID, grace: action.Grace, signal: stopSignal(spec, c.stopSignal), exited: c.exited, hurry: c.hurry,
	}
	w.jobs.Go(func() { s.run(ctx) })
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

// stopJob is the way of one running container to its end.
type stopJob struct {
	w      *worker
	pod    *v1.Pod
	spec   *v1.Container
	id     string
	grace  time.Duration
	signal syscall.Signal
	exited <-chan struct{}
	// hurry brings a shorter grace period, from now on.
	hurry <-chan time.Duration
}

func (s *stopJob) run(ctx context.Context) {
	deadline, hurried := time.Now().Add(s.grace), false
	if s.spec.Lifecycle != nil && s.spec.Lifecycle.PreStop != nil {
		deadline, hurried = s.preStop(ctx, deadline)
	}
	s.kill(ctx, s.signal, false)
	if least := time.Now().Add(min(s.grace, minStopGrace)); !hurried && deadline.Before(least) {
		deadline = least
	}
	for {
		select {
		case left := <-s.hurry:
			deadline = time.Now().Add(left)
		case <-s.exited:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Until(deadline)):
			s.kill(ctx, syscall.SIGKILL, true)
			return
		}
	}
}

func (s *stopJob) kill(ctx context.Context, sig syscall.Signal, all bool) {
	err := retry(ctx, 200*time.Millisecond, 2*time.Second, func() error { return s.w.a.runtime.Kill(ctx, s.id, sig, all) }, func(err error) {
		s.w.log.Warn("container not signalled, will retry", "container", s.spec.Name, "err", err)
	})
	_ = err // only the end of ctx is left
}

// preStop runs the hook, at most until deadline. It returns the moment by which the container must have ended, and whether that
// was brought forward. In that case the hook is cut early enough to leave the process a moment of its own.
func (s *stopJob) preStop(ctx context.Context, deadline time.Time) (by time.Time, hurried bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	s.w.jobs.Go(func() {
		defer close(done)
		if err := s.w.runHook(ctx, s.pod, s.spec, s.id, s.spec.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
			s.w.a.event(s.pod, s.spec.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
		}
	})
	cut := deadline
	for {
		select {
		case left := <-s.hurry:
			deadline, hurried = time.Now().Add(left), true
			cut = deadline.Add(-minStopGrace)
		case <-s.exited:
			return deadline, hurried
		case <-done:
			return deadline, hurried
		case <-time.After(time.Until(cut)):
			return deadline, hurried
		}
	}
}
