// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/nodeagent/policymodel"
)

// The world of the truth tables: namespaces x, w and z (y would be a boolean in YAML) with pods a, b and c, spread over both nodes, and in x
// a pod on each node's own network. Everybody answers on TCP and UDP ports 80 and 81, and everybody tries to reach everybody, over IPv4 and
// IPv6. The cluster's DNS servers are reached too.
//
//	namespaces   x, w: team=NAME, env=prod    z: team=z
//	pods         pod=NAME; a: tier=front, b: tier=back, c: no tier; those of the nodes: pod=a, tier=front
//	named ports  web = TCP 80, names = UDP 80; of the pods c: web = TCP 81, names = UDP 81
type truthWorld struct {
	ends   []*end
	model  policymodel.World
	places *strings.Replacer
}

// end is a pod, with its namespace's name as the tables have it; or a node, which has none.
type end struct {
	name, ns, pod string
	node          int
	addrs         [2]netip.Addr
	ports         []int
	stdin         io.Writer
	stdout        *bufio.Reader
}

func (e *end) in(namespaces ...string) bool { return slices.Contains(namespaces, e.ns) }
func (e *end) is(names ...string) bool      { return slices.Contains(names, e.name) }
func (e *end) called(pods ...string) bool   { return e.isPod() && slices.Contains(pods, e.pod) }
func (e *end) isPod() bool                  { return e.ns != "" }
func (e *end) isDNS() bool                  { return e.ns == "kube-system" }

// web is the number of the port that a pod calls web (and names), 0 if it has none.
func (e *end) web() int {
	switch {
	case !e.in("x", "w", "z"):
		return 0
	case e.pod == "c":
		return 81
	}
	return 80
}

// cell is one way of one family to somebody's port.
type cell struct {
	from, to *end
	protocol string
	port     int
	v6       bool
}

func (c cell) tcp(port int) bool { return c.protocol == "TCP" && c.port == port }
func (c cell) udp(port int) bool { return c.protocol == "UDP" && c.port == port }

// unjudged says that no policy has a say: a pod and itself, nodes with each other, a node and its own pods.
func (c cell) unjudged() bool {
	return c.from == c.to || !c.from.isPod() && (!c.to.isPod() || c.from.node == c.to.node)
}

func (c cell) String() string {
	family := 4
	if c.v6 {
		family = 6
	}
	return fmt.Sprintf("%s -> %s %s %d over IPv%d", c.from.name, c.to.name, c.protocol, c.port, family)
}

// A truthCase is policies with all that they open, said once in the API's words and once as a person says it. The names of NetworkPolicies
// are "namespace/name", of ClusterNetworkPolicies "name"; one that ends with "(audit)" is in audit mode. $x/a.4 is a pod's IPv4 address,
// $node-1.6 a node's IPv6 address, $pods-1.4 the IPv4 block of the pods of node 1.
type truthCase struct {
	name     string
	policies map[string]string
	opens    func(c cell) bool
}

// TestTruthTables puts one case after the other into force and tries every cell of each. What is expected is said by the case's line and by the
// model, which must agree.
func TestTruthTables(t *testing.T) {
	w := newTruthWorld(t)
	cells := w.cells()
	only := os.Getenv("SKEP_CASE")
	probed, before, beforeName := 0, "", ""
	for _, tc := range truthCases {
		if !strings.Contains(tc.name, only) {
			continue
		}
		network, cluster := w.parse(t, tc.policies)
		w.model.Policies, w.model.ClusterPolicies = network, cluster
		want := w.expect(t, tc, cells)
		if want == before {
			t.Fatalf("%q opens the same as %q before it: nobody could tell when it is in force", tc.name, beforeName)
		}
		before, beforeName = want, tc.name
	}
	for _, tc := range truthCases {
		if !strings.Contains(tc.name, only) {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			network, cluster := w.parse(t, tc.policies)
			w.model.Policies, w.model.ClusterPolicies = network, cluster
			want := w.expect(t, tc, cells)
			defer applyPolicies(t, network, cluster)()
			began := time.Now()
			w.await(t, cells, want)
			t.Logf("%d of %d cells are open; seen twice in %v", strings.Count(want, "1"), len(cells), time.Since(began).Round(10*time.Millisecond))
			probed += len(cells)
		})
	}
	t.Logf("%d cells in all", probed)
	t.Run("malformed policies beside sound ones", w.malformedPolicies)
}

