// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Watches of different kinds know nothing of each other: that of pods may be ahead of that of policies, and a new pod then
// runs under the policies of a moment before its creation. How far a quiet watch has come cannot be told either. So the agent
// reads the policies of the pod's namespace, and those of the cluster, as of the pod's own version, and waits until its watches
// have brought the same.

// recheck is how long the watch gets to bring what was read before it is read again: a policy that has been deleted
// meanwhile would be waited for in vain.
const recheck = time.Second

// ofCluster stands in place of a namespace for ClusterNetworkPolicies.
const ofCluster = ""

// versions are the resource versions of policies, by namespace and name.
type versions map[string]map[string]string

// set takes a policy's version; an empty one is that of a policy that is gone.
func (v versions) set(namespace, name, version string) {
	if version == "" {
		delete(v[namespace], name)
		return
	}
	if v[namespace] == nil {
		v[namespace] = map[string]string{}
	}
	v[namespace][name] = version
}

// listing is what a read of policies gave: their versions by name, and that of the API which it shows.
type listing struct {
	items   map[string]string
	version string
}

// covers says that the policies of a namespace are at least as new as list.
func (v versions) covers(namespace string, list listing) bool {
	have := v[namespace]
	for name, version := range list.items {
		if !notOlder(have[name], version) {
			return false
		}
	}
	for name, version := range have {
		// One that the list does not have was made after it, or is gone and its end not heard of.
		if _, listed := list.items[name]; !listed && !notOlder(version, list.version) {
			return false
		}
	}
	return true
}

// notOlder compares two resource versions. One that cannot be read is older than all.
func notOlder(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order >= 0
}

// WaitCurrent blocks until the policies in force are no older than the pod: those of its namespace and of the cluster as of
// its creation. failed is told of errors, one at a time, after which it tries again. Only the end of ctx ends it otherwise.
//
// Both reads go on at once: the API server answers one about a quiet resource only after up to 100 ms, when the store has told
// it that there is nothing newer.
func (t *Translator) WaitCurrent(ctx context.Context, pod *corev1.Pod, failed func(error)) error {
	var telling sync.Mutex
	tell := func(err error) {
		telling.Lock()
		defer telling.Unlock()
		failed(err)
	}
	group, ctx := errgroup.WithContext(ctx)
	if t.cfg.ListClusterPolicies != nil {
		group.Go(func() error {
			if err := t.waitCurrent(ctx, ofCluster, pod.ResourceVersion, t.listClusterPolicies, tell); err != nil {
				return fmt.Errorf("wait for the policies of the cluster: %w", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		list := func(ctx context.Context, o metav1.ListOptions) (listing, error) {
			return t.listPolicies(ctx, pod.Namespace, o)
		}
		if err := t.waitCurrent(ctx, pod.Namespace, pod.ResourceVersion, list, tell); err != nil {
			return fmt.Errorf("wait for the policies of namespace %s: %w", pod.Namespace, err)
		}
		return nil
	})
	return group.Wait()
}

func (t *Translator) listPolicies(ctx context.Context, namespace string, o metav1.ListOptions) (listing, error) {
	list, err := t.cfg.Policies.NetworkPolicies(namespace).List(ctx, o)
	if err != nil {
		return listing{}, err
	}
	return listingOf(list)
}

func (t *Translator) listClusterPolicies(ctx context.Context, o metav1.ListOptions) (listing, error) {
	list, err := t.cfg.ListClusterPolicies(ctx, o)
	if err != nil {
		return listing{}, err
	}
	return listingOf(list)
}

// listingOf takes the versions out of a list of any kind.
func listingOf(list interface {
	runtime.Object
	metav1.ListInterface
}) (listing, error) {
	out := listing{version: list.GetResourceVersion(), items: map[string]string{}}
	err := meta.EachListItem(list, func(obj runtime.Object) error {
		item, err := meta.Accessor(obj)
		if err == nil {
			out.items[item.GetName()] = item.GetResourceVersion()
		}
		return err
	})
	return out, err
}

func (t *Translator) waitCurrent(ctx context.Context, namespace, version string,
	read func(context.Context, metav1.ListOptions) (listing, error), failed func(error)) error {
	for {
		t.mu.Lock()
		known := t.current[namespace]
		t.mu.Unlock()
		if notOlder(known, version) {
			return nil
		}
		list, err := read(ctx, metav1.ListOptions{ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
		if err == nil {
			err = t.waitFor(ctx, namespace, list)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		failed(err)
		if !sleep(ctx, firstRetry) {
			return ctx.Err()
		}
	}
}

// waitFor blocks until the policy in force covers list, at most for recheck.
func (t *Translator) waitFor(ctx context.Context, namespace string, list listing) error {
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	for {
		t.mu.Lock()
		renewed, done := t.renewed, t.inForceVersions.covers(namespace, list)
		if done && !notOlder(t.current[namespace], list.version) {
			t.current[namespace] = list.version
		}
		t.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-renewed:
		case <-timer.C:
			return fmt.Errorf("the watch of network policies is behind version %s", list.version)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish makes known that all policies taken in so far are in force. It belongs to the goroutine of Run.
func (t *Translator) publish() {
	t.inForceNow(time.Now())
	if len(t.unpublished) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for namespace := range t.unpublished {
		t.inForceVersions[namespace] = maps.Clone(t.taken[namespace])
		if len(t.taken[namespace]) == 0 {
			delete(t.taken, namespace)
			delete(t.inForceVersions, namespace)
		}
	}
	clear(t.unpublished)
	close(t.renewed)
	t.renewed = make(chan struct{})
}

// takePod notes how far the watch of pods has come: it brings changes in the order of their versions. Only a watch that had to
// begin anew brings pods in any order, and then the number may for a moment be ahead of what has been taken in.
func (t *Translator) takePod(pod *corev1.Pod) {
	if !notOlder(t.podsTaken, pod.ResourceVersion) {
		t.podsTaken = pod.ResourceVersion
	}
}

// tellPods makes known that the datapath knows all pods taken in so far. It belongs to the goroutine of Run.
func (t *Translator) tellPods() {
	if t.cfg.PodsKnown != nil && t.podsTaken != t.podsTold {
		t.podsTold = t.podsTaken
		t.cfg.PodsKnown(t.podsTaken)
	}
}
