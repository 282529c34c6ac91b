// SPDX-License-Identifier: Apache-2.0

// Package truth has truth tables of policies: what each opens between all pods of a small world, said once in the API's words and once as a
// person says it. Those who put them into force and try every cell are elsewhere.
//
// The world is namespaces x, w and z (y would be a boolean in YAML) with pods a, b and c, spread over the nodes, and a pod on each node's own
// network. Everybody answers on ports 80 and 81, and everybody tries to reach everybody, over IPv4 and IPv6. DNS servers are reached too,
// where there are any.
//
//	namespaces   x, w: team=NAME, env=prod    z: team=z
//	pods         pod=NAME; a: tier=front, b: tier=back, c: no tier; those of the nodes: in x, pod=a, tier=front
//	named ports  web = TCP 80, names = UDP 80, signal = SCTP 80; of the pods c: 81
package truth

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/nodeagent/policymodel"
)

// World is everybody with addresses, and the cluster as the model knows it.
type World struct {
	Ends  []*End
	Model policymodel.World
	// Hosts are the nodes' names and Blocks their blocks of pod addresses, from node 1 on.
	Hosts  []string
	Blocks [][]netip.Prefix
}

// End is a pod, with its namespace's name as the tables have it; or a node, which has none.
type End struct {
	Name, NS, Pod string
	// Node is counted from 1.
	Node int
	// Addrs are IPv4 and IPv6.
	Addrs [2]netip.Addr
	Ports []int
}

// Namespaces are those of the tables.
var Namespaces = []string{"x", "w", "z"}

// Namespace is the object that stands for a namespace of the tables.
func Namespace(ns string) string { return "truth-" + ns }

// NamespaceLabels are those that the tables rely on.
func NamespaceLabels(ns string) map[string]string {
	if ns == "z" {
		return map[string]string{"team": ns}
	}
	return map[string]string{"team": ns, "env": "prod"}
}

// NewEnds are the pods and nodes of the tables, without addresses.
func NewEnds(nodes int) []*End {
	var out []*End
	for i, ns := range Namespaces {
		for j, pod := range []string{"a", "b", "c"} {
			out = append(out, &End{Name: ns + "/" + pod, NS: ns, Pod: pod, Node: 1 + (i+j)%nodes, Ports: []int{80, 81}})
		}
	}
	for n := 1; n <= nodes; n++ {
		out = append(out, &End{Name: fmt.Sprint("node-", n), Node: n, Ports: []int{80, 81}})
	}
	return out
}

// Object is the namespace and name of the pod that stands for an end.
func (e *End) Object() (namespace, name string) {
	if !e.IsPod() {
		return Namespace("x"), e.Name
	}
	return Namespace(e.NS), e.Pod
}

// UID is one for where no API gives any.
func (e *End) UID() string { return strings.ReplaceAll(e.Name, "/", "-") }

// Labels are those of the pod.
func (e *End) Labels() map[string]string {
	pod := e.Pod
	if !e.IsPod() {
		pod = "a"
	}
	out := map[string]string{"pod": pod}
	if tier := map[string]string{"a": "front", "b": "back"}[pod]; tier != "" {
		out["tier"] = tier
	}
	return out
}

// NamedPorts are those of the pod. A node has none.
func (e *End) NamedPorts() []policymodel.NamedPort {
	if !e.IsPod() {
		return nil
	}
	return []policymodel.NamedPort{
		{Name: "web", Protocol: "TCP", Number: e.Web()}, {Name: "names", Protocol: "UDP", Number: e.Web()}, {Name: "signal", Protocol: "SCTP", Number: e.Web()},
	}
}

// In says whether the end is a pod of one of some namespaces.
func (e *End) In(namespaces ...string) bool { return slices.Contains(namespaces, e.NS) }

// Is compares with full names.
func (e *End) Is(names ...string) bool { return slices.Contains(names, e.Name) }

// Called compares with the names of pods, whatever their namespace.
func (e *End) Called(pods ...string) bool { return e.IsPod() && slices.Contains(pods, e.Pod) }

// IsPod says that it is no node.
func (e *End) IsPod() bool { return e.NS != "" }

// IsDNS says that it is one of the cluster's DNS servers, which answer and do not ask.
func (e *End) IsDNS() bool { return e.NS == "kube-system" }

// Web is the number of the port that a pod calls web (and names, and signal), 0 if it has none.
func (e *End) Web() int {
	switch {
	case !e.In(Namespaces...):
		return 0
	case e.Pod == "c":
		return 81
	}
	return 80
}

// SetAddr gives the end an address of either family.
func (e *End) SetAddr(addr netip.Addr) {
	if addr.Is4() {
		e.Addrs[0] = addr
	} else {
		e.Addrs[1] = addr
	}
}

// Cell is one way of one family to somebody's port.
type Cell struct {
	From, To *End
	Protocol string
	Port     int
	V6       bool
}

// TCP, UDP and SCTP say whether the cell is that protocol's port.
func (c Cell) TCP(port int) bool  { return c.Protocol == "TCP" && c.Port == port }
func (c Cell) UDP(port int) bool  { return c.Protocol == "UDP" && c.Port == port }
func (c Cell) SCTP(port int) bool { return c.Protocol == "SCTP" && c.Port == port }

// Addrs are those that the cell goes from and to.
func (c Cell) Addrs() (from, to netip.Addr) {
	if c.V6 {
		return c.From.Addrs[1], c.To.Addrs[1]
	}
	return c.From.Addrs[0], c.To.Addrs[0]
}

// unjudged says that no policy has a say: a pod and itself, nodes with each other, a node and its own pods.
func (c Cell) unjudged() bool {
	return c.From == c.To || !c.From.IsPod() && (!c.To.IsPod() || c.From.Node == c.To.Node)
}