func newTruthWorld(t *testing.T) *truthWorld {
	w := &truthWorld{}
	tiers := map[string]string{"a": "front", "b": "back"}
	for i, ns := range []string{"x", "w", "z"} {
		namespace(t, truthNamespace(ns))
		labels := `"team":"` + ns + `"`
		if ns != "z" {
			labels += `,"env":"prod"`
		}
		patchNamespace(t, truthNamespace(ns), `{"metadata":{"labels":{`+labels+`}}}`)
		for j, name := range []string{"a", "b", "c"} {
			labels := map[string]string{"pod": name}
			if tiers[name] != "" {
				labels["tier"] = tiers[name]
			}
			w.add(t, &end{name: ns + "/" + name, ns: ns, pod: name, node: 1 + (i+j)%nodes, ports: []int{80, 81}}, labels)
		}
	}
	for n := 1; n <= nodes; n++ {
		w.add(t, &end{name: fmt.Sprint("node-", n), node: n, ports: []int{80, 81}}, map[string]string{"pod": "a", "tier": "front"})
	}
	for _, e := range w.ends {
		w.start(t, e)
	}
	w.observe(t)
	return w
}

func truthNamespace(ns string) string { return "truth-" + ns }

// object is the namespace and name of the pod that stands for an end.
func (e *end) object() (namespace, name string) {
	if !e.isPod() {
		return truthNamespace("x"), e.name
	}
	return truthNamespace(e.ns), e.pod
}

func (w *truthWorld) add(t *testing.T, e *end, labels map[string]string) {
	t.Helper()
	ns, name := e.object()
	pod := probePod(name, nodeName(e.node), labels)
	container := &pod.Spec.Containers[0]
	container.ReadinessProbe, container.Ports = nil, nil
	container.Args = []string{"answer", "-name", e.name}
	if e.isPod() {
		number := int32(e.web())
		container.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: number}, {Name: "names", ContainerPort: number, Protocol: corev1.ProtocolUDP}}
	}
	pod.Spec.HostNetwork = !e.isPod()
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ends = append(w.ends, e)
}

// start runs the probe that asks for an end, for as long as the test takes.
func (w *truthWorld) start(t *testing.T, e *end) {
	t.Helper()
	ns, name := e.object()
	waitReady(t, ns, name)
	request := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"/probe", "reach"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	session, err := remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	e.stdin, e.stdout = stdin, bufio.NewReader(stdout)
	var complaints strings.Builder
	ended := make(chan error, 1)
	go func() {
		err := session.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: &complaints})
		out.CloseWithError(errors.Join(fmt.Errorf("the probe in %s has ended: %s", e.name, complaints.String()), err))
		ended <- err
	}()
	t.Cleanup(func() {
		stdin.Close()
		// It says farewell, and waits until somebody has listened.
		_, _ = io.Copy(io.Discard, e.stdout)
		if err := <-ended; err != nil {
			t.Errorf("the probe in %s: %v: %s", e.name, err, complaints.String())
		}
	})
}

// observe takes from the API what the model and the tables need to know.
func (w *truthWorld) observe(t *testing.T) {
	t.Helper()
	all, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for n := 1; n <= nodes; n++ {
		node := all.Items[slices.IndexFunc(all.Items, func(o corev1.Node) bool { return o.Name == nodeName(n) })]
		known := policymodel.Node{Name: node.Name, Labels: node.Labels}
		e := w.ends[slices.IndexFunc(w.ends, func(e *end) bool { return e.name == fmt.Sprint("node-", n) })]
		for _, address := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(address.Address); err == nil {
				known.IPs = append(known.IPs, addr)
				e.setAddr(addr)
			}
		}
		w.model.Nodes = append(w.model.Nodes, known)
		for _, block := range node.Spec.PodCIDRs {
			places = append(places, fmt.Sprintf("$pods-%d.%d", n, familyOf(netip.MustParsePrefix(block).Addr())), block)
		}
	}
	namespaces, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range namespaces.Items {
		w.model.Namespaces = append(w.model.Namespaces, policymodel.Namespace{Name: ns.Name, Labels: ns.Labels})
	}
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		w.observePod(&pod)
	}
	for _, e := range w.ends {
		for _, addr := range e.addrs {
			if !addr.IsValid() {
				t.Fatalf("%s has addresses %v", e.name, e.addrs)
			}
			places = append(places, fmt.Sprintf("$%s.%d", e.name, familyOf(addr)), addr.String())
		}
	}
	w.places = strings.NewReplacer(places...)
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}

