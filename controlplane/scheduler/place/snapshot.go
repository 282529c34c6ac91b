// SPDX-License-Identifier: Apache-2.0

package place

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Snapshot is the cluster at one moment. It and everything it points to is never changed. Nodes are sorted by name.
type Snapshot struct {
	Nodes []*Node
	// Namespaces gives the labels of each namespace, for affinity terms that select namespaces.
	Namespaces map[string]labels.Set
	// antiAffinity counts the pods with required anti-affinity on all nodes; affinity those that prefer to be near or
	// far from others.
	// While both are zero, nobody need look for such pods.
	antiAffinity, affinity int
	memo                   *memo
}

// NewSnapshot makes a Snapshot of nodes, which it keeps.
func NewSnapshot(nodes []*Node, namespaces map[string]labels.Set) *Snapshot {
	s := &Snapshot{Nodes: nodes, Namespaces: namespaces, memo: newMemo()}
	for _, n := range nodes {
		s.antiAffinity += n.antiAffinity
		s.affinity += n.affinity
	}
	return s
}

// Port is a port of the node that a pod takes.
type Port struct {
	Protocol corev1.Protocol
	IP       string // "0.0.0.0" is every address
	Port     int32
}

// Pod is a pod with what filters ask for worked out once.
type Pod struct {
	API      *corev1.Pod
	Requests Resources
	// UseCPU (in thousandths) and UseMemory (in bytes) are what it is expected to use, for comparing nodes.
	UseCPU, UseMemory int64
	Ports             []Port
	// Owner is the UID of the controller; empty without one.
	Owner types.UID

	facts     []fact
	ownerFact []fact
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
	spread    []spreadConstraint
	affinity  affinityTerms
}

// NewPod works out a Pod. Selectors that cannot be read select nothing; the API refuses them.
func NewPod(pod *corev1.Pod) *Pod {
	p := &Pod{API: pod, Requests: requests(pod), required: nodeaffinity.GetRequiredNodeAffinity(pod)}
	p.UseCPU, p.UseMemory = expectedUse(pod, p.Requests)
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		p.Owner = ref.UID
		p.ownerFact = []fact{ownerFact(ref.UID)}
	}
	p.facts = factsOf(pod, p.Owner)
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		if terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err == nil {
			p.preferred = terms
		}
	}
	p.Ports = ports(pod)
	p.spread = spreadConstraints(pod)
	p.affinity = readAffinity(pod)
	return p
}

// Node is a node with its pods.
type Node struct {
	version     version
	API         *corev1.Node
	Allocatable Resources
	MaxPods     int
	Pods        []*Pod

	Used              Resources
	UseCPU, UseMemory int64

	// Copies of what every decision reads, so that it does not reach into a large object for each of a thousand nodes.
	zone     string
	cordoned bool
	taints   []corev1.Taint

	facts                  facts
	ports                  map[Port]int
	owners                 map[types.UID]int // live pods by controller
	antiAffinity, affinity int
}

// NewNode makes a Node with no pods.
func NewNode(node *corev1.Node) *Node {
	n := &Node{}
	n.describe(node)
	return n
}

func (n *Node) describe(node *corev1.Node) {
	n.version = nextVersion()
	n.API = node
	n.zone = node.Labels[corev1.LabelTopologyZone]
	n.cordoned = node.Spec.Unschedulable
	n.taints = node.Spec.Taints
	n.Allocatable = resources(node.Status.Allocatable)
	pods := node.Status.Allocatable[corev1.ResourcePods]
	n.MaxPods = int(pods.Value())
}

// Describe returns a Node with the same pods and another description.
func (n *Node) Describe(node *corev1.Node) *Node {
	c := *n
	c.describe(node)
	return &c
}

// With returns a Node that also runs p.
func (n *Node) With(p *Pod) *Node {
	c := n.count(p, 1)
	c.facts.add(p.facts)
	c.Pods = append(slices.Clip(slices.Clone(n.Pods)), p)
	return c
}

// Without returns a Node that no longer runs the pod with this UID.
func (n *Node) Without(uid types.UID) *Node {
	at := slices.IndexFunc(n.Pods, func(p *Pod) bool { return p.API.UID == uid })
	if at < 0 {
		return n
	}
	c := n.count(n.Pods[at], -1)
	c.Pods = slices.Delete(slices.Clone(n.Pods), at, at+1)
	c.facts = facts{}
	for _, p := range c.Pods {
		c.facts.add(p.facts)
	}
	return c
}

// count returns a copy with p's share added or taken away.
func (n *Node) count(p *Pod, sign int) *Node {
	c := *n
	c.version = nextVersion()
	c.Used = n.Used.plus(p.Requests, int64(sign))
	c.UseCPU += int64(sign) * p.UseCPU
	c.UseMemory += int64(sign) * p.UseMemory
	if len(p.Ports) > 0 {
		c.ports = tally(n.ports, sign, p.Ports...)
	}
	if p.Owner != "" && p.API.DeletionTimestamp == nil {
		c.owners = tally(n.owners, sign, p.Owner)
	}
	if len(p.affinity.requiredAnti) > 0 {
		c.antiAffinity += sign
	}
	if p.affinity.prefers() {
		c.affinity += sign
	}
	return &c
}

// siblings counts the node's pods that have the same controller as p.
func (n *Node) siblings(p *Pod) int {
	if !n.facts.may(p.ownerFact) {
		return 0
	}
	return n.owners[p.Owner]
}

func tally[K comparable](counts map[K]int, sign int, keys ...K) map[K]int {
	out := maps.Clone(counts)
	if out == nil {
		out = map[K]int{}
	}
	for _, k := range keys {
		if out[k] += sign; out[k] <= 0 {
			delete(out, k)
		}
	}
	return out
}

// Replace returns a Snapshot with n in the place of old, which must be one of its nodes or not in it at all.
func (s *Snapshot) Replace(old, n *Node) *Snapshot {
	c := *s
	c.Nodes = slices.Clone(s.Nodes)
	at, found := slices.BinarySearchFunc(c.Nodes, n.API.Name, func(m *Node, name string) int { return cmp.Compare(m.API.Name, name) })
	if !found {
		return s
	}
	c.Nodes[at] = n
	c.antiAffinity += n.antiAffinity - old.antiAffinity
	c.affinity += n.affinity - old.affinity
	return &c
}
