// SPDX-License-Identifier: Apache-2.0

// Package nodeagent runs the pods of one node: it watches the API for pods bound to the node and makes containerd, the pod network and the
// datapath agree with them.
//
// The agent may be killed at any moment. Containers, their output, the network and its policy go on without it; the next agent
// adopts what it finds and restarts nothing.
package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/cgroup"
	"skep.dev/skep/nodeagent/checkpoint"
	"skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/ledger"
	"skep.dev/skep/nodeagent/peer"
	"skep.dev/skep/nodeagent/podlog"
	"skep.dev/skep/nodeagent/podnet"
	"skep.dev/skep/nodeagent/runtime"
	"skep.dev/skep/nodeagent/source"
	"skep.dev/skep/nodeagent/status"
	"skep.dev/skep/nodeagent/volume"
)

// Run is the node agent. It returns nil when ctx ends, which leaves all pods running, and an error when it cannot work at all.
func Run(ctx context.Context, cfg Config, dp datapath.Datapath) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("node agent configuration: %w", err)
	}
	if err := cfg.setDefaults(); err != nil {
		return err
	}
	for _, dir := range []string{cfg.DataDir, cfg.RunDir, cfg.LogRoot} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	rc, err := clientConfig(cfg)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("make API client: %w", err)
	}
	a, err := newAgent(ctx, cfg, client)
	if err != nil {
		return err
	}
	defer a.containerd.Close()
	network, err := podnet.New(podnet.Config{
		NodeName: cfg.NodeName, RunDir: cfg.RunDir, DataDir: cfg.DataDir, Uplink: cfg.Uplink, Logger: cfg.Logger,
	}, dp)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	defer network.Close()
	a.net = network
	if a.clusterPolicies, err = newClusterPolicies(rc); err != nil {
		return err
	}
	peers, err := newPeers(rc, a.log)
	if err != nil {
		return err
	}
	return a.run(ctx, dp, peers)
}

func clientConfig(cfg Config) (*rest.Config, error) {
	rc, err := clientcmd.BuildConfigFromFlags("", filepath.Join(cfg.Credentials, "kubeconfig"))
	if err != nil {
		return nil, fmt.Errorf("read credentials of node: %w", err)
	}
	rc.ContentType = apiruntime.ContentTypeProtobuf
	rc.AcceptContentTypes = apiruntime.ContentTypeProtobuf + "," + apiruntime.ContentTypeJSON
	rc.UserAgent = "skep-agent/" + kubeletVersion()
	// The API server protects itself; a limit here would only delay pods.
	rc.QPS, rc.Burst = -1, -1
	return rc, nil
}