func (e *end) setAddr(addr netip.Addr) {
	if addr.Is4() {
		e.addrs[0] = addr
	} else {
		e.addrs[1] = addr
	}
}

func (w *truthWorld) observePod(pod *corev1.Pod) {
	known := policymodel.Pod{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Labels: pod.Labels,
		HostNetwork: pod.Spec.HostNetwork, Created: pod.CreationTimestamp.Time,
		Terminal: pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}
	if pod.Labels["k8s-app"] == "kube-dns" {
		w.ends = append(w.ends, &end{name: pod.Name, ns: "kube-system", pod: "dns", node: nodeNumber(pod.Spec.NodeName), ports: []int{53}})
	}
	of := slices.IndexFunc(w.ends, func(e *end) bool {
		ns, name := e.object()
		return e.isPod() && ns == pod.Namespace && name == pod.Name || e.isDNS() && e.name == pod.Name
	})
	for _, ip := range pod.Status.PodIPs {
		addr := netip.MustParseAddr(ip.IP)
		known.IPs = append(known.IPs, addr)
		if of >= 0 {
			w.ends[of].setAddr(addr)
		}
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			known.Ports = append(known.Ports, policymodel.NamedPort{Name: port.Name, Protocol: string(port.Protocol), Number: int(port.ContainerPort)})
		}
	}
	w.model.Pods = append(w.model.Pods, known)
}

func nodeNumber(name string) int {
	for n := 1; n <= nodes; n++ {
		if nodeName(n) == name {
			return n
		}
	}
	return 0
}

// cells are all ways, those of one sender together.
func (w *truthWorld) cells() []cell {
	var out []cell
	for _, from := range w.ends {
		for _, to := range w.ends {
			for _, port := range to.ports {
				for _, protocol := range []string{"TCP", "UDP"} {
					for _, v6 := range []bool{false, true} {
						if from.stdin != nil {
							out = append(out, cell{from, to, protocol, port, v6})
						}
					}
				}
			}
		}
	}
	return out
}

func (c cell) addrs() (from, to netip.Addr) {
	if c.v6 {
		return c.from.addrs[1], c.to.addrs[1]
	}
	return c.from.addrs[0], c.to.addrs[0]
}

// expect has model and person agree about every cell.
func (w *truthWorld) expect(t *testing.T, tc truthCase, cells []cell) string {
	t.Helper()
	want := make([]byte, len(cells))
	for i, c := range cells {
		from, to := c.addrs()
		verdict := policymodel.Judge(w.model, policymodel.Conn{
			Src: from, Dst: to, Protocol: c.protocol, Port: c.port, FromOwnNode: !c.from.isPod() && c.from.node == c.to.node,
		})
		opens, allowed := c.unjudged() || tc.opens(c), c.unjudged() || verdict.Allowed
		if opens != allowed {
			t.Fatalf("%s: %v: the table says %v, the model %+v", tc.name, c, opens, verdict)
		}
		want[i] = '0'
		if opens {
			want[i] = '1'
		}
	}
	return string(want)
}

// silence is how long a cell that should be closed is listened to.
const silence = 300 * time.Millisecond

