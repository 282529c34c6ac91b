// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/nodeagent/cgroup"
	"skep.dev/skep/nodeagent/checkpoint"
	"skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/ledger"
	"skep.dev/skep/nodeagent/peer"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podnet"
	"skep.dev/skep/nodeagent/runtime"
	"skep.dev/skep/nodeagent/source"
	"skep.dev/skep/nodeagent/status"
	"skep.dev/skep/nodeagent/volume"
)

// network is what the agent needs of podnet.
type network interface {
	SetPodCIDRs([]netip.Prefix) error
	Reserve(ctx context.Context, pod podnet.Pod) (podnet.Attachment, error)
	Attach(ctx context.Context, pod podnet.Pod) (podnet.Attachment, error)
	Detach(ctx context.Context, uid string) error
	Lookup(uid string) (podnet.Attachment, bool)
	Pods() []podnet.Pod
}

// policy is what the agent needs of intent.
type policy interface {
	WaitCurrent(ctx context.Context, pod *v1.Pod, failed func(error)) error
	WaitEnforced(ctx context.Context, uid string) error
}

// others is what the agent needs of peer: the wait for the agents of other nodes.
type others interface {
	Wait(ctx context.Context, version string)
}

// agent holds the parts that pods share.
type agent struct {
	cfg      Config
	log      *slog.Logger
	client   kubernetes.Interface
	recorder record.EventRecorder
	services corelisters.ServiceLister

	clusterPolicies *clusterPolicies

	containerd *containerd.Client
	runtime    runtime.Runtime
	images     *image.Store
	puller     image.Puller
	pullLimit  chan struct{}
	logs       *podlog.Client
	volumes    *volume.Manager
	objects    *source.Objects
	net        network
	policy     policy
	ledger     *ledger.Ledger
	progress   *peer.Progress
	others     others
	policies   *policyAPI
	cgroups    *cgroup.Tree
	saved      *checkpoint.Store
	status     *status.Writer
	machine    machine

	// parts is complete before anything asks for conditions or metrics; lookAgain has the node's conditions looked at now.
	parts     []part
	lookAgain chan struct{}

	// cidrReady is closed when podnet knows the node's ranges.
	cidrReady chan struct{}
	cidrOnce  sync.Once
	// podsKnown is closed when every pod that the API has for this node has a worker.
	podsKnown chan struct{}

	mu      sync.Mutex // guards workers and adopted
	workers map[types.UID]*worker
	running sync.WaitGroup
	// adopted are the containers found at the start, by pod UID and container name, until their worker takes them.
	adopted map[string]map[string][]runtime.Container
}

// podChanged hands a pod of this node to its worker.
func (a *agent) podChanged(ctx context.Context, pod *v1.Pod) {
	a.mu.Lock()
	w := a.workers[pod.UID]
	if w == nil {
		if finishedBefore(pod) {
			a.mu.Unlock()
			return
		}
		w = newWorker(a, pod)
		a.workers[pod.UID] = w
		a.running.Go(func() {
			w.run(ctx)
			a.mu.Lock()
			delete(a.workers, pod.UID)
			a.mu.Unlock()
		})
	}
	a.mu.Unlock()
	w.update(pod, false)
}

// finishedBefore says that nothing is left to do for a pod: it has ended and is not being deleted.
func finishedBefore(pod *v1.Pod) bool {
	ended := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	return ended && pod.DeletionTimestamp == nil
}

// podGone tells a worker that the API has no such pod any more.
func (a *agent) podGone(pod *v1.Pod) {
	a.mu.Lock()
	w := a.workers[pod.UID]
	a.mu.Unlock()
	if w != nil {
		w.update(pod, true)
	}
}

func (a *agent) worker(uid types.UID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

// podHandler feeds the pod informer's events to workers. A replaced pod (same name, other UID) comes as an update.
func (a *agent) podHandler(ctx context.Context) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { a.podChanged(ctx, obj.(*v1.Pod)) },
		UpdateFunc: func(before, after any) {
			old, pod := before.(*v1.Pod), after.(*v1.Pod)
			if old.UID != pod.UID {
				a.podGone(old)
			}
			a.podChanged(ctx, pod)
		},
		DeleteFunc: func(obj any) {
			if tomb, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tomb.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				a.podGone(pod)
			}
		},
	}
}

// nodeChanged takes the pod ranges of this node from its object.
func (a *agent) nodeChanged(node *v1.Node) {
	var cidrs []netip.Prefix
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a.log.Error("pod CIDR of this node is unreadable", "cidr", text, "err", err)
			return
		}
		cidrs = append(cidrs, p)
	}
	if len(cidrs) == 0 {
		return
	}
	if err := a.net.SetPodCIDRs(cidrs); err != nil {
		a.log.Error("pod CIDRs of this node are not usable", "err", err)
		return
	}
	a.cidrOnce.Do(func() { close(a.cidrReady) })
}

// hasRanges says that podnet can give out addresses.
func (a *agent) hasRanges() bool { return closed(a.cidrReady) }

// event records an event of a pod, or of one of its containers when container is not empty.
func (a *agent) event(pod *v1.Pod, container, kind, reason, format string, args ...any) {
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	a.recorder.Eventf(ref, kind, reason, format, args...)
}

func fieldPath(pod *v1.Pod, container string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}

// retry calls f until it succeeds or ctx ends, doubling the pause from first to at most limit.
func retry(ctx context.Context, first, limit time.Duration, f func() error, failed func(error)) error {
	pause := first
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		failed(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, limit)
	}
}
