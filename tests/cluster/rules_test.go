// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// rulesWorld is a server on each node, a client on each node and a pod in node 2's own network.
func rulesWorld(t *testing.T, name string) (ns string) {
	t.Helper()
	ns = namespace(t, name)
	host := probePod("host", nodeName(2), nil)
	host.Spec.HostNetwork = true
	host.Spec.Containers[0].Ports, host.Spec.Containers[0].ReadinessProbe = nil, nil
	createPods(t, ns,
		probePod("server-1", nodeName(1), map[string]string{"app": "server", "node": "1"}),
		probePod("server-2", nodeName(2), map[string]string{"app": "server", "node": "2"}),
		probePod("client-1", nodeName(1), map[string]string{"app": "client"}),
		probePod("client-2", nodeName(2), map[string]string{"app": "client"}), host)
	return ns
}

// reaches says whether a pod gets answers, all or none; anything between is an error.
func reaches(t *testing.T, ns, from, protocol, target string) (bool, error) {
	t.Helper()
	var got tally
	args := []string{"get", "-n", "4", "-timeout", "250ms", "http://" + target}
	if protocol == "udp" {
		args = []string{"udp", "-n", "4", "-timeout", "250ms", target}
	}
	if err := tryInPod(t, ns, from, &got, args...); err != nil {
		return false, err
	}
	if got.OK > 0 && got.Failed > 0 {
		return false, fmt.Errorf("%s %s %s: %d answers, %d failed: %s", from, protocol, target, got.OK, got.Failed, got.Error)
	}
	return got.OK > 0, nil
}

// expectReach waits until exactly the named ways to a server are open. A way is "CLIENT PROTOCOL".
func expectReach(t *testing.T, ns, server string, want map[string]bool) {
	t.Helper()
	address := podIP(t, ns, server)
	eventually(t, 10*time.Second, func() error {
		var wrong []error
		for _, from := range []string{"client-1", "client-2"} {
			for protocol, port := range map[string]string{"tcp": "8080", "udp": "9000"} {
				got, err := reaches(t, ns, from, protocol, net.JoinHostPort(address, port))
				if err == nil && got != want[from+" "+protocol] {
					err = fmt.Errorf("%s by %s to %s: %v", from, protocol, server, got)
				}
				wrong = append(wrong, err)
			}
		}
		return errors.Join(wrong...)
	})
}

func ways(list ...string) map[string]bool {
	out := map[string]bool{}
	for _, way := range list {
		out[way] = true
	}
	return out
}

// TestPolicyKinds tries each kind of rule with real sockets, from the servers' own nodes and across, and sees that everything
// opens again when the policy goes.
func TestPolicyKinds(t *testing.T) {
	ns := rulesWorld(t, "rules")
	all := []string{"client-1 tcp", "client-1 udp", "client-2 tcp", "client-2 udp"}
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"ipBlock with except", "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [" +
			podIP(t, ns, "client-2") + "/32]}}]}]}", all[:2]},
		{"a named port", "{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: web}]}]}", []string{all[0], all[2]}},
		{"a range of ports", "{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8000, endPort: 8090}]}]}", []string{all[0], all[2]}},
		{"UDP alone", "{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 9000, protocol: UDP}]}]}", []string{all[1], all[3]}},
		{"a namespace", "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: rules}}}]}]}", all},
		{"another namespace", "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}]}]}", nil},
		{"egress to a named port", "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: web}]}]}",
			[]string{all[0], all[2]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "rule"}}
			if err := yaml.Unmarshal([]byte(c.spec), &policy.Spec); err != nil {
				t.Fatal(err)
			}
			withPolicy(t, ns, policy, func() { expectReach(t, ns, "server-1", ways(c.want...)) })
		})
	}
	t.Run("everything opens again", func(t *testing.T) {
		expectReach(t, ns, "server-1", ways(all...))
		expectReach(t, ns, "server-2", ways(all...))
	})
	t.Run("a label that changes", func(t *testing.T) {
		withPolicy(t, ns, allow("rule", "server", "client"), func() {
			expectReach(t, ns, "server-1", ways(all...))
			relabel(t, ns, "client-2", "other")
			expectReach(t, ns, "server-1", ways(all[:2]...))
			relabel(t, ns, "client-2", "client")
			expectReach(t, ns, "server-1", ways(all...))
		})
	})
	t.Run("the node reaches its own pod under default deny, another node does not", func(t *testing.T) {
		withPolicy(t, ns, allow("rule", "server", ""), func() {
			expectReach(t, ns, "server-2", nil)
			for server, want := range map[string]bool{"server-1": false, "server-2": true} {
				got, err := reaches(t, ns, "host", "tcp", net.JoinHostPort(podIP(t, ns, server), "8080"))
				if err != nil || got != want {
					t.Errorf("node 2 reaches %s: %v (%v)", server, got, err)
				}
				waitReady(t, ns, server) // its probe comes from its node
			}
		})
	})
	t.Run("egress to DNS and to nothing else", func(t *testing.T) { dnsAlone(t, ns) })
}

