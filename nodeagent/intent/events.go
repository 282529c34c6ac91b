// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// apply feeds one event to the cluster and notes what it makes stale.
func (t *Translator) apply(ch change) {
	obj := ch.after
	if obj == nil {
		obj = ch.before
	}
	gone := ch.after == nil
	switch o := obj.(type) {
	case *corev1.Pod:
		t.applyPod(ch, o)
	case *corev1.Namespace:
		if gone {
			t.note(&t.pending.policy, t.cluster.DeleteNamespace(o.Name))
		} else {
			t.note(&t.pending.policy, t.cluster.SetNamespace(o.Name, o.Labels))
		}
	case *networkingv1.NetworkPolicy:
		t.applyPolicy(o, ch.at, gone)
	case *policyv1alpha2.ClusterNetworkPolicy:
		t.applyPolicy(o, ch.at, gone)
	case *corev1.Service:
		if gone {
			t.note(&t.pending.services, t.cluster.DeleteService(o.Namespace, o.Name))
		} else {
			t.note(&t.pending.services, t.cluster.SetService(o))
		}
	case *discoveryv1.EndpointSlice:
		t.applySlice(ch, o)
	case *corev1.Node:
		if gone {
			t.note(&t.pending.nodes, t.cluster.DeleteNode(o.Name))
			t.note(&t.pending.policy, t.cluster.DeleteNodePeer(o.Name))
		} else {
			t.note(&t.pending.nodes, t.cluster.SetNode(o))
			t.note(&t.pending.policy, t.cluster.SetNodePeer(o))
		}
	}
}

// applyPod minds that an update may hide a deletion: same name, another pod.
func (t *Translator) applyPod(ch change, pod *corev1.Pod) {
	t.takePod(pod)
	before, _ := ch.before.(*corev1.Pod)
	if before != nil && (ch.after == nil || before.UID != pod.UID) {
		t.withdrawPod(before.UID)
		before = nil
	}
	if ch.after != nil {
		t.proposePod(before, pod)
	}
}

// applyPolicy takes in a policy of either kind.
func (t *Translator) applyPolicy(policy metav1.Object, at time.Time, gone bool) {
	t.take(policy, gone)
	if gone {
		t.withdraw(policy)
	} else {
		t.propose(policy, at)
	}
}

// take notes the version of a policy of either kind. One of the cluster has no namespace, which is ofCluster.
func (t *Translator) take(policy metav1.Object, gone bool) {
	version := policy.GetResourceVersion()
	if gone {
		version = ""
	}
	t.taken.set(policy.GetNamespace(), policy.GetName(), version)
	t.unpublished[policy.GetNamespace()] = true
}

// applySlice minds that a slice may move to another Service.
func (t *Translator) applySlice(ch change, sl *discoveryv1.EndpointSlice) {
	before, _ := ch.before.(*discoveryv1.EndpointSlice)
	if before != nil && (ch.after == nil || sliceOwner(before) != sliceOwner(sl)) {
		t.note(&t.pending.services, t.cluster.DeleteEndpointSlice(before))
	}
	if ch.after != nil {
		t.note(&t.pending.services, t.cluster.SetEndpointSlice(sl))
	}
}

func (t *Translator) note(flag *bool, changed bool) { *flag = *flag || changed }

// register adds the handlers, all of which only queue.
func (t *Translator) register() {
	core := t.cfg.Informers.Core().V1()
	handlers := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { t.enqueue(change{after: obj, at: time.Now()}) },
		UpdateFunc: func(before, after any) { t.enqueue(change{before: before, after: after, at: time.Now()}) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			t.enqueue(change{before: obj})
		},
	}
	all := []cache.SharedIndexInformer{
		core.Pods().Informer(),
		core.Namespaces().Informer(),
		t.cfg.Informers.Networking().V1().NetworkPolicies().Informer(),
		core.Services().Informer(),
		t.cfg.Informers.Discovery().V1().EndpointSlices().Informer(),
		core.Nodes().Informer(),
	}
	if t.cfg.ClusterPolicies != nil {
		all = append(all, t.cfg.ClusterPolicies)
	}
	for _, inf := range all {
		reg, err := inf.AddEventHandler(handlers)
		if err != nil {
			// Only an informer that has been stopped refuses. Run reports it.
			t.refused = err
			continue
		}
		t.synced = append(t.synced, reg.HasSyncedChecker())
	}
}

func (t *Translator) enqueue(ch change) {
	t.mu.Lock()
	t.queue = append(t.queue, ch)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
