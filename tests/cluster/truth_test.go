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

	"skep.dev/skep/nodeagent/policymodel"
	"skep.dev/skep/tests/truth"
)

// truthWorld is the world of the truth tables on a cluster.
type truthWorld struct {
	truth.World
	probes map[*truth.End]*asking
}

// asking is a probe that runs in a pod and answers questions.
type asking struct {
	stdin  io.Writer
	stdout *bufio.Reader
}

// TestTruthTables puts one case after the other into force and tries every cell of each. What is expected is said by the case's line and by the
// model, which must agree.
func TestTruthTables(t *testing.T) {
	w := newTruthWorld(t)
	cells := w.Cells("TCP", "UDP")
	only := os.Getenv("SKEP_CASE")
	probed, before, beforeName := 0, "", ""
	for _, tc := range truth.Cases {
		if !strings.Contains(tc.Name, only) {
			continue
		}
		network, cluster := w.parse(t, tc.Policies)
		w.Model.Policies, w.Model.ClusterPolicies = network, cluster
		want := w.expect(t, tc, cells)
		if want == before {
			t.Fatalf("%q opens the same as %q before it: nobody could tell when it is in force", tc.Name, beforeName)
		}
		before, beforeName = want, tc.Name
	}
	for _, tc := range truth.Cases {
		if !strings.Contains(tc.Name, only) {
			continue
		}
		t.Run(tc.Name, func(t *testing.T) {
			network, cluster := w.parse(t, tc.Policies)
			w.Model.Policies, w.Model.ClusterPolicies = network, cluster
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
	w := &truthWorld{probes: map[*truth.End]*asking{}}
	w.Ends = truth.NewEnds(nodes)
	for _, ns := range truth.Namespaces {
		namespace(t, truth.Namespace(ns))
		labels, err := json.Marshal(truth.NamespaceLabels(ns))
		if err != nil {
			t.Fatal(err)
		}
		patchNamespace(t, truth.Namespace(ns), `{"metadata":{"labels":`+string(labels)+`}}`)
	}
	for _, e := range w.Ends {
		create(t, e)
	}
	for _, e := range w.Ends {
		w.start(t, e)
	}
	w.observe(t)
	return w
}

func create(t *testing.T, e *truth.End) {
	t.Helper()
	ns, name := e.Object()
	pod := probePod(name, nodeName(e.Node), e.Labels())
	container := &pod.Spec.Containers[0]
	container.ReadinessProbe, container.Ports = nil, nil
	container.Args = []string{"answer", "-name", e.Name}
	for _, port := range e.NamedPorts() {
		container.Ports = append(container.Ports, corev1.ContainerPort{
			Name: port.Name, Protocol: corev1.Protocol(port.Protocol), ContainerPort: int32(port.Number),
		})
	}
	pod.Spec.HostNetwork = !e.IsPod()
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// start runs the probe that asks for an end, for as long as the test takes.
func (w *truthWorld) start(t *testing.T, e *truth.End) {
	t.Helper()
	ns, name := e.Object()
	waitReady(t, ns, name)
	request := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"/probe", "reach"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	session, err := remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	asked := &asking{stdin, bufio.NewReader(stdout)}
	w.probes[e] = asked
	var complaints strings.Builder
	ended := make(chan error, 1)
	go func() {
		err := session.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: &complaints})
		out.CloseWithError(errors.Join(fmt.Errorf("the probe in %s has ended: %s", e.Name, complaints.String()), err))
		ended <- err
	}()
	t.Cleanup(func() {
		stdin.Close()
		// It says farewell, and waits until somebody has listened.
		_, _ = io.Copy(io.Discard, asked.stdout)
		if err := <-ended; err != nil {
			t.Errorf("the probe in %s: %v: %s", e.Name, err, complaints.String())
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
	for n := 1; n <= nodes; n++ {
		w.observeNode(&all.Items[slices.IndexFunc(all.Items, func(o corev1.Node) bool { return o.Name == nodeName(n) })])
	}
	namespaces, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range namespaces.Items {
		w.Model.Namespaces = append(w.Model.Namespaces, policymodel.Namespace{Name: ns.Name, Labels: ns.Labels})
	}
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		w.observePod(&pod)
	}
	for _, e := range w.Ends {
		for _, addr := range e.Addrs {
			if !addr.IsValid() {
				t.Fatalf("%s has addresses %v", e.Name, e.Addrs)
			}
		}
	}
}

func (w *truthWorld) observeNode(node *corev1.Node) {
	known := policymodel.Node{Name: node.Name, Labels: node.Labels}
	n := nodeNumber(node.Name)
	e := w.Ends[slices.IndexFunc(w.Ends, func(e *truth.End) bool { return !e.IsPod() && e.Node == n })]
	for _, address := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(address.Address); err == nil {
			known.IPs = append(known.IPs, addr)
			e.SetAddr(addr)
		}
	}
	var blocks []netip.Prefix
	for _, block := range node.Spec.PodCIDRs {
		blocks = append(blocks, netip.MustParsePrefix(block))
	}
	w.Model.Nodes, w.Hosts, w.Blocks = append(w.Model.Nodes, known), append(w.Hosts, node.Name), append(w.Blocks, blocks)
}

func (w *truthWorld) observePod(pod *corev1.Pod) {
	known := policymodel.Pod{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Labels: pod.Labels,
		HostNetwork: pod.Spec.HostNetwork, Created: pod.CreationTimestamp.Time,
		Terminal: pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}
	if pod.Labels["k8s-app"] == "kube-dns" {
		w.Ends = append(w.Ends, &truth.End{Name: pod.Name, NS: "kube-system", Pod: "dns", Node: nodeNumber(pod.Spec.NodeName), Ports: []int{53}})
	}
	of := slices.IndexFunc(w.Ends, func(e *truth.End) bool {
		ns, name := e.Object()
		return e.IsPod() && ns == pod.Namespace && name == pod.Name || e.IsDNS() && e.Name == pod.Name
	})
	for _, ip := range pod.Status.PodIPs {
		addr := netip.MustParseAddr(ip.IP)
		known.IPs = append(known.IPs, addr)
		if of >= 0 {
			w.Ends[of].SetAddr(addr)
		}
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			known.Ports = append(known.Ports, policymodel.NamedPort{Name: port.Name, Protocol: string(port.Protocol), Number: int(port.ContainerPort)})
		}
	}
	w.Model.Pods = append(w.Model.Pods, known)
}

func nodeNumber(name string) int {
	for n := 1; n <= nodes; n++ {
		if nodeName(n) == name {
			return n
		}
	}
	return 0
}

// silence is how long a cell that should be closed is listened to.
const silence = 300 * time.Millisecond

// look tries all cells at once. One that should be open has some time to answer, which only a busy machine takes.
func (w *truthWorld) look(t *testing.T, cells []truth.Cell, want string, patience time.Duration) string {
	t.Helper()
	asked := map[*truth.End][]map[string]any{}
	var order []*truth.End
	for i, c := range cells {
		_, to := c.Addrs()
		name, timeout := c.To.Name, silence
		if c.To.IsDNS() {
			name = ""
		}
		if want[i] == '1' {
			timeout = patience
		}
		if asked[c.From] == nil {
			order = append(order, c.From)
		}
		asked[c.From] = append(asked[c.From], map[string]any{
			"Network": strings.ToLower(c.Protocol), "Address": net.JoinHostPort(to.String(), fmt.Sprint(c.Port)), "Name": name, "Timeout": timeout,
		})
	}
	answers, faults := make([]string, len(order)), make([]error, len(order))
	var all sync.WaitGroup
	for i, e := range order {
		all.Go(func() {
			line, err := json.Marshal(map[string]any{"Targets": asked[e]})
			if err == nil {
				_, err = w.probes[e].stdin.Write(append(line, '\n'))
			}
			if err == nil {
				answers[i], err = w.probes[e].stdout.ReadString('\n')
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
func (w *truthWorld) await(t *testing.T, cells []truth.Cell, want string) {
	t.Helper()
	began, patience := time.Now(), silence
	for different := "not looked at"; different != ""; patience = min(2*patience, 5*time.Second) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("after %v:\n%s", time.Since(began), different)
		}
		different = truth.Compare(cells, want, w.look(t, cells, want, patience))
	}
	if different := truth.Compare(cells, want, w.look(t, cells, want, 5*time.Second)); different != "" {
		t.Errorf("it did not last:\n%s", different)
	}
}

// parse reads a case's policies.
func (w *truthWorld) parse(t *testing.T, policies map[string]string) ([]networkingv1.NetworkPolicy, []policyv1alpha2.ClusterNetworkPolicy) {
	t.Helper()
	network, cluster, err := w.Parse(policies)
	if err != nil {
		t.Fatal(err)
	}
	return network, cluster
}

// expect has model and person agree about every cell.
func (w *truthWorld) expect(t *testing.T, tc truth.Case, cells []truth.Cell) string {
	t.Helper()
	want, err := w.Expect(tc, cells)
	if err != nil {
		t.Fatal(err)
	}
	return want
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