// dnsAlone is the recipe that everybody starts from.
func dnsAlone(t *testing.T, ns string) {
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "rule"}}
	spec := "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]," +
		" ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}"
	if err := yaml.Unmarshal([]byte(spec), &policy.Spec); err != nil {
		t.Fatal(err)
	}
	withPolicy(t, ns, policy, func() {
		expectReach(t, ns, "server-1", nil)
		for _, from := range []string{"client-1", "client-2"} {
			var addresses []string
			if err := tryInPod(t, ns, from, &addresses, "lookup", "kubernetes.default.svc.cluster.local"); err != nil {
				t.Errorf("%s: %v", from, err)
			}
		}
	})
}

func withPolicy(t *testing.T, ns string, policy *networkingv1.NetworkPolicy, during func()) {
	t.Helper()
	policies := client.NetworkingV1().NetworkPolicies(ns)
	if _, err := policies.Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := policies.Delete(t.Context(), policy.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	during()
}

func relabel(t *testing.T, ns, pod, app string) {
	t.Helper()
	patch := []byte(fmt.Sprintf(`{"metadata":{"labels":{"app":%q}}}`, app))
	if _, err := client.CoreV1().Pods(ns).Patch(t.Context(), pod, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestServiceKinds tries the ways in which a Service can say who answers.
func TestServiceKinds(t *testing.T) {
	ns := rulesWorld(t, "services")
	services := client.CoreV1().Services(ns)
	create := func(t *testing.T, name string, selector map[string]string, change func(*corev1.ServiceSpec)) *corev1.Service {
		service := probeService(name, selector)
		change(&service.Spec)
		made, err := services.Create(t.Context(), service, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	both := map[string]string{"app": "server"}
	t.Run("session affinity", func(t *testing.T) {
		create(t, "sticky", both, func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
		address := serviceIP(t, ns, "sticky", 2)
		eventuallyServes(t, ns, "client-1", address, 1)
		eventuallyServes(t, ns, "client-2", address, 1)
	})
	t.Run("this node's endpoints alone", func(t *testing.T) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		create(t, "near", map[string]string{"node": "1"}, func(s *corev1.ServiceSpec) { s.InternalTrafficPolicy = &local })
		address := serviceIP(t, ns, "near", 1)
		eventuallyServes(t, ns, "client-1", address, 1)
		if got, err := reaches(t, ns, "client-2", "tcp", net.JoinHostPort(address, "80")); err != nil || got {
			t.Errorf("a node without endpoints answers: %v (%v)", got, err)
		}
	})
	t.Run("both families, from pods and from a node", func(t *testing.T) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		made := create(t, "dual", both, func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &policy })
		serviceIP(t, ns, "dual", 2)
		for _, address := range made.Spec.ClusterIPs {
			for _, from := range []string{"client-1", "client-2", "host"} {
				eventually(t, 10*time.Second, func() error { return spreads(t, ns, from, "http://"+net.JoinHostPort(address, "80")) })
			}
		}
		for _, server := range []string{"server-1", "server-2"} {
			pod, err := client.CoreV1().Pods(ns).Get(t.Context(), server, metav1.GetOptions{})
			if err != nil || len(pod.Status.PodIPs) != 2 {
				t.Fatalf("%s has addresses %v (%v)", server, pod.Status.PodIPs, err)
			}
			if got, err := reaches(t, ns, "client-2", "tcp", net.JoinHostPort(pod.Status.PodIPs[1].IP, "8080")); err != nil || !got {
				t.Errorf("client-2 reaches %s by IPv6: %v (%v)", server, got, err)
			}
		}
	})
	t.Run("a port that changes and a Service that goes", func(t *testing.T) {
		create(t, "moving", both, func(*corev1.ServiceSpec) {})
		address := serviceIP(t, ns, "moving", 2)
		eventuallyServes(t, ns, "client-1", address, 2)
		service, err := services.Get(t.Context(), "moving", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		service.Spec.Ports = []corev1.ServicePort{{Name: "web", Port: 81, TargetPort: intstr.FromString("web")}}
		if _, err := services.Update(t.Context(), service, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func() error { return onlyPort(t, ns, address, "81", "80") })
		if err := services.Delete(t.Context(), "moving", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func() error { return onlyPort(t, ns, address, "", "81") })
	})
}

func spreads(t *testing.T, ns, from, url string) error {
	var got tally
	if err := tryInPod(t, ns, from, &got, "get", "-n", "40", url); err != nil {
		return err
	}
	if got.Failed > 0 || len(got.By) != 2 {
		return fmt.Errorf("%s %s: answers %v, %d failed: %s", from, url, got.By, got.Failed, got.Error)
	}
	return nil
}

// onlyPort says whether one port of an address answers and another does not, from both nodes.
func onlyPort(t *testing.T, ns, address, open, closed string) error {
	for _, from := range []string{"client-1", "client-2"} {
		for port, want := range map[string]bool{open: true, closed: false} {
			if port == "" {
				continue
			}
			if got, err := reaches(t, ns, from, "tcp", net.JoinHostPort(address, port)); err != nil || got != want {
				return fmt.Errorf("%s reaches port %s: %v (%w)", from, port, got, err)
			}
		}
	}
	return nil
}
