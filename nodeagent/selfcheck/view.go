// SPDX-License-Identifier: Apache-2.0

package selfcheck

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/nodeagent/policymodel"
)

// Objects are what the API holds, as far as policy depends on it.
type Objects struct {
	Pods            []*corev1.Pod
	Namespaces      []*corev1.Namespace
	Nodes           []*corev1.Node
	Policies        []*networkingv1.NetworkPolicy
	ClusterPolicies []*policyv1alpha2.ClusterNetworkPolicy
	// Unenforced are policies, of either kind, of which the node knows that it does not enforce their present version.
	Unenforced map[types.NamespacedName]bool
}

// view is Objects by what questions are made of.
type view struct {
	// local are the pods whose policy this node enforces, as the datapath has them.
	local []*corev1.Pod
	known map[*corev1.Pod]bool
	// first is a pod that says that an address is its own, others are more of them, which there hardly ever are; addrs lists those
	// addresses.
	first      map[netip.Addr]*corev1.Pod
	others     map[netip.Addr][]*corev1.Pod
	addrs      []netip.Addr
	nodes      map[netip.Addr][]*corev1.Node
	nodeAddrs  []netip.Addr
	namespaces map[string]*corev1.Namespace
	policies   map[string][]*networkingv1.NetworkPolicy
	cluster    []*policyv1alpha2.ClusterNetworkPolicy
	unenforced map[types.NamespacedName]bool
}

// newView sorts objects as seen from a node. attached are the UIDs of the pods that the datapath knows.
func newView(node string, o Objects, attached map[string]bool) *view {
	v := &view{
		known: map[*corev1.Pod]bool{}, nodes: map[netip.Addr][]*corev1.Node{},
		first: make(map[netip.Addr]*corev1.Pod, 2*len(o.Pods)), others: map[netip.Addr][]*corev1.Pod{}, addrs: make([]netip.Addr, 0, 2*len(o.Pods)),
		namespaces: map[string]*corev1.Namespace{}, policies: map[string][]*networkingv1.NetworkPolicy{}, cluster: o.ClusterPolicies, unenforced: o.Unenforced,
	}
	for _, p := range o.Pods {
		if p.Spec.HostNetwork || ended(p) {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			v.claim(ip.IP, p)
		}
		if p.Spec.NodeName == node && len(p.Status.PodIPs) > 0 && attached[string(p.UID)] {
			v.local = append(v.local, p)
			v.known[p] = true
		}
	}
	for _, n := range o.Nodes {
		for _, a := range nodeAddrs(n) {
			v.nodes[a] = append(v.nodes[a], n)
			v.nodeAddrs = append(v.nodeAddrs, a)
		}
	}
	for _, ns := range o.Namespaces {
		v.namespaces[ns.Name] = ns
	}
	for _, p := range o.Policies {
		v.policies[p.Namespace] = append(v.policies[p.Namespace], p)
	}
	return v
}

func (v *view) claim(ip string, p *corev1.Pod) {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return
	}
	a = a.Unmap()
	if _, taken := v.first[a]; taken {
		v.others[a] = append(v.others[a], p)
		return
	}
	v.first[a] = p
	v.addrs = append(v.addrs, a)
}

// claims are the pods that say that an address is theirs.
func (v *view) claims(a netip.Addr) []*corev1.Pod {
	if p := v.first[a]; p != nil {
		return append([]*corev1.Pod{p}, v.others[a]...)
	}
	return nil
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func podAddrs(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

func nodeAddrs(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, address := range n.Status.Addresses {
		if a, err := netip.ParseAddr(address.Address); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// world is the part of the view that a connection between two addresses depends on: whoever claims one of them, their namespaces with all
// policies in them, and the policies of the cluster. The model goes over everything it is given, so a whole cluster would take it long.
// It reports false when nobody can tell: a pod's namespace is not known yet, or one of the policies is not in force, which has a
// condition of its own.
func (v *view) world(src, dst netip.Addr) (w policymodel.World, ok bool) {
	ok = true
	namespaces := map[string]bool{}
	for _, addr := range []netip.Addr{src, dst} {
		for _, p := range v.claims(addr) {
			w.Pods = append(w.Pods, modelPod(p))
			namespaces[p.Namespace] = true
		}
		for _, n := range v.nodes[addr] {
			w.Nodes = append(w.Nodes, policymodel.Node{Name: n.Name, Labels: n.Labels, IPs: nodeAddrs(n)})
		}
	}
	for name := range namespaces {
		ns := v.namespaces[name]
		if ns == nil {
			return w, false
		}
		w.Namespaces = append(w.Namespaces, policymodel.Namespace{Name: name, Labels: ns.Labels})
		for _, p := range v.policies[name] {
			w.Policies = append(w.Policies, *p)
			ok = ok && !v.unenforced[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}]
		}
	}
	for _, p := range v.cluster {
		w.ClusterPolicies = append(w.ClusterPolicies, *p)
		ok = ok && !v.unenforced[types.NamespacedName{Name: p.Name}]
	}
	return w, ok
}

func modelPod(p *corev1.Pod) policymodel.Pod {
	out := policymodel.Pod{
		UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, Labels: p.Labels, IPs: podAddrs(p),
		HostNetwork: p.Spec.HostNetwork, Terminal: ended(p), Created: p.CreationTimestamp.Time,
	}
	add := func(c corev1.Container) {
		for _, port := range c.Ports {
			if port.Name != "" {
				protocol := string(port.Protocol)
				if protocol == "" {
					protocol = "TCP"
				}
				out.Ports = append(out.Ports, policymodel.NamedPort{Name: port.Name, Protocol: protocol, Number: int(port.ContainerPort)})
			}
		}
	}
	for _, c := range p.Spec.Containers {
		add(c)
	}
	for _, c := range p.Spec.InitContainers {
		// One that is restarted runs beside the main ones.
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

// podNamed is the pod with an address and a name as the model gives it, if this node's datapath has it.
func (v *view) podNamed(addr netip.Addr, name string) *corev1.Pod {
	for _, p := range v.claims(addr) {
		if v.known[p] && p.Namespace+"/"+p.Name == name {
			return p
		}
	}
	return nil
}
