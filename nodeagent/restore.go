// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/runtime"
)

// savedPod is the checkpoint of a pod.
type savedPod struct {
	StartTime  time.Time                    `json:"startTime"`
	Containers map[string]podsync.Container `json:"containers"`
}

func (w *worker) save() error {
	s := savedPod{StartTime: w.startTime, Containers: map[string]podsync.Container{}}
	for name, c := range w.containers {
		s.Containers[name] = c.Container
	}
	return w.a.saved.Save(string(w.uid), s)
}

// restore finds out what an earlier agent left of this pod: ended attempts from the checkpoint, running ones from the runtime,
// readiness from the API. Nothing is restarted and no condition changes.
func (w *worker) restore(ctx context.Context) {
	found := w.a.takeAdopted(string(w.uid))
	var saved savedPod
	ok, err := w.a.saved.Load(string(w.uid), &saved)
	if err != nil {
		w.log.Error("checkpoint of pod unreadable, continuing with what the API knows", "err", err)
	}
	if t := w.pod.Status.StartTime; t != nil {
		w.startTime = t.Time
	}
	if att, attached := w.a.net.Lookup(string(w.uid)); attached {
		w.addrs, w.netns, w.sandbox = att.Addrs, att.NetNS, true
	}
	for _, spec := range podContainers(w.pod) {
		c := w.container(spec.Name)
		if ok {
			c.Container = saved.Containers[spec.Name]
		}
		settle(&c.Container)
		api := containerStatus(w.pod, spec.Name)
		w.adopt(ctx, spec, c, found[spec.Name], api)
		if c.ID == "" && api != nil && api.ContainerID != "" {
			lost(c, api)
		}
	}
}

// settle turns a phase from a checkpoint into one that is true without its process.
func settle(c *podsync.Container) {
	c.Phase = podsync.None
	if c.Current != nil {
		c.Phase = podsync.Exited
	}
	c.Started, c.Ready, c.Unhealthy = false, false, ""
	c.WaitingReason, c.WaitingMessage, c.RetryAt = "", "", time.Time{}
}

func containerStatus(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// adopt takes over the newest attempt that the runtime has, if it is newer than the last end on record; the rest goes.
func (w *worker) adopt(ctx context.Context, spec *v1.Container, c *container, found []runtime.Container, api *v1.ContainerStatus) {
	var newest *runtime.Container
	for i := range found {
		r := &found[i]
		// Nobody knows it and it has no process: its agent ended before the process was made.
		unborn := r.State == runtime.Missing && c.ID != r.ID && (api == nil || strings.TrimPrefix(api.ContainerID, "containerd://") != r.ID)
		recorded := c.Current != nil && (c.Current.ContainerID == r.ID || c.Current.Attempt >= r.Attempt)
		if recorded || unborn || r.State == runtime.Created || newest != nil && newest.Attempt > r.Attempt {
			w.discardLater(r.ID)
			continue
		}
		if newest != nil {
			w.discardLater(newest.ID)
		}
		newest = r
	}
	if newest == nil {
		return
	}
	if c.Current != nil {
		c.Last, c.Current = c.Current, nil
	}
	c.ID, c.Attempt, c.SpecHash = newest.ID, newest.Attempt, newest.SpecHash
	c.Image, c.ImageID, c.stopSignal = newest.ImageName, newest.ImageID, newest.StopSignal
	c.StartedAt = newest.CreatedAt
	same := api != nil && strings.TrimPrefix(api.ContainerID, "containerd://") == newest.ID
	if same && api.State.Running != nil {
		c.StartedAt = api.State.Running.StartedAt.Time
	}
	c.Phase = podsync.Running
	c.Started = same && api.Started != nil && *api.Started || spec.StartupProbe == nil
	c.Ready = same && api.Ready || c.Started && spec.ReadinessProbe == nil
	// Waiting also works for one that has ended meanwhile, or whose process is lost.
	w.watch(w.pod, spec, c, true)
}

func (w *worker) discardLater(id string) {
	w.jobs.Go(func() {
		if err := w.a.discard(w.ctx, id); err != nil && w.ctx.Err() == nil {
			w.log.Warn("old container not removed", "container", id, "err", err)
		}
	})
}

// lost is a container that the API saw running and of which nothing is left here.
func lost(c *container, api *v1.ContainerStatus) {
	end := podsync.Exit{
		ContainerID: strings.TrimPrefix(api.ContainerID, "containerd://"), Attempt: int(api.RestartCount), Code: 137,
		Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated", FinishedAt: time.Now(),
	}
	if t := api.State.Terminated; t != nil {
		end.Code, end.Reason, end.Message = int(t.ExitCode), t.Reason, t.Message
		end.StartedAt, end.FinishedAt = t.StartedAt.Time, t.FinishedAt.Time
	} else if r := api.State.Running; r != nil {
		end.StartedAt = r.StartedAt.Time
	}
	c.ID, c.Attempt, c.Image, c.ImageID = end.ContainerID, end.Attempt, api.Image, api.ImageID
	c.Current, c.Phase = &end, podsync.Exited
}

// adoptAll groups what the runtime has by pod and container.
func (a *agent) adoptAll(ctx context.Context) error {
	list, err := a.runtime.List(ctx)
	if err != nil {
		return err
	}
	a.adopted = map[string]map[string][]runtime.Container{}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
		pod := a.adopted[c.PodUID]
		if pod == nil {
			pod = map[string][]runtime.Container{}
			a.adopted[c.PodUID] = pod
		}
		pod[c.Container] = append(pod[c.Container], c)
	}
	a.log.Info("containers found", "count", len(list))
	return a.logs.Retain(ctx, ids)
}

func (a *agent) takeAdopted(uid string) map[string][]runtime.Container {
	a.mu.Lock()
	defer a.mu.Unlock()
	found := a.adopted[uid]
	delete(a.adopted, uid)
	return found
}
