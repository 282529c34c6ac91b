// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/probe"
	"skep.dev/skep/nodeagent/runtime"
)

// probe begins the probes of a running container. An adopted container keeps what it was until its probes say otherwise.
func (w *worker) probe(ctx context.Context, pod *v1.Pod, spec *v1.Container, c *container, adopted bool) {
	if !adopted {
		c.Started = spec.StartupProbe == nil
		c.Ready = c.Started && spec.ReadinessProbe == nil
	}
	target := w.target(spec, c.ID)
	if !c.Started {
		w.probeStartup(ctx, pod, spec, c, target)
		return
	}
	w.probeLife(ctx, pod, spec, c, target, adopted)
}

func (w *worker) target(spec *v1.Container, id string) probe.Target {
	t := probe.Target{Ports: spec.Ports, Exec: func(ctx context.Context, command []string) (int, string, error) {
		return w.a.execOutput(ctx, id, command)
	}}
	if len(w.addrs) > 0 {
		t.Host = w.addrs[0].String()
	}
	return t
}

func (w *worker) probeStartup(ctx context.Context, pod *v1.Pod, spec *v1.Container, c *container, target probe.Target) {
	id, since := c.ID, c.StartedAt
	w.jobs.Go(func() {
		probe.Run(ctx, spec.StartupProbe, target, since, false, func(o probe.Outcome, ok, decided bool) bool {
			w.unhealthy(pod, spec, "Startup", o)
			if !decided {
				return true
			}
			w.ifCurrent(spec.Name, id, func(c *container) {
				if !ok {
					c.Unhealthy = "startup"
					return
				}
				c.Started = true
				c.Ready = spec.ReadinessProbe == nil
				w.probeLife(ctx, pod, spec, c, target, false)
			})
			return false
		})
	})
}

func (w *worker) probeLife(ctx context.Context, pod *v1.Pod, spec *v1.Container, c *container, target probe.Target, adopted bool) {
	id, since := c.ID, c.StartedAt
	if p := spec.ReadinessProbe; p != nil {
		w.jobs.Go(func() {
			probe.Run(ctx, p, target, since, adopted, func(o probe.Outcome, ok, decided bool) bool {
				w.unhealthy(pod, spec, "Readiness", o)
				if decided {
					w.ifCurrent(spec.Name, id, func(c *container) { c.Ready = ok })
				}
				return true
			})
		})
	}
	if p := spec.LivenessProbe; p != nil {
		w.jobs.Go(func() {
			probe.Run(ctx, p, target, since, adopted, func(o probe.Outcome, ok, decided bool) bool {
				w.unhealthy(pod, spec, "Liveness", o)
				if !decided || ok {
					return true
				}
				w.ifCurrent(spec.Name, id, func(c *container) { c.Unhealthy = "liveness" })
				return false
			})
		})
	}
}

// ifCurrent makes run call f if the attempt id still runs.
func (w *worker) ifCurrent(name, id string, f func(*container)) {
	w.post(func() {
		if c := w.containers[name]; c != nil && c.ID == id && c.Phase == podsync.Running {
			f(c)
		}
	})
}

func (w *worker) unhealthy(pod *v1.Pod, spec *v1.Container, kind string, o probe.Outcome) {
	switch {
	case o.Errored:
		w.a.event(pod, spec.Name, v1.EventTypeWarning, "Unhealthy", "%s probe errored: %s", kind, o.Message)
	case !o.OK:
		w.a.event(pod, spec.Name, v1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", kind, o.Message)
	}
}

// limitedBuffer keeps the first bytes that are written to it and swallows the rest. Both streams of a command write to it.
type limitedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
	max int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := b.max - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// execOutput runs a command and returns its exit code and the beginning of its output.
func (a *agent) execOutput(ctx context.Context, id string, command []string) (int, string, error) {
	out := &limitedBuffer{max: 10 << 10}
	code, err := a.runtime.Exec(ctx, id, runtime.Exec{Command: command, Stdout: out, Stderr: out})
	return code, out.String(), err
}

// runHook runs a lifecycle hook to its end.
func (w *worker) runHook(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string, hook *v1.LifecycleHandler) error {
	switch {
	case hook.Exec != nil:
		code, output, err := w.a.execOutput(ctx, id, hook.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %s", hook.Exec.Command, code, output)
		}
		return err
	case hook.HTTPGet != nil:
		return w.httpHook(ctx, spec, id, hook.HTTPGet)
	case hook.Sleep != nil:
		select {
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
		return nil
	}
	return errors.New("invalid handler: neither exec, httpGet nor sleep")
}

func (w *worker) httpHook(ctx context.Context, spec *v1.Container, id string, h *v1.HTTPGetAction) error {
	req, err := probe.Request(ctx, h, w.target(spec, id))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "kube-lifecycle/1.37")
	resp, err := probe.Client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return nil
}
