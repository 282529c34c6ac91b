// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/nodeagent/podsync"
	"skep.dev/skep/nodeagent/status"
)

// worker brings one pod to what its spec says. One goroutine (run) owns its state; work that takes time runs in goroutines of its
// own and comes back as a function that run calls.
type worker struct {
	a   *agent
	uid types.UID
	log *slog.Logger

	mu     sync.Mutex // guards latest, gone and queue
	latest *v1.Pod
	gone   bool
	queue  []func()
	wake   chan struct{}

	// All below belong to run, except the channels.
	pod        *v1.Pod // latest, with the status that this worker last decided
	containers map[string]*container
	startTime  time.Time
	addrs      []netip.Addr
	netns      string
	sandbox    bool
	// reserving says that the addresses will be there in a moment: the first status waits for them instead of being written twice.
	reserving  bool
	tornDown   bool
	finishing  bool
	rejected   [2]string
	attempts   map[string]int // failed pulls in a row, by container
	refreshing bool
	refresh    *time.Timer
	ctx        context.Context // of run; work that must end with the worker uses it

	// Gates that starting containers wait at; each is closed once. Addresses, namespaces and files named by path are there with
	// sandboxReady, the network works with networkReady and obeys policy with policyReady.
	sandboxReady, networkReady, volumesReady, policyReady chan struct{}
	// addressed is closed when the API has the pod's addresses, from the version addressedAt on.
	addressed   chan struct{}
	addressedAt string
	setup       context.CancelFunc
	jobs        sync.WaitGroup
}

// container is one container of the pod as the worker sees it.
type container struct {
	podsync.Container
	cancel context.CancelFunc // ends a start that is under way
	// exited is closed when the running attempt has ended.
	exited chan struct{}
	// unprobe ends the probes of the running attempt.
	unprobe    context.CancelFunc
	stopSignal string
	// hurry brings a stop that is under way a shorter grace period.
	hurry chan time.Duration
}

func newWorker(a *agent, pod *v1.Pod) *worker {
	return &worker{
		a: a, uid: pod.UID, log: a.log.With("pod", pod.Namespace+"/"+pod.Name),
		latest: pod, wake: make(chan struct{}, 1),
		containers: map[string]*container{}, attempts: map[string]int{},
		sandboxReady: make(chan struct{}), networkReady: make(chan struct{}), volumesReady: make(chan struct{}), policyReady: make(chan struct{}),
		addressed: make(chan struct{}),
	}
}

// update takes a newer object; gone says that the API has it no more.
func (w *worker) update(pod *v1.Pod, gone bool) {
	w.mu.Lock()
	w.latest = pod
	w.gone = w.gone || gone
	w.mu.Unlock()
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// post makes run call f.
func (w *worker) post(f func()) {
	w.mu.Lock()
	w.queue = append(w.queue, f)
	w.mu.Unlock()
	w.poke()
}

// run works until the pod is gone and cleaned up, or ctx ends, which leaves the pod running.
func (w *worker) run(ctx context.Context) {
	defer w.jobs.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.ctx = ctx
	w.take()
	w.restore(ctx)
	for {
		w.take()
		if w.gone && w.tornDown {
			w.forget()
			return
		}
		plan := w.decide(ctx)
		timer := wakeTimer(plan.Wake)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func wakeTimer(at time.Time) *time.Timer {
	if at.IsZero() {
		return time.NewTimer(time.Hour)
	}
	return time.NewTimer(max(time.Until(at), 0))
}

// take adopts what came in since the last round.
func (w *worker) take() {
	w.mu.Lock()
	latest, queue := w.latest, w.queue
	w.queue = nil
	w.mu.Unlock()
	for _, f := range queue {
		f()
	}
	w.noteAddresses(latest)
	pod := latest.DeepCopy()
	if w.pod != nil {
		pod.Status = mergeStatus(latest.Status, w.pod.Status)
	}
	w.pod = pod
}

// mergeStatus is what this worker decided last, with what other writers own taken from the API: their conditions, and an end that they
// declared (an eviction, a pod whose node was lost).
func mergeStatus(api, own v1.PodStatus) v1.PodStatus {
	out := *own.DeepCopy()
	out.Conditions = nil
	mine := map[v1.PodConditionType]bool{}
	for _, t := range status.Owned {
		mine[t] = true
	}
	for _, c := range own.Conditions {
		if mine[c.Type] {
			out.Conditions = append(out.Conditions, c)
		}
	}
	for _, c := range api.Conditions {
		if !mine[c.Type] {
			out.Conditions = append(out.Conditions, c)
		}
	}
	ended := func(s v1.PodStatus) bool { return s.Phase == v1.PodFailed || s.Phase == v1.PodSucceeded }
	if ended(api) && !ended(own) {
		out.Phase, out.Reason, out.Message = api.Phase, api.Reason, api.Message
	}
	out.NominatedNodeName, out.Resize, out.ExtendedResourceClaimStatus = api.NominatedNodeName, api.Resize, api.ExtendedResourceClaimStatus
	return out
}

func (w *worker) deleting() bool { return w.gone || w.pod.DeletionTimestamp != nil }

// decide runs one round: decision, status, actions.
func (w *worker) decide(ctx context.Context) podsync.Plan {
	w.begin(ctx)
	plan := podsync.Decide(w.pod, w.observed())
	w.pod.Status = plan.Status
	if !w.gone && !w.reserving {
		w.a.status.Set(ctx, w.snapshot(), plan.Status)
	}
	if w.deleting() || plan.Status.Phase == v1.PodFailed {
		w.cancelStarts()
	}
	for _, action := range plan.Actions {
		w.do(ctx, action)
	}
	return plan
}

// snapshot is the object as the API has it.
func (w *worker) snapshot() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest
}

func (w *worker) observed() podsync.Observed {
	obs := podsync.Observed{
		Now: time.Now(), StartTime: w.startTime, SandboxReady: w.sandbox, TornDown: w.tornDown, Gone: w.gone,
		SpecHash: map[string]string{}, Containers: map[string]podsync.Container{},
		RejectedReason: w.rejected[0], RejectedMessage: w.rejected[1],
	}
	for _, a := range w.a.cfg.NodeAddrs {
		obs.HostIPs = append(obs.HostIPs, a.String())
	}
	for _, a := range w.addrs {
		obs.PodIPs = append(obs.PodIPs, a.String())
	}
	for _, c := range podContainers(w.pod) {
		obs.SpecHash[c.Name] = specHash(c)
	}
	for name, c := range w.containers {
		obs.Containers[name] = c.Container
	}
	return obs
}

func podContainers(pod *v1.Pod) []*v1.Container {
	var out []*v1.Container
	for i := range pod.Spec.InitContainers {
		out = append(out, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	return out
}

func findContainer(pod *v1.Pod, name string) *v1.Container {
	for _, c := range podContainers(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (w *worker) container(name string) *container {
	c := w.containers[name]
	if c == nil {
		c = &container{}
		w.containers[name] = c
	}
	return c
}

func (w *worker) cancelStarts() {
	if w.setup != nil {
		w.setup()
	}
	for _, c := range w.containers {
		if c.Phase == podsync.Starting && c.cancel != nil {
			c.cancel()
		}
	}
}

func (w *worker) do(ctx context.Context, action podsync.Action) {
	switch action.Kind {
	case podsync.Start:
		w.start(ctx, action)
	case podsync.Stop:
		w.stop(ctx, action)
	case podsync.Teardown:
		w.teardown(ctx)
	case podsync.Finish:
		w.finish(ctx)
	}
}
