// SPDX-License-Identifier: Apache-2.0

// Package intent translates Kubernetes objects into what the datapath of one node should do. It is the only place that
// knows both.
//
// Cluster is the translation: a plain data structure without client, clock or kernel. It takes one object at a time,
// keeps what can be kept between changes, and renders datapath values on demand. Translator is the thin shell around it
// that listens to the API and hands the result over.
//
// How policy is kept cheap: pods with the same namespace, labels and named ports are one profile. Selectors are
// evaluated once per profile, never per pod; policy sets are built per profile of a local pod; only what a change
// touches is built anew. Addresses that belong to the same atoms are one group, and a group that as a whole comes to belong to
// another atom is the same group, so that a policy with a selector for thousands of pods says little about each of them.
package intent

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/datapath"
)

// Cluster holds the part of the cluster's state that packets on one node depend on. It is not safe for concurrent use.
type Cluster struct {
	node  string
	rules *RuleTable

	pods   map[types.UID]*pod
	byNS   map[string]map[types.UID]*pod
	owners map[netip.Addr][]*pod
	// held gives the profile of the pod that owns an address.
	held       map[netip.Addr]*profile
	profiles   map[string]*profile
	profilesIn map[string]map[*profile]struct{} // by namespace
	namespaces map[string]labels.Set
	// localPods and localProfiles are those of this node.
	localPods     map[types.UID]*pod
	localProfiles map[*profile]struct{}
	policies      map[string]map[string]*policy // namespace, name
	// clusterPolicies are the policies without a namespace, by name.
	clusterPolicies map[string]*clusterPolicy
	nodePeers       map[string]nodePeer
	// withheld are policies that should be in force and never were; unfit are the profiles with too many rules.
	withheld map[string]withheld
	unfit    map[*profile]*unfit
	atoms    map[datapath.AtomID]*atom
	lastAtom uint32
	index    atomIndex
	groups   *groups
	cidrs    datapath.MapEditor[datapath.AtomID, datapath.CIDR]
	// numbers counts for each port name the profiles that give it a number.
	numbers map[namedPort]map[uint16]int

	// sets and endpoints are rendered anew when stale; what has been handed out is never changed.
	sets           map[datapath.SetID]datapath.PolicySet
	endpoints      map[datapath.EndpointID]datapath.EndpointPolicy
	endpointsStale bool

	services *serviceIndex
	nodes    map[string]datapath.Node
}

// pod is what policy needs of a Pod.
type pod struct {
	uid     types.UID
	created time.Time
	local   bool
	// hostNetwork pods share the node's addresses: they are neither subject nor peer of any policy.
	hostNetwork bool
	// terminal pods own no address, whatever their status still says.
	terminal bool
	addrs    []netip.Addr
	profile  *profile

	namespace string
	labels    labels.Set
	ports     []podPort
}

// podPort is a named container port.
type podPort struct {
	namedPort
	number uint16
}

// namedPort is a port name as policies use it: the same name may exist in several protocols.
type namedPort struct {
	protocol datapath.Protocol
	name     string
}

// profile is a class of pods that no policy can tell apart.
type profile struct {
	key       string
	namespace string
	// nsLabels is nil while the namespace is not known.
	nsLabels labels.Set
	labels   labels.Set
	ports    []podPort
	// refs counts pods, local those that this node runs.
	refs, local int
	// addrs are the addresses that its pods own.
	addrs []netip.Addr
	// selected are the atoms that select it, by serial. Those that need the address are not among them.
	selected []*atom
	// sets is nil when to be built anew.
	sets *profileSets
}

// NewCluster returns an empty cluster as seen from node. Rule numbers come from rules.
func NewCluster(node string, rules *RuleTable) *Cluster {
	return &Cluster{
		node:       node,
		rules:      rules,
		pods:       map[types.UID]*pod{},
		byNS:       map[string]map[types.UID]*pod{},
		owners:     map[netip.Addr][]*pod{},
		held:       map[netip.Addr]*profile{},
		profiles:   map[string]*profile{},
		profilesIn: map[string]map[*profile]struct{}{},
		namespaces: map[string]labels.Set{},

		localPods:     map[types.UID]*pod{},
		localProfiles: map[*profile]struct{}{},
		policies:      map[string]map[string]*policy{},

		clusterPolicies: map[string]*clusterPolicy{},
		nodePeers:       map[string]nodePeer{},
		withheld:        map[string]withheld{},
		unfit:           map[*profile]*unfit{},

		atoms: map[datapath.AtomID]*atom{},
		index: atomIndex{
			pods: map[string]map[*atom]struct{}{}, byAddress: map[*atom]struct{}{}, nodes: map[*atom]struct{}{},
		},
		groups:         newGroups(),
		numbers:        map[namedPort]map[uint16]int{},
		endpointsStale: true,
		services:       newServiceIndex(node),
		nodes:          map[string]datapath.Node{},
	}
}

