// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/netdev"
)

// TestAgentsKilledInTheMiddleOfPolicyUpdates kills the agents of both nodes again and again while policies and labels change all the time, under
// all of which clients reach the server and strangers do not. Nothing opens for a stranger, no client loses anything, and the last agents
// do what the last policies say.
func TestAgentsKilledInTheMiddleOfPolicyUpdates(t *testing.T) {
	const traffic, killing = 30 * time.Second, 18 * time.Second
	ns := namespace(t, "updates")
	createPods(t, ns, probePod("server", nodeName(2), map[string]string{"app": "server"}))
	server := net.JoinHostPort(waitReady(t, ns, "server").Status.PodIP, "9000")
	var pods []*corev1.Pod
	for n := range nodes {
		// A try of a client has the time in which TCP sends twice; one of a stranger is short, because there should be many.
		pods = append(pods, watcher("client", n+1, traffic, 3*time.Second, server), watcher("stranger", n+1, traffic, 50*time.Millisecond, server))
	}
	createPods(t, ns, pods...)
	end := time.Now().Add(killing)
	updates := newUpdates(t, ns)
	updates.step()
	kubectl(t, "policy", "status", "round-1", "-n", ns, "--wait", "--timeout", "20s")
	closed := time.Now()
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- updates.run(stop) }()
	kills := killAgents(t, updates.Rand, end)
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	t.Logf("%v during %d updates", kills, updates.rounds)
	// The first of a new agent's duties is what the dead one left undone, the last what a person would do.
	if out, err := command("up", "--name", name).CombinedOutput(); err != nil {
		t.Fatalf("skep up after the kills: %v\n%s", err, out)
	}
	for _, pod := range pods {
		var seen watched
		answer(t, ns, pod.Name, &seen)
		t.Logf("%s: new %d ok, %d failed; established %d ok, %d failed", pod.Name, seen.New.Count, seen.New.Failed, seen.Established.Count, seen.Established.Failed)
		last := time.Unix(0, max(seen.New.Last, seen.Established.Last))
		switch {
		case pod.Labels["app"] == "client" && (seen.New.Failed+seen.Established.Failed > 0 || seen.New.Count < 1000 || seen.Established.Count < 1000):
			t.Errorf("%s lost something, or there was too little traffic to prove anything: %s %s", pod.Name, seen.New.Error, seen.Established.Error)
		case pod.Labels["app"] == "stranger" && (last.After(closed) || seen.New.Failed < 100 || seen.Established.Failed < 100):
			t.Errorf("%s was answered %v after the server was closed to it, or tried too seldom to prove anything", pod.Name, last.Sub(closed))
		}
	}
	updates.end(t)
}

// watcher is a pod that connects to the server while everything is open, which makes it ready, and tries for some time what it can reach.
func watcher(app string, n int, length, timeout time.Duration, server string) *corev1.Pod {
	pod := probePod(fmt.Sprint(app, "-", n), nodeName(n), map[string]string{"app": app, "round": "0"})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	container := &pod.Spec.Containers[0]
	container.Args = []string{"watch", "-for", length.String(), "-timeout", timeout.String(), "-ready", ":9001", server}
	container.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(9001)}}}
	container.Ports = nil
	return pod
}

// updates changes policies and labels without a pause. Each of its policies isolates the server and lets clients in, said in another way; there
// is always one of them.
type updates struct {
	*rand.Rand
	t              *testing.T
	ns             string
	rounds         int
	places         *strings.Replacer
	guarded        bool
	clients, traps []string
}

