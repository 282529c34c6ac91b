// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Watches of different kinds know nothing of each other: that of pods may be ahead of that of policies, and a new pod then
// runs under the policies of a moment before its creation. How far a quiet watch has come cannot be told either. So the agent
// reads the policies of the pod's namespace as of the pod's own version, and waits until its watch has brought the same.

// recheck is how long the watch gets to bring what was read before it is read again: a policy that has been deleted
// meanwhile would be waited for in vain.
const recheck = time.Second

// versions are the resource versions of NetworkPolicies, by namespace and name.
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

// covers says that the policies of a namespace are at least as new as list.
func (v versions) covers(namespace string, list *networkingv1.NetworkPolicyList) bool {
	have, listed := v[namespace], map[string]bool{}
	for i := range list.Items {
		np := &list.Items[i]
		listed[np.Name] = true
		if !notOlder(have[np.Name], np.ResourceVersion) {
			return false
		}
	}
	for name, version := range have {
		// One that the list does not have was made after it, or is gone and its end not heard of.
		if !listed[name] && !notOlder(version, list.ResourceVersion) {
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

// WaitCurrent blocks until the policies in force are no older than the pod: those of its namespace as of its creation. failed is
// told of errors, after which it tries again. Only the end of ctx ends it otherwise.
func (t *Translator) WaitCurrent(ctx context.Context, pod *corev1.Pod, failed func(error)) error {
	for {
		t.mu.Lock()
		known := t.current[pod.Namespace]
		t.mu.Unlock()
		if notOlder(known, pod.ResourceVersion) {
			return nil
		}
		list, err := t.cfg.Policies.NetworkPolicies(pod.Namespace).List(ctx, metav1.ListOptions{
			ResourceVersion: pod.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		})
		if err == nil {
			err = t.waitFor(ctx, pod.Namespace, list)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the policies of namespace %s: %w", pod.Namespace, ctx.Err())
		}
		failed(err)
		if !sleep(ctx, firstRetry) {
			return ctx.Err()
		}
	}
}

// waitFor blocks until the policy in force covers list, at most for recheck.
func (t *Translator) waitFor(ctx context.Context, namespace string, list *networkingv1.NetworkPolicyList) error {
	timer := time.NewTimer(recheck)
	defer timer.Stop()
	for {
		t.mu.Lock()
		renewed, done := t.renewed, t.inForceVersions.covers(namespace, list)
		if done && !notOlder(t.current[namespace], list.ResourceVersion) {
			t.current[namespace] = list.ResourceVersion
		}
		t.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-renewed:
		case <-timer.C:
			return fmt.Errorf("the watch of network policies is behind version %s", list.ResourceVersion)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish makes known that all policies taken in so far are in force. It belongs to the goroutine of Run.
func (t *Translator) publish() {
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