// SetPod adds or replaces a pod and reports whether policy may differ.
func (c *Cluster) SetPod(obj *corev1.Pod) bool {
	p := c.newPod(obj)
	old := c.pods[p.uid]
	if old != nil && old.same(p) {
		return false
	}
	c.insert(p)
	if old != nil {
		c.remove(old) // after the insert, so that a shared profile survives
		c.enter(p)
	}
	return true
}

// DeletePod forgets a pod and reports whether it was known.
func (c *Cluster) DeletePod(uid types.UID) bool {
	p := c.pods[uid]
	if p == nil {
		return false
	}
	c.remove(p)
	return true
}

// SetNamespace sets a namespace's labels and reports whether policy may differ.
func (c *Cluster) SetNamespace(name string, set labels.Set) bool {
	if old, ok := c.namespaces[name]; ok && labels.Equals(old, set) {
		return false
	}
	if set == nil {
		set = labels.Set{} // nil stands for a namespace that is not known
	}
	c.namespaces[name] = set
	c.reprofile(name)
	return true
}

// DeleteNamespace forgets a namespace. Pods that are still known in it are then selected by no namespaceSelector.
func (c *Cluster) DeleteNamespace(name string) bool {
	if _, ok := c.namespaces[name]; !ok {
		return false
	}
	delete(c.namespaces, name)
	c.reprofile(name)
	return true
}

// reprofile moves the pods of a namespace to the profiles that its present labels give.
func (c *Cluster) reprofile(namespace string) {
	for _, p := range c.byNS[namespace] {
		if p.profile == nil {
			continue
		}
		old := p.profile
		p.profile = c.acquireProfile(p)
		c.settle(p)
		c.releaseProfile(old, p.local)
		c.endpointsStale = c.endpointsStale || p.local
	}
}

func (c *Cluster) newPod(obj *corev1.Pod) *pod {
	p := &pod{
		uid:         obj.UID,
		created:     obj.CreationTimestamp.Time,
		local:       obj.Spec.NodeName == c.node,
		hostNetwork: obj.Spec.HostNetwork,
		terminal:    obj.Status.Phase == corev1.PodSucceeded || obj.Status.Phase == corev1.PodFailed,
		namespace:   obj.Namespace,
		labels:      obj.Labels,
		ports:       podPorts(&obj.Spec),
	}
	for _, ip := range obj.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.addrs = append(p.addrs, a.Unmap())
		}
	}
	return p
}

// podPorts lists the named ports of the containers that run beside each other: the main ones and restartable init
// containers.
func podPorts(spec *corev1.PodSpec) []podPort {
	var out []podPort
	add := func(ports []corev1.ContainerPort) {
		for _, cp := range ports {
			proto, ok := protocolOf(cp.Protocol)
			if cp.Name == "" || !ok {
				continue
			}
			out = append(out, podPort{namedPort{proto, cp.Name}, uint16(cp.ContainerPort)})
		}
	}
	for _, ctr := range spec.Containers {
		add(ctr.Ports)
	}
	for _, ctr := range spec.InitContainers {
		if ctr.RestartPolicy != nil && *ctr.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(ctr.Ports)
		}
	}
	slices.SortFunc(out, comparePodPorts)
	return slices.Compact(out)
}

func comparePodPorts(a, b podPort) int {
	if d := strings.Compare(a.name, b.name); d != 0 {
		return d
	}
	if a.protocol != b.protocol {
		return int(a.protocol) - int(b.protocol)
	}
	return int(a.number) - int(b.number)
}

func (p *pod) same(q *pod) bool {
	return p.local == q.local && p.hostNetwork == q.hostNetwork && p.terminal == q.terminal &&
		p.namespace == q.namespace && p.created.Equal(q.created) && slices.Equal(p.addrs, q.addrs) &&
		labels.Equals(p.labels, q.labels) && slices.Equal(p.ports, q.ports)
}

func (c *Cluster) insert(p *pod) {
	c.enter(p)
	if p.hostNetwork {
		return
	}
	p.profile = c.acquireProfile(p)
	if p.terminal {
		return
	}
	for _, a := range p.addrs {
		c.owners[a] = append(c.owners[a], p)
	}
	c.settle(p)
}

// enter makes a pod known by its identity.
func (c *Cluster) enter(p *pod) {
	c.pods[p.uid] = p
	if c.byNS[p.namespace] == nil {
		c.byNS[p.namespace] = map[types.UID]*pod{}
	}
	c.byNS[p.namespace][p.uid] = p
	if p.local {
		c.localPods[p.uid] = p
		c.endpointsStale = true
	}
}

func (c *Cluster) remove(p *pod) {
	delete(c.pods, p.uid)
	delete(c.byNS[p.namespace], p.uid)
	if p.local {
		delete(c.localPods, p.uid)
		c.endpointsStale = true
	}
	if p.hostNetwork {
		return
	}
	if !p.terminal {
		for _, a := range p.addrs {
			c.owners[a] = slices.DeleteFunc(c.owners[a], func(o *pod) bool { return o == p })
			if len(c.owners[a]) == 0 {
				delete(c.owners, a)
			}
		}
		c.settle(p)
	}
	c.releaseProfile(p.profile, p.local)
}

