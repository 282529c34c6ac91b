// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfmap"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/policymodel"
)

// tracker adds memory to a bench: which flows are known and who began them. It says what connection tracking means:
//
//   - A flow is always judged as its initiator began it, by each check that this node owes, under the policy of the moment.
//   - A packet of no known flow is judged as its own direction; allowed, it begins a flow.
//   - A packet that opens something (SYN, echo request) is never a reply.
//   - A flow that a later policy forbids stays known: its replies do not become flows of their own.
//   - With a pod go the flows of its addresses, and with a new one those that others had begun to its addresses before.
type tracker struct {
	*bench
	flows map[bpfobj.SkepCtKey]probe // by tuple, as begun
}

func newTracker(b *bench) *tracker {
	return &tracker{bench: b, flows: map[bpfobj.SkepCtKey]probe{}}
}

func keyOf(p probe) bpfobj.SkepCtKey {
	key, _ := bpfmap.FlowKey(p.Tuple())
	return key
}

func opens(p probe) bool {
	switch p.Protocol {
	case progtest.TCP:
		return p.Flags&progtest.ACK == 0
	case progtest.ICMP:
		return p.Type == progtest.EchoRequest4
	case progtest.ICMPv6:
		return p.Type == progtest.EchoRequest6
	}
	return false
}

func onlyReply(p probe) bool {
	return (p.Protocol == progtest.ICMP && p.Type == progtest.EchoReply4) || (p.Protocol == progtest.ICMPv6 && p.Type == progtest.EchoReply6)
}

// verdict predicts what happens to a packet; begun is the packet that the verdict is about.
func (tr *tracker) verdict(p probe) (v policymodel.Verdict, begun probe, known bool) {
	begun, known = tr.flows[keyOf(p)]
	if known && opens(p) && begun.Src != p.Src {
		known = false
	}
	if !known {
		begun = p
	}
	v = tr.expected(begun)
	if !known && onlyReply(p) {
		v.Allowed = false
	}
	return v, begun, known
}

// step sends a packet and returns in what prediction and program differ.
func (tr *tracker) step(p probe) string {
	want, begun, known := tr.verdict(p)
	got, err := tr.send(p)
	if err != nil {
		tr.t.Fatal(err)
	}
	if got.Allowed() != want.Allowed {
		return fmt.Sprintf("%v (known %v, begun by %v): expected %+v, the program says %v, rule %+v", p, known, begun, want, got.Reason, tr.rule(got.Rule))
	}
	if !want.Allowed {
		if known && got.Reason != bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED {
			return fmt.Sprintf("%v: a known flow is dropped as %v", p, got.Reason)
		}
		return ""
	}
	tr.flows[keyOf(p)] = begun
	entry, entered := tr.flow(p.Packet)
	if !entered {
		return fmt.Sprintf("%v: allowed without an entry", p)
	}
	if begun.fromNode {
		return ""
	}
	return tr.compareRule(begun, "egress", want.Egress, entry.Sides[datapath.Egress].Rule) +
		tr.compareRule(begun, "ingress", want.Ingress, entry.Sides[datapath.Ingress].Rule) + tr.compareWould(begun, want, entry)
}

// removePod deletes a pod with its flows, if this node knew it.
func (tr *tracker) removePod(p policymodel.Pod) {
	if tr.endpoints[p.UID] {
		tr.dropFlows(p)
	}
	tr.deletePod(p.UID)
}

// addPod adds a new pod.
func (tr *tracker) addPod(p policymodel.Pod) {
	tr.setPod(p)
	if tr.endpoints[p.UID] {
		tr.dropFlows(p)
	}
}

func (tr *tracker) dropFlows(of policymodel.Pod) {
	for key, f := range tr.flows {
		if slices.Contains(of.IPs, f.Src) || slices.Contains(of.IPs, f.Dst) {
			delete(tr.flows, key)
		}
	}
}

// forget ends a world.
func (tr *tracker) forget() {
	for _, f := range tr.flows {
		if err := tr.h.Forget(f.Packet); err != nil {
			tr.t.Fatal(err)
		}
	}
	tr.close()
}

const stepsPerSequence = 120

func TestRandomSequences(t *testing.T) {
	h := progtest.New(t)
	rnd := seeded(t)
	steps, counts := 0, map[string]int{}
	for steps < max(*casesFlag/8, 1) {
		b := newBench(t, h)
		g := newGenerator(rnd, b)
		tr := newTracker(b)
		g.fill()
		b.load()
		var log []string
		for range stepsPerSequence {
			what, difference := g.act(tr)
			log = append(log, what)
			steps++
			if difference != "" {
				for _, line := range log {
					t.Log(line)
				}
				t.Fatalf("step %d: %s\n%s", len(log), difference, describe(b.world))
			}
			counts[strings.Fields(what)[0]]++
		}
		tr.forget()
	}
	t.Logf("%d steps: %v", steps, counts)
}