// newAgent connects to containerd, waiting for it as long as it takes, and prepares the parts that need nothing else.
func newAgent(ctx context.Context, cfg Config, client kubernetes.Interface) (*agent, error) {
	log := cfg.Logger.With("component", "nodeagent", "node", cfg.NodeName)
	m, err := inspect(cfg.DataDir, cfg.MaxPods)
	if err != nil {
		return nil, err
	}
	groups, err := cgroup.Open()
	if err != nil {
		return nil, err
	}
	saved, err := checkpoint.New(filepath.Join(cfg.DataDir, "checkpoint"))
	if err != nil {
		return nil, err
	}
	objects := source.New(client)
	a := &agent{
		cfg: cfg, log: log, client: client, objects: objects, cgroups: groups, saved: saved, machine: m,
		volumes: volume.New(filepath.Join(cfg.DataDir, "pods"), objects), status: status.New(client, log),
		logs:      podlog.NewClient(filepath.Join(cfg.RunDir, "log"), cfg.Executable, log),
		cidrReady: make(chan struct{}), podsKnown: make(chan struct{}), workers: map[types.UID]*worker{}, pullLimit: make(chan struct{}, maxPulls),
		lookAgain: make(chan struct{}, 1), progress: peer.NewProgress(),
	}
	a.parts = []part{podCounts{a}}
	if err := a.connect(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// maxPulls is how many images are pulled at once.
const maxPulls = 5

// connect opens containerd and makes sure of what pods need of it from the start.
func (a *agent) connect(ctx context.Context) error {
	return retry(ctx, 250*time.Millisecond, 5*time.Second, func() error {
		client, err := containerd.New(a.cfg.ContainerdSocket, containerd.WithDefaultNamespace(a.cfg.ContainerdNamespace), containerd.WithTimeout(5*time.Second))
		if err != nil {
			return err
		}
		rt := runtime.New(client, a.cfg.NodeName)
		version, err := rt.Version(ctx)
		if err == nil {
			err = image.EnsureBase(ctx, client)
		}
		if err != nil {
			return errors.Join(err, client.Close())
		}
		a.containerd, a.runtime, a.images = client, rt, image.NewStore(client)
		a.machine.info.ContainerRuntimeVersion = "containerd://" + version
		a.puller = image.Direct{Client: client, HostsDir: "/etc/containerd/certs.d"}
		if a.cfg.PullerSocket != "" {
			a.puller = image.Remote{Socket: a.cfg.PullerSocket, Namespace: a.cfg.ContainerdNamespace}
		}
		return nil
	}, func(err error) {
		a.log.Error("containerd does not answer; install and start it (apt-get install containerd), or give its socket; will retry",
			"socket", a.cfg.ContainerdSocket, "err", err)
	})
}

// run starts everything in order and works until ctx ends or a part fails.
func (a *agent) run(ctx context.Context, dp datapath.Datapath, peers peers) error {
	if err := a.logs.Ensure(ctx); err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	a.recorder = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: a.cfg.NodeName})

	if err := a.adoptAll(ctx); err != nil {
		return fmt.Errorf("find containers of an earlier agent: %w", err)
	}
	a.awaitAPI(ctx)
	all := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(trim))
	a.services = all.Core().V1().Services().Lister()
	a.ledger = ledger.New()
	translator := intent.New(intent.Config{
		NodeName: a.cfg.NodeName, Informers: all, Datapath: dp,
		ClusterPolicies: a.clusterPolicies, Policies: a.client.NetworkingV1(), ListClusterPolicies: a.clusterPolicies.list,
		PodsKnown: a.progress.SetPods, Rules: a.cfg.Rules, LastGood: a.cfg.LastGood, Ledger: a.ledger, Logger: a.cfg.Logger,
	})
	a.policy, a.others = translator, peers
	a.policies = &policyAPI{node: a.cfg.NodeName, ledger: a.ledger, rules: translator.Rules(), dp: dp}
	a.parts = append(a.parts, a.ledger, datapathMetrics{dp: dp, rules: translator.Rules(), log: a.log})
	audits, err := a.newAudits(all, translator.Rules())
	if err != nil {
		return err
	}
	a.parts = append(a.parts, peers)
	if err := peers.listen(all.Core().V1().Nodes(), a.cfg.NodeName); err != nil {
		return err
	}
	checker := a.newChecker(all, dp, translator.Settled)
	a.parts = append(a.parts, checker)
	all.Start(ctx.Done())

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { a.clusterPolicies.RunWithContext(ctx); return nil })
	group.Go(func() error { return translator.Run(ctx) })
	group.Go(func() error { checker.Run(ctx); return nil })
	group.Go(func() error { newPolicyEvents(a.ledger, a.recorder).run(ctx, a.look); return nil })
	group.Go(func() error { peers.Run(ctx); return nil })
	group.Go(func() error { a.logs.Supervise(ctx); return nil })
	group.Go(func() error { return a.serveKubelet(ctx) })
	group.Go(func() error { return a.keepNode(ctx, dp) })
	group.Go(func() error { audits.run(ctx, dp); return nil })
	group.Go(func() error { return a.runPods(ctx, all.Core().V1().Services().Informer()) })
	err = group.Wait()
	a.running.Wait()
	all.Shutdown()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// apiWait is how long the agent waits for a server that is starting before it tries its luck with one that is not ready.
const apiWait = time.Minute

// awaitAPI returns when the API server says that it is ready, after apiWait, or when ctx ends. Agent and server often start at the
// same time, and every watch that begins too early is an error in the log and a back-off.
func (a *agent) awaitAPI(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	begin, told := time.Now(), false
	err := retry(ctx, 50*time.Millisecond, time.Second, func() error {
		return a.client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(5 * time.Second).Do(ctx).Error()
	}, func(err error) {
		if !told {
			a.log.Info("waiting for the API server to be ready", "err", err)
			told = true
		}
	})
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		a.log.Warn("API server not ready, going on; watches will retry", "took", time.Since(begin), "err", err)
	case told:
		a.log.Info("API server is ready", "took", time.Since(begin))
	}
}

// trim drops what nobody here reads from cached objects: managed fields are a good part of their size.
func trim(obj any) (any, error) {
	if o, ok := obj.(interface {
		SetManagedFields([]metav1.ManagedFieldsEntry)
	}); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// runPods follows the pods of this node.
func (a *agent) runPods(ctx context.Context, services cache.SharedIndexInformer) error {
	own := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName).String()
		}))
	pods := own.Core().V1().Pods()
	if !cache.WaitForCacheSync(ctx.Done(), services.HasSynced) {
		return nil
	}
	handle, err := pods.Informer().AddEventHandler(a.podHandler(ctx))
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	own.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), handle.HasSynced) {
		return nil
	}
	close(a.podsKnown)
	list, err := pods.Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	a.removeOrphans(ctx, list)
	<-ctx.Done()
	own.Shutdown()
	return nil
}