func newUpdates(t *testing.T, ns string) *updates {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("SKEP_SEED"); given != "" {
		seed, _ = strconv.ParseUint(given, 10, 64)
	}
	t.Logf("SKEP_SEED=%d", seed)
	var clients, strangers []string
	for n := range nodes {
		clients = append(clients, fmt.Sprintf("{ipBlock: {cidr: %s/32}}", waitReady(t, ns, fmt.Sprint("client-", n+1)).Status.PodIP))
		strangers = append(strangers, waitReady(t, ns, fmt.Sprint("stranger-", n+1)).Status.PodIP+"/32")
	}
	return &updates{
		Rand: rand.New(rand.NewPCG(seed, 0)), t: t, ns: ns,
		clients: []string{
			`{podSelector: {matchLabels: {app: client}}}`,
			`{podSelector: {matchExpressions: [{key: app, operator: In, values: [client, nobody]}, {key: round, operator: Exists}]}}`,
			`{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + ns + `}}, podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [stranger, server]}]}}`,
			`{ipBlock: {cidr: 0.0.0.0/0, except: [` + strings.Join(strangers, ", ") + `]}}`,
			strings.Join(clients, ", "),
		},
		traps: []string{
			`{from: [{podSelector: {matchLabels: {app: stranger}}}], ports: [{port: 1, endPort: 8999}]}`,
			`{ports: [{protocol: UDP}]}`,
			`{from: [{namespaceSelector: {}}], ports: [{port: web}]}`,
			`{from: [{podSelector: {matchLabels: {app: stranger, round: none}}}]}`,
		},
	}
}

func pick[T any](u *updates, from ...T) T { return from[u.IntN(len(from))] }

// policy is a version of what holds all the time.
func (u *updates) policy(round int) *networkingv1.NetworkPolicy {
	subject := pick(u, `{}`, `{matchLabels: {app: server}}`, `{matchExpressions: [{key: app, operator: NotIn, values: [client]}]}`)
	ports := pick(u, `[]`, `[{port: 9000}]`, `[{port: 8999, endPort: 9001}]`, `[{port: echo}]`)
	rules := []string{fmt.Sprintf(`{from: [%s], ports: %s}`, pick(u, u.clients...), ports), pick(u, u.traps...), pick(u, u.traps...)}
	u.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
	rest := pick(u, `policyTypes: [Ingress]`, `policyTypes: [Ingress, Egress], egress: [{}]`)
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("round-", round)}}
	text := fmt.Sprintf(`spec: {podSelector: %s, ingress: [%s], %s}`, subject, strings.Join(rules, ", "), rest)
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		u.t.Errorf("%s: %v", text, err)
	}
	return p
}

// step makes a new policy before the old one goes, and changes labels and a cluster policy now and then.
func (u *updates) step() error {
	u.rounds++
	policies := client.NetworkingV1().NetworkPolicies(u.ns)
	_, err := policies.Create(u.t.Context(), u.policy(u.rounds), metav1.CreateOptions{})
	if err == nil && u.rounds > 1 {
		err = policies.Delete(u.t.Context(), fmt.Sprint("round-", u.rounds-1), metav1.DeleteOptions{})
	}
	if err == nil && u.rounds%5 == 0 {
		pod := fmt.Sprint(pick(u, "client-", "stranger-"), 1+u.IntN(nodes))
		patch := fmt.Sprintf(`{"metadata":{"labels":{"round":"%d"}}}`, u.rounds)
		_, err = client.CoreV1().Pods(u.ns).Patch(u.t.Context(), pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	}
	if err == nil && u.rounds%3 == 0 {
		err = u.guard()
	}
	return err
}

// guard makes or removes a cluster policy that changes nothing for clients and strangers.
func (u *updates) guard() error {
	rest := client.NetworkingV1().RESTClient()
	if u.guarded {
		u.guarded = false
		return rest.Delete().AbsPath(clusterPolicies, "updates").Do(u.t.Context()).Error()
	}
	clients := `{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}`
	strangers := `{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: stranger}}}}`
	p := policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "updates"}}
	p.APIVersion, p.Kind = "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"
	text := fmt.Sprintf(`spec: {tier: %s, priority: %d, subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}}, podSelector: {matchLabels: {app: server}}}}, ingress: [%s]}`,
		pick(u, "Admin", "Baseline"), u.IntN(1000), u.ns, pick(u,
			`{action: Accept, from: [`+clients+`]}, {action: Deny, from: [{namespaces: {}}]}`,
			`{action: Deny, from: [`+strangers+`]}, {action: Pass, from: [{namespaces: {}}]}`,
			`{action: Pass, from: [`+strangers+`, `+clients+`]}`))
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
		return err
	}
	u.guarded = true
	body, err := yaml.Marshal(p)
	if err != nil {
		return err
	}
	return rest.Post().AbsPath(clusterPolicies).SetHeader("Content-Type", "application/yaml").Body(body).Do(u.t.Context()).Error()
}

// run steps until it is stopped.
func (u *updates) run(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := u.step(); err != nil {
			return fmt.Errorf("round %d: %w", u.rounds, err)
		}
	}
}

// end has strangers and clients change their parts.
func (u *updates) end(t *testing.T) {
	t.Helper()
	policies := client.NetworkingV1().NetworkPolicies(u.ns)
	if u.guarded {
		if err := u.guard(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := policies.Create(t.Context(), allow("last", "server", "stranger"), metav1.CreateOptions{})
	if err = errors.Join(err, policies.Delete(t.Context(), fmt.Sprint("round-", u.rounds), metav1.DeleteOptions{})); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "policy", "status", "last", "-n", u.ns, "--wait", "--timeout", "20s")
	address := net.JoinHostPort(waitReady(t, u.ns, "server").Status.PodIP, "8080")
	for n := range nodes {
		for _, app := range []string{"client", "stranger"} {
			pod := fmt.Sprint("last-", app, "-", n+1)
			createPods(t, u.ns, probePod(pod, nodeName(n+1), map[string]string{"app": app}))
			var got tally
			inPod(t, u.ns, pod, &got, "get", "-n", "3", "-timeout", map[string]string{"client": "300ms", "stranger": "5s"}[app], "http://"+address)
			if (app == "stranger") != (got.OK == 3) || (app == "client") != (got.Failed == 3) {
				t.Errorf("after the last policy %s sees %+v", pod, got)
			}
		}
	}
}

// kills says what was hit.
type kills struct{ all, starting, flipping int }

func (k kills) String() string {
	return fmt.Sprintf("%d agents killed (%d of them while they started, %d between the two states of a change)", k.all, k.starting, k.flipping)
}

// killAgents kills agents until some moment, most of them in the middle of the changes that they put into force, and starts others in their place.
func killAgents(t *testing.T, random *rand.Rand, end time.Time) (hit kills) {
	t.Helper()
	random = rand.New(rand.NewPCG(random.Uint64(), 1))
	states := map[string]*ebpf.Map{}
	for n := range nodes {
		states[nodeName(n+1)] = pinned(t, nodeName(n+1), "skep_state")
	}
	for time.Now().Before(end) {
		node := nodeName(1 + random.IntN(nodes))
		state := states[node]
		if random.IntN(3) > 0 {
			changes := uint32(1 + random.IntN(4))
			began := readState(t, state).Generation
			eventually(t, 20*time.Second, func() error {
				if now := readState(t, state).Generation; now-began < changes {
					return fmt.Errorf("the agent of %s has put %d changes into force", node, now-began)
				}
				return nil
			})
		} else {
			hit.starting++
		}
		time.Sleep(time.Duration(random.IntN(15_000)) * time.Microsecond)
		restart := likeAgent(t, node)
		killAgent(t, node)
		eventually(t, 10*time.Second, func() error {
			if _, running := agentProcesses()[node]; running {
				return fmt.Errorf("the agent of %s is still there", node)
			}
			return nil
		})
		hit.all++
		if readState(t, state).Flips%2 == 1 {
			hit.flipping++
		}
		restart()
	}
	return hit
}

func readState(t *testing.T, state *ebpf.Map) (out bpfobj.SkepState) {
	t.Helper()
	if err := state.Lookup(uint32(0), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// likeAgent returns how to start an agent as the one of a node was: its arguments, its network namespace and the cgroup where its sockets are
// balanced.
func likeAgent(t *testing.T, node string) (restart func()) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(agentProcesses()[node]))
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	arguments := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	at := slices.IndexFunc(arguments, func(a string) bool { return strings.HasPrefix(a, "--socket-cgroup=") })
	cgroup, cgroupErr := os.Open(filepath.Join(strings.TrimPrefix(arguments[at], "--socket-cgroup="), "agent"))
	netns, netnsErr := os.Open(filepath.Join(proc, "ns/net"))
	logged, logErr := os.OpenFile(filepath.Join(proc, "fd/1"), os.O_APPEND|os.O_WRONLY, 0)
	if err := errors.Join(cgroupErr, netnsErr, logErr); err != nil {
		t.Fatal(err)
	}
	return func() {
		defer func() { cgroup.Close(); netns.Close(); logged.Close() }()
		agent := exec.Command(arguments[0], arguments[1:]...)
		agent.Dir, agent.Env, agent.Stdout, agent.Stderr = "/", []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, logged, logged
		agent.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
		if err := netdev.InNamespace(fmt.Sprint("/proc/self/fd/", netns.Fd()), agent.Start); err != nil {
			t.Fatal(err)
		}
		go func() { _ = agent.Wait() }()
	}
}
