// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/event"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/policymodel"
)

// thisNode is the node whose datapath is tested.
const thisNode = "node-a"

// bench holds one cluster in three forms: the model's, the translator's and the maps'.
type bench struct {
	t       testing.TB
	h       *progtest.Harness
	rules   *intent.RuleTable
	cluster *intent.Cluster
	world   policymodel.World
	// endpoints are the pods that the programs know.
	endpoints map[string]bool
	events    *event.Reader
}

func newBench(t testing.TB, h *progtest.Harness) *bench {
	t.Helper()
	rules, err := intent.NewRuleTable("")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, h: h, rules: rules, cluster: intent.NewCluster(thisNode, rules), endpoints: map[string]bool{}}
	if h == nil {
		return b // the maps are somebody else's
	}
	if b.events, err = event.NewReader(h.Maps); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) setNamespace(ns policymodel.Namespace) {
	b.world.Namespaces = append(slices.DeleteFunc(b.world.Namespaces, func(o policymodel.Namespace) bool { return o.Name == ns.Name }), ns)
	b.cluster.SetNamespace(ns.Name, ns.Labels)
}

// setPod adds or replaces a pod everywhere. Only a live pod of this node has a device.
func (b *bench) setPod(p policymodel.Pod) {
	b.world.Pods = append(slices.DeleteFunc(b.world.Pods, func(o policymodel.Pod) bool { return o.UID == p.UID }), p)
	b.cluster.SetPod(apiPod(p))
	if p.Node == thisNode && !p.HostNetwork && !p.Terminal {
		if err := b.h.Endpoint(datapath.EndpointID(p.UID), p.IPs...); err != nil {
			b.t.Fatal(err)
		}
		b.endpoints[p.UID] = true
	}
}

func (b *bench) deletePod(uid string) {
	b.world.Pods = slices.DeleteFunc(b.world.Pods, func(o policymodel.Pod) bool { return o.UID == uid })
	b.cluster.DeletePod(types.UID(uid))
	if b.endpoints[uid] {
		if err := b.h.RemoveEndpoint(datapath.EndpointID(uid)); err != nil {
			b.t.Fatal(err)
		}
		delete(b.endpoints, uid)
	}
}

func (b *bench) setPolicy(p networkingv1.NetworkPolicy) {
	b.deletePolicy(p.Namespace, p.Name)
	b.world.Policies = append(b.world.Policies, p)
	if _, err := b.cluster.SetNetworkPolicy(p.DeepCopy()); err != nil {
		b.t.Fatal(err)
	}
}

// deletePolicy removes a policy from the model; the cluster replaces by name, and forgets only what is not set again.
func (b *bench) deletePolicy(namespace, name string) {
	b.world.Policies = slices.DeleteFunc(b.world.Policies, func(o networkingv1.NetworkPolicy) bool { return o.Namespace == namespace && o.Name == name })
}

func (b *bench) forgetPolicy(namespace, name string) {
	b.deletePolicy(namespace, name)
	b.cluster.DeleteNetworkPolicy(namespace, name)
}

func (b *bench) setClusterPolicy(p policyv1alpha2.ClusterNetworkPolicy) {
	b.world.ClusterPolicies = append(slices.DeleteFunc(b.world.ClusterPolicies, func(o policyv1alpha2.ClusterNetworkPolicy) bool { return o.Name == p.Name }), p)
	if _, err := b.cluster.SetClusterPolicy(p.DeepCopy()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) forgetClusterPolicy(name string) {
	b.world.ClusterPolicies = slices.DeleteFunc(b.world.ClusterPolicies, func(o policyv1alpha2.ClusterNetworkPolicy) bool { return o.Name == name })
	b.cluster.DeleteClusterPolicy(name)
}

// setNode adds or replaces a node as a peer of policies.
func (b *bench) setNode(n policymodel.Node) {
	b.world.Nodes = append(slices.DeleteFunc(b.world.Nodes, func(o policymodel.Node) bool { return o.Name == n.Name }), n)
	b.cluster.SetNodePeer(apiNode(n))
}

func apiNode(n policymodel.Node) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}}
	for _, ip := range n.IPs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return node
}

// load brings the maps up to date.
func (b *bench) load() {
	b.t.Helper()
	if err := b.h.Load(b.cluster.Policy()); err != nil {
		b.t.Fatal(err)
	}
}