// act makes one random step.
func (g *generator) act(tr *tracker) (what, difference string) {
	switch n := g.IntN(100); {
	case n < 45:
		p, ok := g.packet()
		if !ok {
			return "nothing", ""
		}
		if p.fromNode {
			p.Src = nodeAddr(p.Dst)
		}
		return "new: " + p.String(), tr.step(p)
	case n < 80:
		return g.again(tr, n < 70)
	case n < 93:
		return g.changePolicy(tr), ""
	}
	return g.changePod(tr), ""
}

// again sends a reply to a known flow, or more of it.
func (g *generator) again(tr *tracker, reply bool) (what, difference string) {
	if len(tr.flows) == 0 {
		return "nothing", ""
	}
	keys := make([]bpfobj.SkepCtKey, 0, len(tr.flows))
	for k := range tr.flows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b bpfobj.SkepCtKey) int { return strings.Compare(tr.flows[a].String(), tr.flows[b].String()) })
	begun := tr.flows[pick(g, keys)]
	p := begun
	what = "more: "
	if reply {
		what = "reply: "
		p.Packet, p.fromNode = begun.Turned(), false
	} else if p.Protocol == progtest.TCP && g.chance(70) {
		p.Flags = progtest.ACK
	}
	if tr.localPod(p.Src) == nil && tr.localPod(p.Dst) == nil {
		return "nothing", ""
	}
	if tr.localPod(p.Src) != nil {
		p.fromNode = false
	}
	return what + p.String(), tr.step(p)
}

func (g *generator) changePolicy(tr *tracker) string {
	defer tr.load()
	if g.chance(40) {
		return g.changeClusterPolicy(tr)
	}
	if len(tr.world.Policies) > 0 && g.chance(70) {
		old := pick(g, tr.world.Policies)
		if g.chance(40) {
			tr.forgetPolicy(old.Namespace, old.Name)
			return "policy deleted: " + old.Namespace + "/" + old.Name
		}
		if g.chance(30) {
			// Only the mode changes: that is no new generation.
			old.Annotations = g.mode()
			tr.setPolicy(old)
			return fmt.Sprintf("policy %s/%s has %v", old.Namespace, old.Name, old.Annotations)
		}
		tr.setPolicy(g.policyNamed(old.Namespace, old.Name, old.Generation+1))
		return "policy changed: " + old.Namespace + "/" + old.Name
	}
	p := g.policy()
	tr.setPolicy(p)
	return "policy added: " + p.Namespace + "/" + p.Name
}

// changePod relabels a pod, ends one, or gives its addresses to another.
func (g *generator) changePod(tr *tracker) string {
	defer tr.load()
	old := pick(g, tr.world.Pods)
	if g.chance(40) {
		old.Labels = g.labels()
		tr.setPod(old)
		return "pod relabelled: " + old.UID
	}
	tr.removePod(old)
	next := g.pod()
	if !old.HostNetwork && !old.Terminal && !next.HostNetwork && !next.Terminal {
		next.IPs, next.Node = old.IPs, old.Node
	}
	g.watched = next
	tr.addPod(next)
	return fmt.Sprintf("pod replaced: %s by %s at %v", old.UID, next.UID, next.IPs)
}

func nodeAddr(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.MustParseAddr("172.29.0.2")
	}
	return netip.MustParseAddr("fd00:172:29::2")
}

// scene is the fixture with one connection, x/a -> w/b TCP 80.
func scene(t *testing.T, policies map[string]string) (tr *tracker, pods map[string]policymodel.Pod, syn probe) {
	t.Helper()
	b := newBench(t, progtest.New(t))
	tr = newTracker(b)
	pods = fixture(b)
	t.Cleanup(tr.forget)
	for name, spec := range policies {
		b.setPolicy(policyFrom(t, name, spec))
	}
	b.load()
	syn = probe{Packet: progtest.Packet{Src: pods["x/a"].IPs[0], Dst: pods["w/b"].IPs[0], Protocol: progtest.TCP, SrcPort: 40000, DstPort: 80}}
	return tr, pods, syn
}

func turned(p probe) probe { p.Packet = p.Turned(); return p }

// expect sends a packet and checks the reason as well as the prediction.
func (tr *tracker) expect(what string, p probe, reason bpfobj.SkepReason) {
	tr.t.Helper()
	want, _, _ := tr.verdict(p)
	got, err := tr.send(p)
	if err != nil {
		tr.t.Fatal(err)
	}
	if got.Reason != reason || got.Allowed() != want.Allowed {
		tr.t.Errorf("%s: %v, want %v (predicted %+v)", what, got.Reason, reason, want)
	}
	if got.Allowed() {
		if _, known := tr.flows[keyOf(p)]; !known {
			tr.flows[keyOf(p)] = p
		}
	}
}

