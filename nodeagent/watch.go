// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/runtime"
)

const (
	maxTerminationMessage = 4096
	fallbackLogLines      = 80
	fallbackLogBytes      = 2048
	// drainTimeout bounds the wait for a container's last output after its end.
	drainTimeout = 2 * time.Second
)

// watch follows a running container to its end. adopted containers were started by an earlier agent.
func (w *worker) watch(pod *v1.Pod, spec *v1.Container, c *container, adopted bool) {
	c.exited = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	c.unprobe = cancel
	w.probe(ctx, pod, spec, c, adopted)
	id, exited := c.ID, c.exited
	w.jobs.Go(func() {
		defer cancel()
		exit := w.a.awaitExit(w.runContext(), id)
		if exit == nil {
			return // the agent ends, the container does not
		}
		end := w.a.describeExit(pod, spec, id, *exit)
		w.post(func() { w.ended(spec.Name, id, end, exited) })
	})
}

// awaitExit waits through restarts of containerd. It returns nil when ctx ends first.
func (a *agent) awaitExit(ctx context.Context, id string) *runtime.Exit {
	for {
		exit, err := a.runtime.Wait(ctx, id)
		switch {
		case err == nil:
			return &exit
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, runtime.ErrNotFound):
			// The process is gone and so is whoever watched it: nobody knows how it ended.
			return &runtime.Exit{Code: 255, At: time.Now()}
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// describeExit gathers how a container ended while its control group and files are still there.
func (a *agent) describeExit(pod *v1.Pod, spec *v1.Container, id string, exit runtime.Exit) podsync.Exit {
	end := podsync.Exit{ContainerID: id, Code: exit.Code, FinishedAt: exit.At, Reason: "Completed"}
	if exit.Code != 0 {
		end.Reason = "Error"
	}
	if exit.Code == 128+int(syscall.SIGKILL) && a.cgroups.OOMKills(a.podCgroup(pod)+"/"+id) > 0 {
		end.Reason = "OOMKilled"
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := a.logs.Drain(ctx, id); err != nil {
		a.log.Debug("end of container output not awaited", "container", id, "err", err)
	}
	end.Message = a.terminationMessage(pod, spec, id, exit.Code)
	return end
}

func (a *agent) terminationMessage(pod *v1.Pod, spec *v1.Container, id string, code int) string {
	path := filepath.Join(a.volumes.PodDir(string(pod.UID)), "containers", spec.Name, id[:min(12, len(id))])
	text := tail(path, maxTerminationMessage)
	if text == "" && code != 0 && spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		return a.lastLogLines(pod, spec.Name, fallbackLogLines, fallbackLogBytes)
	}
	return text
}

// tail returns at most the last limit bytes of a file, as valid text.
func tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > limit {
		if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}

// ended takes note of a container's end. It is on disk before the record in containerd goes, so no restart is forgotten.
func (w *worker) ended(name, id string, end podsync.Exit, exited chan struct{}) {
	c := w.container(name)
	if c.ID != id {
		return
	}
	end.Attempt, end.StartedAt = c.Attempt, c.StartedAt
	if end.FinishedAt.Before(end.StartedAt) {
		end.FinishedAt = time.Now()
	}
	c.Current = &end
	c.Phase = podsync.Exited
	c.Started, c.Ready = false, false
	c.Backoff = podsync.NextBackoff(c.Backoff, c.Attempt, end.FinishedAt.Sub(end.StartedAt))
	if c.unprobe != nil {
		c.unprobe()
	}
	close(exited)
	if err := w.save(); err != nil {
		w.log.Error("end of container not recorded, its record stays", "container", name, "err", err)
		return
	}
	if c.Backoff > 0 && !w.deleting() && w.pod.Spec.RestartPolicy != v1.RestartPolicyNever && !(w.pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure && end.Code == 0) {
		w.a.event(w.pod, name, v1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", name, w.pod.Name, w.pod.Namespace, w.pod.UID)
	}
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := w.a.discard(ctx, id); err != nil {
			w.log.Warn("ended container not removed", "container", name, "err", err)
		}
	})
}

// runContext ends with the worker.
func (w *worker) runContext() context.Context { return w.ctx }