// look tries all cells at once. One that should be open has some time to answer, which only a busy machine takes.
func (w *truthWorld) look(t *testing.T, cells []cell, want string, patience time.Duration) string {
	t.Helper()
	asked := map[*end][]map[string]any{}
	var order []*end
	for i, c := range cells {
		_, to := c.addrs()
		name, timeout := c.to.name, silence
		if c.to.isDNS() {
			name = ""
		}
		if want[i] == '1' {
			timeout = patience
		}
		if asked[c.from] == nil {
			order = append(order, c.from)
		}
		asked[c.from] = append(asked[c.from], map[string]any{
			"Network": strings.ToLower(c.protocol), "Address": net.JoinHostPort(to.String(), fmt.Sprint(c.port)), "Name": name, "Timeout": timeout,
		})
	}
	answers, faults := make([]string, len(order)), make([]error, len(order))
	var all sync.WaitGroup
	for i, e := range order {
		all.Go(func() {
			line, err := json.Marshal(map[string]any{"Targets": asked[e]})
			if err == nil {
				_, err = e.stdin.Write(append(line, '\n'))
			}
			if err == nil {
				answers[i], err = e.stdout.ReadString('\n')
			}
			faults[i] = err
		})
	}
	all.Wait()
	if err := errors.Join(faults...); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.Join(answers, ""), "\n", "")
}

// await waits until the cells are as wanted, which says that policy is in force on both nodes, and sees that they stay so.
func (w *truthWorld) await(t *testing.T, cells []cell, want string) {
	t.Helper()
	began, patience := time.Now(), silence
	for different := "not looked at"; different != ""; patience = min(2*patience, 5*time.Second) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("after %v:\n%s", time.Since(began), different)
		}
		different = compareCells(cells, want, w.look(t, cells, want, patience))
	}
	if different := compareCells(cells, want, w.look(t, cells, want, 5*time.Second)); different != "" {
		t.Errorf("it did not last:\n%s", different)
	}
}

// compareCells names the first cells that are not as wanted, and how many more there are.
func compareCells(cells []cell, want, got string) string {
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

// parse reads a case's policies.
func (w *truthWorld) parse(t *testing.T, policies map[string]string) (network []networkingv1.NetworkPolicy, cluster []policyv1alpha2.ClusterNetworkPolicy) {
	t.Helper()
	for full, spec := range policies {
		name, audit := strings.CutSuffix(full, " (audit)")
		meta := metav1.ObjectMeta{Name: name}
		if audit {
			meta.Annotations = map[string]string{"skep.dev/enforcement": "audit"}
		}
		text := []byte("spec: " + w.places.Replace(spec))
		ns, short, namespaced := strings.Cut(name, "/")
		var err error
		if namespaced {
			meta.Namespace, meta.Name = truthNamespace(ns), short
			p := networkingv1.NetworkPolicy{ObjectMeta: meta}
			err = yaml.UnmarshalStrict(text, &p)
			network = append(network, p)
		} else {
			p := policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: meta}
			err = yaml.UnmarshalStrict(text, &p)
			cluster = append(cluster, p)
		}
		if err != nil {
			t.Fatalf("%s: %v", full, err)
		}
	}
	return network, cluster
}

const clusterPolicies = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"

// applyPolicies creates policies and returns how to delete them.
func applyPolicies(t *testing.T, network []networkingv1.NetworkPolicy, cluster []policyv1alpha2.ClusterNetworkPolicy) (remove func()) {
	t.Helper()
	rest := client.NetworkingV1().RESTClient()
	for _, p := range network {
		if _, err := client.NetworkingV1().NetworkPolicies(p.Namespace).Create(t.Context(), &p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range cluster {
		p.APIVersion, p.Kind = "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"
		body, err := json.Marshal(p)
		if err == nil {
			err = rest.Post().AbsPath(clusterPolicies).SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Error()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, p := range network {
			if err := client.NetworkingV1().NetworkPolicies(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
		for _, p := range cluster {
			if err := rest.Delete().AbsPath(clusterPolicies, p.Name).Do(t.Context()).Error(); err != nil {
				t.Error(err)
			}
		}
	}
}

func patchNamespace(t *testing.T, name, patch string) {
	t.Helper()
	if _, err := client.CoreV1().Namespaces().Patch(t.Context(), name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