func TestRepliesPassWhereTheirSenderMayNotConnect(t *testing.T) {
	tr, _, syn := scene(t, map[string]string{"w/deny-egress": `{podSelector: {}, policyTypes: [Egress]}`})
	answer := turned(syn)
	tr.expect("an answer to nothing", answer, bpfobj.SkepReasonSKEP_REASON_MIDFLOW_DENIED)
	tr.expect("the connection", syn, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	tr.expect("its answer", answer, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	back := answer
	back.Flags = progtest.SYN
	tr.expect("a connection the other way on the same ports", back, bpfobj.SkepReasonSKEP_REASON_POLICY_EGRESS)
}

func TestEstablishedFlowsObeyANewPolicy(t *testing.T) {
	tr, _, syn := scene(t, nil)
	data := syn
	data.Flags = progtest.ACK
	tr.expect("the connection", syn, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	tr.expect("its answer", turned(syn), bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	tr.setPolicy(policyFrom(t, "w/deny", denyAll))
	tr.load()
	tr.expect("data after the policy", data, bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED)
	tr.expect("the answer after the policy", turned(data), bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED)
	tr.expect("data again, under the same policy", data, bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED)
	tr.forgetPolicy("w", "deny")
	tr.load()
	tr.expect("the answer when the policy is gone", turned(data), bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	tr.expect("data when the policy is gone", data, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
}

func TestHalfOpenFlowsObeyANewPolicy(t *testing.T) {
	tr, _, syn := scene(t, nil)
	answer, data := turned(syn), syn
	answer.Flags, data.Flags = progtest.SYN|progtest.ACK, progtest.ACK
	tr.expect("the first SYN", syn, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	tr.setPolicy(policyFrom(t, "w/deny", denyAll))
	tr.load()
	tr.expect("the answer to a SYN from before the policy", answer, bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED)
	tr.expect("the SYN again", syn, bpfobj.SkepReasonSKEP_REASON_ESTABLISHED_DENIED)
	tr.forgetPolicy("w", "deny")
	tr.load()
	tr.expect("the answer when the policy is gone", answer, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	tr.expect("the end of the handshake", data, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
}

func TestANewOwnerOfAnAddressInheritsNothing(t *testing.T) {
	tr, pods, syn := scene(t, map[string]string{"w/web": `{podSelector: {matchLabels: {pod: b}}, ingress: [{}]}`, "w/rest": `{podSelector: {matchLabels: {pod: new}}}`})
	tr.expect("the connection", syn, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	old := pods["w/b"]
	tr.removePod(old)
	next := old
	next.UID, next.Name, next.Labels = "w-new", "new", map[string]string{"ns": "w", "pod": "new"}
	tr.setPod(next)
	if err := tr.h.Load(tr.cluster.Policy()); err != nil {
		t.Fatal(err)
	}
	data := syn
	data.Flags = progtest.ACK
	tr.expect("data of the old connection", data, bpfobj.SkepReasonSKEP_REASON_MIDFLOW_DENIED)
	tr.expect("a new connection", syn, bpfobj.SkepReasonSKEP_REASON_POLICY_INGRESS)
}

func TestANewNumberBehindAPortNameIsEnforced(t *testing.T) {
	tr, pods, syn := scene(t, map[string]string{"x/named": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: web}]}]}`})
	syn.DstPort = 9999
	tr.expect("a number that no pod gives the name", syn, bpfobj.SkepReasonSKEP_REASON_POLICY_EGRESS)
	next := pods["w/b"]
	tr.removePod(next)
	next.UID, next.Ports = "w-new", []policymodel.NamedPort{{Name: "web", Protocol: "TCP", Number: 9999}}
	tr.setPod(next)
	tr.load()
	tr.expect("the number once a pod gives it", syn, bpfobj.SkepReasonSKEP_REASON_TO_LOCAL)
	other := syn
	other.Dst = pods["w/a"].IPs[0]
	tr.expect("the number at a pod that does not", other, bpfobj.SkepReasonSKEP_REASON_POLICY_EGRESS)
}

func TestAPodWithoutPolicyIsCutOff(t *testing.T) {
	tr, pods, syn := scene(t, nil)
	next := pods["w/b"]
	tr.removePod(next)
	next.UID = "w-late"
	if err := tr.h.Endpoint(datapath.EndpointID(next.UID), next.IPs...); err != nil {
		t.Fatal(err)
	}
	got, err := tr.send(syn)
	if err != nil {
		t.Fatal(err)
	}
	if got.Reason != bpfobj.SkepReasonSKEP_REASON_NO_POLICY {
		t.Errorf("a packet to a pod that no policy names yet is %v, want no_policy", got.Reason)
	}
	if err := tr.h.RemoveEndpoint(datapath.EndpointID(next.UID)); err != nil {
		t.Fatal(err)
	}
}