// close forgets the pods, so that the harness can be used for the next world.
func (b *bench) close() {
	b.told()
	if err := b.events.Close(); err != nil {
		b.t.Fatal(err)
	}
	for uid := range b.endpoints {
		if err := b.h.RemoveEndpoint(datapath.EndpointID(uid)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// probe is a packet with the place where it meets this node's programs.
type probe struct {
	progtest.Packet
	fromNode bool
}

func (p probe) String() string {
	text := fmt.Sprintf("%s %s:%d -> %s:%d flags %#x", protocolName(p.Protocol), p.Src, p.SrcPort, p.Dst, p.DstPort, p.Flags)
	if p.fromNode {
		text += " from the node"
	}
	return text
}

// conn is the probe as the model takes it.
func (p probe) conn() policymodel.Conn {
	return policymodel.Conn{Src: p.Src, Dst: p.Dst, Protocol: protocolName(p.Protocol), Port: int(p.DstPort), FromOwnNode: p.fromNode}
}

// localPod is the live pod of this node that has an address.
func (b *bench) localPod(addr netip.Addr) *policymodel.Pod {
	for i := range b.world.Pods {
		p := &b.world.Pods[i]
		if b.endpoints[p.UID] && slices.Contains(p.IPs, addr) {
			return p
		}
	}
	return nil
}

// expected reduces the model's verdict to the checks that this node owes.
func (b *bench) expected(p probe) policymodel.Verdict {
	return b.owed(p, policymodel.Judge(b.world, p.conn()))
}

func (b *bench) owed(p probe, v policymodel.Verdict) policymodel.Verdict {
	if b.localPod(p.Src) == nil {
		v.Egress = policymodel.Side{Allowed: true}
	}
	if b.localPod(p.Dst) == nil {
		v.Ingress = policymodel.Side{Allowed: true}
	}
	v.Allowed = v.Egress.Allowed && v.Ingress.Allowed
	return v
}

// send gives the packet to the program it meets first on this node.
func (b *bench) send(p probe) (progtest.Result, error) {
	if src := b.localPod(p.Src); src != nil {
		return b.h.Send(datapath.EndpointID(src.UID), datapath.Egress, p.Packet)
	}
	dst := b.localPod(p.Dst)
	if dst == nil {
		return progtest.Result{}, fmt.Errorf("%v does not touch this node", p)
	}
	if p.fromNode {
		return b.h.FromNode(datapath.EndpointID(dst.UID), p.Packet)
	}
	return b.h.Send(datapath.EndpointID(dst.UID), datapath.Ingress, p.Packet)
}

// flow reads the conntrack entry of a packet.
func (b *bench) flow(p progtest.Packet) (bpfmap.FlowEntry, bool) {
	key, _ := bpfmap.FlowKey(p.Tuple())
	entry, ok, err := b.h.Maps.Flow.Get(key)
	if err != nil {
		b.t.Fatal(err)
	}
	return entry, ok
}

// compare sends a packet that no flow is known for, forgets its flow again and returns in what model and program differ.
func (b *bench) compare(p probe) (policymodel.Verdict, string) {
	want := b.expected(p)
	got, err := b.send(p)
	if err != nil {
		b.t.Fatal(err)
	}
	entry, entered := b.flow(p.Packet)
	if entered {
		if err := b.h.Forget(p.Packet); err != nil {
			b.t.Fatal(err)
		}
	}
	if difference := b.compareAudit(p, want); difference != "" {
		return want, difference
	}
	if got.Allowed() != want.Allowed {
		return want, fmt.Sprintf("%v: the model says %v, the program %v (%v, rule %+v)", p, want, got.Allowed(), got.Reason, b.rule(got.Rule))
	}
	if p.fromNode {
		return want, ""
	}
	if difference := b.compareAnswer(p, want); difference != "" {
		return want, difference
	}
	if !got.Allowed() {
		return want, b.compareDenial(p, want, got)
	}
	if !entered {
		return want, fmt.Sprintf("%v: allowed without an entry", p)
	}
	return want, b.compareRule(p, "egress", want.Egress, entry.Sides[datapath.Egress].Rule) +
		b.compareRule(p, "ingress", want.Ingress, entry.Sides[datapath.Ingress].Rule) + b.compareWould(p, want, entry)
}

// compareAnswer asks about the packet's connection without sending it.
func (b *bench) compareAnswer(p probe, want policymodel.Verdict) string {
	answer, err := b.h.Ask(datapath.Question{
		Src: p.Src, Dst: p.Dst, Protocol: datapath.Protocol(p.Protocol), Port: p.Tuple().Dst.Port(),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	would := b.owed(p, policymodel.Would(b.world, p.conn()))
	for _, side := range []struct {
		got         datapath.Verdict
		want, would policymodel.Side
	}{{answer.Egress, want.Egress, would.Egress}, {answer.Ingress, want.Ingress, would.Ingress}} {
		if side.got.Failed || side.got.Judged != (side.want.Pod != "") || side.got.Allowed != side.want.Allowed || side.got.WouldAllow != side.would.Allowed {
			return fmt.Sprintf("%v: the model says %+v and would say %+v, asked the program says %+v", p, want, would, answer)
		}
	}
	return ""
}

// compareDenial checks that the drop names the right direction and exactly the policies that isolate. Egress is judged first.
func (b *bench) compareDenial(p probe, want policymodel.Verdict, got progtest.Result) string {
	side, dir, reason := want.Egress, datapath.Egress, bpfobj.SkepReasonSKEP_REASON_POLICY_EGRESS
	if side.Allowed {
		side, dir, reason = want.Ingress, datapath.Ingress, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS
	}
	if p.Protocol == progtest.TCP && p.Flags&progtest.ACK != 0 {
		reason = bpfobj.SkepReasonSKEP_REASON_MIDFLOW_DENIED
	}
	info := b.rule(got.Rule)
	if side.Cluster != nil {
		if got.Reason != reason || info.Direction != dir || !names(info, *side.Cluster) {
			return fmt.Sprintf("%v: denied by %v, rule %+v; the model says %v of direction %d", p, got.Reason, info, *side.Cluster, dir)
		}
		return ""
	}
	isolating := slices.Sorted(slices.Values(side.Isolating))
	if got.Reason != reason || !info.DefaultDeny() || info.Direction != dir || !slices.Equal(slices.Sorted(slices.Values(info.Policies)), isolating) {
		return fmt.Sprintf("%v: denied by %v, rule %+v; the model says %v of direction %d", p, got.Reason, info, isolating, dir)
	}
	return ""
}

// compareRule checks that the rule in the entry is one that the model names.
func (b *bench) compareRule(p probe, direction string, side policymodel.Side, id uint32) string {
	if side.Cluster != nil {
		if info := b.rule(datapath.RuleID(id)); !names(info, *side.Cluster) {
			return fmt.Sprintf("%v: %s is attributed to %+v, the model names %v", p, direction, info, *side.Cluster)
		}
		return ""
	}
	if len(side.Isolating) == 0 {
		if id != 0 {
			return fmt.Sprintf("%v: %s is not isolated but attributed to %+v", p, direction, b.rule(datapath.RuleID(id)))
		}
		return ""
	}
	info := b.rule(datapath.RuleID(id))
	if info.DefaultDeny() || !slices.Contains(side.Allowing, policymodel.RuleRef{Policy: info.Policies[0], Index: info.Index}) {
		return fmt.Sprintf("%v: %s is attributed to %+v, the model names %v", p, direction, info, side.Allowing)
	}
	return ""
}

func names(info intent.RuleInfo, ref policymodel.RuleRef) bool {
	return len(info.Policies) == 1 && info.Policies[0] == ref.Policy && info.Index == ref.Index
}

func (b *bench) rule(id datapath.RuleID) intent.RuleInfo {
	info, ok := b.rules.Lookup(id)
	if !ok {
		return intent.RuleInfo{ID: id, Policies: []string{"unknown"}, Index: -1}
	}
	return info
}

func apiPod(p policymodel.Pod) *corev1.Pod {
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID), Labels: p.Labels,
			CreationTimestamp: metav1.NewTime(p.Created),
		},
		Spec: corev1.PodSpec{NodeName: p.Node, HostNetwork: p.HostNetwork, Containers: []corev1.Container{{Name: "c"}}},
	}
	for _, ip := range p.IPs {
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	for _, port := range p.Ports {
		out.Spec.Containers[0].Ports = append(out.Spec.Containers[0].Ports, corev1.ContainerPort{
			Name: port.Name, Protocol: corev1.Protocol(port.Protocol), ContainerPort: int32(port.Number),
		})
	}
	if p.Terminal {
		out.Status.Phase = corev1.PodSucceeded
	}
	return out
}

func protocolName(p uint8) string {
	switch p {
	case progtest.TCP:
		return "TCP"
	case progtest.UDP:
		return "UDP"
	case progtest.SCTP:
		return "SCTP"
	}
	return fmt.Sprint("protocol ", p)
}

// epoch is when the first pod of a world is made.
var epoch = time.Unix(1_700_000_000, 0)