func (c Cell) String() string {
	_, to := c.Addrs()
	return fmt.Sprintf("%s -> %s %s %d over IPv%d", c.From.Name, c.To.Name, c.Protocol, c.Port, family(to))
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}

// Cells are all ways, those of one sender together.
func (w *World) Cells(protocols ...string) []Cell {
	var out []Cell
	for _, from := range w.Ends {
		for _, to := range w.Ends {
			for _, port := range to.Ports {
				for _, protocol := range protocols {
					for _, v6 := range []bool{false, true} {
						if !from.IsDNS() {
							out = append(out, Cell{from, to, protocol, port, v6})
						}
					}
				}
			}
		}
	}
	return out
}

// A Case is policies with all that they open. The names of NetworkPolicies are "namespace/name", of ClusterNetworkPolicies "name"; one that
// ends with " (audit)" is in audit mode. $x/a.4 is a pod's IPv4 address, $node-1.6 a node's IPv6 address, $pods-1.4 the IPv4 block of the
// pods of node 1 and $host-1 its name.
type Case struct {
	Name     string
	Policies map[string]string
	Open     func(c Cell) bool
}

// Parse reads policies as a case has them, in the order of their names.
func (w *World) Parse(policies map[string]string) (network []networkingv1.NetworkPolicy, cluster []policyv1alpha2.ClusterNetworkPolicy, err error) {
	places := w.places()
	for _, full := range slices.Sorted(maps.Keys(policies)) {
		name, audit := strings.CutSuffix(full, " (audit)")
		meta := metav1.ObjectMeta{Name: name}
		if audit {
			meta.Annotations = map[string]string{"skep.dev/enforcement": "audit"}
		}
		text := []byte("spec: " + places.Replace(policies[full]))
		ns, short, namespaced := strings.Cut(name, "/")
		if namespaced {
			meta.Namespace, meta.Name = Namespace(ns), short
			p := networkingv1.NetworkPolicy{ObjectMeta: meta}
			err = yaml.UnmarshalStrict(text, &p)
			network = append(network, p)
		} else {
			p := policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: meta}
			err = yaml.UnmarshalStrict(text, &p)
			cluster = append(cluster, p)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", full, err)
		}
	}
	return network, cluster, nil
}

func (w *World) places() *strings.Replacer {
	var places []string
	for i, host := range w.Hosts {
		places = append(places, fmt.Sprint("$host-", i+1), host)
	}
	for i, blocks := range w.Blocks {
		for _, block := range blocks {
			places = append(places, fmt.Sprintf("$pods-%d.%d", i+1, family(block.Addr())), block.String())
		}
	}
	for _, e := range w.Ends {
		for _, addr := range e.Addrs {
			places = append(places, fmt.Sprintf("$%s.%d", e.Name, family(addr)), addr.String())
		}
	}
	return strings.NewReplacer(places...)
}

// Opens says as a person a 1 for each cell that is open and a 0 for each that is not.
func (c Case) Opens(cells []Cell) string {
	want := make([]byte, len(cells))
	for i, cell := range cells {
		want[i] = '0'
		if cell.unjudged() || c.Open(cell) {
			want[i] = '1'
		}
	}
	return string(want)
}

// Expect is what the case opens. The model, which has the case's policies, must agree about every cell.
func (w *World) Expect(c Case, cells []Cell) (string, error) {
	want := c.Opens(cells)
	for i, cell := range cells {
		from, to := cell.Addrs()
		verdict := policymodel.Judge(w.Model, policymodel.Conn{
			Src: from, Dst: to, Protocol: cell.Protocol, Port: cell.Port, FromOwnNode: !cell.From.IsPod() && cell.From.Node == cell.To.Node,
		})
		if open := want[i] == '1'; !cell.unjudged() && open != verdict.Allowed {
			return "", fmt.Errorf("%s: %v: the table says %v, the model %+v", c.Name, cell, open, verdict)
		}
	}
	return want, nil
}

// Compare names the first cells that are not as wanted, and how many more there are.
func Compare(cells []Cell, want, got string) string {
	if len(got) != len(cells) {
		return fmt.Sprintf("%d answers about %d cells", len(got), len(cells))
	}
	const shown = 12
	var lines []string
	for i, c := range cells {
		if got[i] != want[i] {
			lines = append(lines, fmt.Sprintf("%v: open %c, want %c", c, got[i], want[i]))
		}
	}
	if len(lines) > shown {
		lines = append(lines[:shown], fmt.Sprintf("and %d more", len(lines)-shown))
	}
	return strings.Join(lines, "\n")
}

// Know fills in the model where no API says what there is: namespaces, nodes, and a pod for each end, all of the same age.
func (w *World) Know() {
	for _, ns := range Namespaces {
		w.Model.Namespaces = append(w.Model.Namespaces, policymodel.Namespace{Name: Namespace(ns), Labels: NamespaceLabels(ns)})
	}
	for _, e := range w.Ends {
		host := w.Hosts[e.Node-1]
		if !e.IsPod() {
			w.Model.Nodes = append(w.Model.Nodes, policymodel.Node{Name: host, Labels: map[string]string{"kubernetes.io/hostname": host}, IPs: e.Addrs[:]})
		}
		ns, name := e.Object()
		w.Model.Pods = append(w.Model.Pods, policymodel.Pod{
			UID: e.UID(), Namespace: ns, Name: name, Node: host, Labels: e.Labels(), IPs: e.Addrs[:], Ports: e.NamedPorts(), HostNetwork: !e.IsPod(),
		})
	}
}
