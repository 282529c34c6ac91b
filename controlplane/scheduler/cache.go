// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/controlplane/scheduler/place"
)

// cache is the cluster as the scheduler knows it: what the watches show, and the pods it has just placed. It is safe for
// concurrent use; what it hands out is never changed.
type cache struct {
	mu         sync.Mutex             // guards what follows
	nodes      map[string]*place.Node // by name; API is nil for nodes that only pods have named so far
	at         map[types.UID]string   // the node of each counted pod
	assumed    map[types.UID]struct{} // placed by us and not yet seen with a node
	namespaces map[string]labels.Set  // labels by name
	snapshot   *place.Snapshot        // nil: must be made anew
}

func newCache() *cache {
	return &cache{
		nodes:      map[string]*place.Node{},
		at:         map[types.UID]string{},
		assumed:    map[types.UID]struct{}{},
		namespaces: map[string]labels.Set{},
	}
}

// view is the present state.
func (c *cache) view() *place.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snapshot == nil {
		nodes := make([]*place.Node, 0, len(c.nodes))
		for _, n := range c.nodes {
			if n.API != nil {
				nodes = append(nodes, n)
			}
		}
		slices.SortFunc(nodes, func(a, b *place.Node) int { return cmp.Compare(a.API.Name, b.API.Name) })
		namespaces := make(map[string]labels.Set, len(c.namespaces))
		for name, set := range c.namespaces {
			namespaces[name] = set
		}
		c.snapshot = place.NewSnapshot(nodes, namespaces)
	}
	return c.snapshot
}

func (c *cache) setNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshot = nil
	if old := c.nodes[node.Name]; old != nil {
		c.nodes[node.Name] = old.Describe(node)
		return
	}
	c.nodes[node.Name] = place.NewNode(node)
}

func (c *cache) removeNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshot = nil
	old := c.nodes[name]
	delete(c.nodes, name)
	if old == nil || len(old.Pods) == 0 {
		return
	}
	// Its pods are still there, and count again if the node comes back.
	kept := &place.Node{}
	for _, p := range old.Pods {
		kept = kept.With(p)
	}
	c.nodes[name] = kept
}

func (c *cache) setNamespace(name string, set labels.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshot = nil
	if set == nil {
		delete(c.namespaces, name)
		return
	}
	c.namespaces[name] = set
}

// assume counts a pod on a node before the API says so.
func (c *cache) assume(p *place.Pod, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(p, node)
	c.assumed[p.API.UID] = struct{}{}
}

// forget takes an assumption back, unless the watch has confirmed it meanwhile.
func (c *cache) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.assumed[uid]; ok {
		c.remove(uid)
	}
}

// setPod counts a pod that has a node, in its present state.
func (c *cache) setPod(pod *corev1.Pod) {
	p := place.NewPod(pod)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.assumed, pod.UID)
	c.put(p, pod.Spec.NodeName)
}

func (c *cache) removePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(uid)
}

// put replaces whatever is known of the pod. The caller holds mu.
func (c *cache) put(p *place.Pod, node string) {
	c.remove(p.API.UID)
	n := c.nodes[node]
	if n == nil {
		n = &place.Node{}
	}
	c.replace(node, n, n.With(p))
	c.at[p.API.UID] = node
}

// remove forgets a pod. The caller holds mu.
func (c *cache) remove(uid types.UID) {
	delete(c.assumed, uid)
	node, ok := c.at[uid]
	if !ok {
		return
	}
	delete(c.at, uid)
	n := c.nodes[node].Without(uid)
	if n.API == nil && len(n.Pods) == 0 {
		delete(c.nodes, node)
		return
	}
	c.replace(node, c.nodes[node], n)
}

// replace puts a changed node into the map, and into the snapshot by copying the list of nodes: sorting a thousand nodes
// again for each decision would cost more than the decision. The caller holds mu.
func (c *cache) replace(name string, old, n *place.Node) {
	c.nodes[name] = n
	if n.API != nil && c.snapshot != nil {
		c.snapshot = c.snapshot.Replace(old, n)
	}
}
