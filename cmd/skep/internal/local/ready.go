// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skep.dev/skep/cmd/skep/internal/agentapi"
)

// pollInterval is how often readiness is looked at: often enough not to be what a start waits for.
const pollInterval = 50 * time.Millisecond

// processDied says that a process of the cluster ended during the start.
type processDied struct{ name string }

func (e processDied) Error() string { return e.name + " has ended" }

// waitReady waits for the API, the nodes and DNS, and says how long each took.
func (u *upRun) waitReady(ctx context.Context) error {
	var client *kubernetes.Clientset
	err := u.await(ctx, "API server ready", func(ctx context.Context) (err error) {
		client, err = u.connect(ctx)
		return err
	})
	if err != nil {
		return err
	}
	file, err := u.mergeKubeconfig()
	if err != nil {
		return err
	}
	u.progress.say(fmt.Sprintf("context %s in %s", u.ContextName(), file))
	what := fmt.Sprintf("%d node ready", u.state.Nodes)
	if u.state.Nodes > 1 {
		what = fmt.Sprintf("%d nodes ready", u.state.Nodes)
	}
	if err := u.await(ctx, what, func(ctx context.Context) error { return u.nodesReady(ctx, client) }); err != nil {
		return err
	}
	if err := u.await(ctx, "DNS ready", func(ctx context.Context) error { return u.dnsReady(ctx, client) }); err != nil {
		return err
	}
	u.progress.say(fmt.Sprintf("cluster %s is ready", u.Name))
	return nil
}

// await polls until check succeeds, the context ends or a process of the cluster dies.
func (u *upRun) await(ctx context.Context, what string, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			u.progress.say(what)
			return nil
		}
		if dead := u.deadProcess(); dead != "" {
			return fmt.Errorf("waiting for %q: %w", what, processDied{dead})
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q: %w; last seen: %w", what, context.Cause(ctx), err)
		case <-time.After(pollInterval):
		}
	}
}

// connect succeeds when the API server answers that it is ready.
func (u *upRun) connect(ctx context.Context) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", u.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // one client on the same machine
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	// Without the client's own retries, which take ten seconds when a connection is reset, as the forwarder does
	// while the server does not listen yet.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").MaxRetries(0).DoRaw(ctx)
	return client, err
}

func (u *upRun) nodesReady(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := map[string]bool{}
	var reasons []string
	for _, n := range list.Items {
		i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
		if i >= 0 && n.Status.Conditions[i].Status == corev1.ConditionTrue {
			ready[n.Name] = true
		} else if i >= 0 {
			reasons = append(reasons, n.Name+": "+n.Status.Conditions[i].Message)
		}
	}
	for i := 1; i <= u.state.Nodes; i++ {
		n := u.Node(i)
		if !ready[n.Name()] {
			return fmt.Errorf("node %s is not ready; %s", n.Name(), strings.Join(reasons, "; "))
		}
		// The condition may be from before a crash; the agent's own socket is not.
		if _, err := agentapi.Status(ctx, n.AgentSocket()); err != nil {
			return fmt.Errorf("node %s: %w", n.Name(), err)
		}
		if err := kubeletListens(ctx, n); err != nil {
			return fmt.Errorf("node %s: %w", n.Name(), err)
		}
	}
	return nil
}

// kubeletListens looks whether logs and exec of the node's pods would work: they go to the agent's kubelet API.
func kubeletListens(ctx context.Context, n Node) error {
	var conn net.Conn
	err := inNetns(n.Netns(), func() (err error) {
		conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(n.Addrs()[0].String(), kubeletPort))
		return err
	})
	if err != nil {
		return fmt.Errorf("the kubelet API does not listen: %w", err)
	}
	return conn.Close()
}

// kubeletPort is the agent's default.
const kubeletPort = "10250"

// dnsReady reports whether the DNS pod of every node answers: a node asks only its own. Its condition in the API may be
// from before a crash, so the pod itself is asked.
func (u *upRun) dnsReady(ctx context.Context, client kubernetes.Interface) error {
	pods, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		return err
	}
	for i := 1; i <= u.state.Nodes; i++ {
		n := u.Node(i)
		at := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool {
			return p.Spec.NodeName == n.Name() && p.DeletionTimestamp == nil && podReady(&p)
		})
		if at < 0 {
			return fmt.Errorf("the DNS pod of node %s is not ready", n.Name())
		}
		if err := askDNS(ctx, n, pods.Items[at].Status.PodIP); err != nil {
			return fmt.Errorf("the DNS pod of node %s: %w", n.Name(), err)
		}
	}
	return nil
}

// askDNS sends one query from the node to a resolver. The name is there in every cluster.
func askDNS(ctx context.Context, n Node, resolver string) error {
	var conn net.Conn
	err := inNetns(n.Netns(), func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(resolver, "53"))
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	client := &dns.Client{Timeout: time.Second}
	reply, _, err := client.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA), &dns.Conn{Conn: conn})
	if err != nil {
		return err
	}
	if reply.Rcode != dns.RcodeSuccess {
		return errors.New("answers " + dns.RcodeToString[reply.Rcode])
	}
	return nil
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// deadProcess names a process of the cluster that has ended, or nothing. Where several have, the one that the
// others depend on comes first.
func (u *upRun) deadProcess() string {
	var dead []string
	for name, r := range u.records() {
		if !r.alive() {
			dead = append(dead, name)
		}
	}
	for _, name := range []string{"containerd", "server"} {
		if slices.Contains(dead, name) {
			return name
		}
	}
	if len(dead) == 0 {
		return ""
	}
	return slices.Min(dead)
}

// explain adds the end of the log that matters and what to do.
func (u *upRun) explain(err error) error {
	name := "server"
	var died processDied
	switch {
	case errors.As(err, &died):
		name = died.name
	case !errors.Is(err, context.DeadlineExceeded):
		return err // a fault of the request or of the machine, which says itself what to do
	default:
		for i := 1; i <= u.state.Nodes; i++ {
			if n := u.Node(i).Name(); strings.Contains(err.Error(), "node "+n) {
				name = n
				break
			}
		}
	}
	lines := tail(u.LogFile(name), 15)
	if lines == "" {
		return err
	}
	return fmt.Errorf("%w\n--- end of %s\n%s\n---\n\"skep up --name %s\" tries again from here, \"skep down --name %s\" removes everything",
		err, u.LogFile(name), lines, u.Name, u.Name)
}

// progress tells a person what has been reached and when.
type progress struct {
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, start: time.Now()} }

func (p *progress) say(what string) {
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.start).Seconds(), what)
}