// settle finds out anew to whom the addresses of a pod belong, and thereby to which atoms.
func (c *Cluster) settle(p *pod) {
	for _, a := range p.addrs {
		c.settleAddress(a)
	}
}

func (c *Cluster) settleAddress(addr netip.Addr) {
	before := c.held[addr]
	var now *profile
	if claims := c.owners[addr]; len(claims) > 0 {
		now = newest(claims).profile
	}
	if before != now {
		delete(c.held, addr)
		if before != nil {
			before.addrs = slices.DeleteFunc(before.addrs, func(o netip.Addr) bool { return o == addr })
		}
		if now != nil {
			c.held[addr] = now
			now.addrs = append(now.addrs, addr)
		}
	}
	c.groups.put(addr, c.atomsOf(addr, now))
}

// atomsOf lists the atoms of an address by serial. A pod's address is the pod's; otherwise it may be a node's.
func (c *Cluster) atomsOf(addr netip.Addr, pr *profile) []*atom {
	if pr == nil {
		return c.nodeAtoms(addr)
	}
	atoms := pr.selected
	for a := range c.index.byAddress {
		if a.admitsPort(pr) && a.containsAddress(addr) {
			atoms = append(slices.Clip(atoms), a) // clipped: the profile's own list is shared
		}
	}
	if len(atoms) > len(pr.selected) {
		slices.SortFunc(atoms, compareAtoms)
	}
	return slices.Clip(atoms)
}

// newest is the pod that an address belongs to: until the API has caught up, a successor and its predecessor may both claim it.
func newest(claims []*pod) *pod {
	best := claims[0]
	for _, p := range claims[1:] {
		if p.created.After(best.created) || (p.created.Equal(best.created) && p.uid > best.uid) {
			best = p
		}
	}
	return best
}

// acquireProfile returns the profile of a pod, made if it is the first of its kind.
func (c *Cluster) acquireProfile(p *pod) *profile {
	nsLabels := c.namespaces[p.namespace]
	key := profileKey(p, nsLabels)
	pr := c.profiles[key]
	if pr == nil {
		pr = &profile{key: key, namespace: p.namespace, nsLabels: nsLabels, labels: p.labels, ports: p.ports}
		c.profiles[key] = pr
		if c.profilesIn[pr.namespace] == nil {
			c.profilesIn[pr.namespace] = map[*profile]struct{}{}
		}
		c.profilesIn[pr.namespace][pr] = struct{}{}
		c.selectAtoms(pr)
		c.countNumbers(pr, 1)
	}
	pr.refs++
	if p.local {
		pr.local++
		c.localProfiles[pr] = struct{}{}
	}
	return pr
}

// selectAtoms evaluates the atoms in use for a new profile.
func (c *Cluster) selectAtoms(pr *profile) {
	for _, list := range []map[*atom]struct{}{c.index.pods[""], c.index.pods[pr.namespace]} {
		for a := range list {
			if a.selects(pr) {
				pr.selected = append(pr.selected, a)
			}
		}
	}
	slices.SortFunc(pr.selected, compareAtoms)
}

func (c *Cluster) releaseProfile(pr *profile, local bool) {
	pr.refs--
	if local {
		pr.local--
	}
	if pr.local == 0 {
		delete(c.localProfiles, pr)
		c.dropSets(pr)
	}
	if pr.refs == 0 {
		delete(c.profiles, pr.key)
		delete(c.profilesIn[pr.namespace], pr)
		if len(c.profilesIn[pr.namespace]) == 0 {
			delete(c.profilesIn, pr.namespace)
		}
		c.countNumbers(pr, -1)
	}
}

// countNumbers notes which numbers port names stand for. When a number comes or goes, sets that split egress rules by
// number are built anew.
func (c *Cluster) countNumbers(pr *profile, delta int) {
	for _, pp := range pr.ports {
		m := c.numbers[pp.namedPort]
		if m == nil {
			m = map[uint16]int{}
			c.numbers[pp.namedPort] = m
		}
		before := m[pp.number]
		m[pp.number] = before + delta
		if before+delta == 0 {
			delete(m, pp.number)
		}
		if before == 0 || before+delta == 0 {
			c.staleByName(pp.namedPort)
		}
	}
}

func profileKey(p *pod, nsLabels labels.Set) string {
	var b strings.Builder
	b.WriteString(p.namespace)
	b.WriteByte(0)
	if nsLabels == nil {
		b.WriteByte('?')
	}
	b.WriteString(nsLabels.String())
	b.WriteByte(0)
	b.WriteString(p.labels.String())
	for _, pp := range p.ports {
		b.WriteByte(0)
		b.WriteString(pp.name)
		b.WriteByte('/')
		b.WriteString(strconv.Itoa(int(pp.protocol)))
		b.WriteByte('=')
		b.WriteString(strconv.Itoa(int(pp.number)))
	}
	return b.String()
}

func protocolOf(p corev1.Protocol) (datapath.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return datapath.TCP, true
	case corev1.ProtocolUDP:
		return datapath.UDP, true
	case corev1.ProtocolSCTP:
		return datapath.SCTP, true
	}
	return 0, false
}
