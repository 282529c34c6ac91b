// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"skep.dev/skep/controlplane"
)

// patience bounds every wait; nothing is asserted about how long things take.
const patience = 60 * time.Second

// cluster is a control plane that the tests of this package share, each in a namespace of its own.
type cluster struct {
	client *kubernetes.Clientset
	config *rest.Config
	stop   func() error
}

var (
	once   sync.Once
	shared *cluster
	failed error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the control plane:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// start gives the shared cluster, and a new namespace in it.
func start(t *testing.T) (*cluster, string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an API server; left out in short mode")
	}
	once.Do(func() { shared, failed = launch() })
	if failed != nil {
		t.Fatal(failed)
	}
	ns, err := shared.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := shared.client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			t.Error(err)
		}
	})
	return shared, ns.Name
}

const prefix = "skep-controllertest-"

// sweep removes what runs that were killed have left behind; the name of a folder begins with its process.
func sweep() {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return // the pattern is a constant
	}
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if _, err := os.Stat(filepath.Join("/proc", pid)); os.IsNotExist(err) {
			_ = os.RemoveAll(dir)
		}
	}
}

func launch() (*cluster, error) {
	sweep()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- controlplane.Run(ctx, controlplane.Config{
			DataDir:           dir,
			EtcdUnsafeNoFsync: true,
			BindAddress:       netip.MustParseAddr("127.0.0.1"),
			AdvertiseAddress:  netip.MustParseAddr("127.0.0.1"),
			SecurePort:        port,
			KubeconfigOut:     kubeconfig,
			Logger:            slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
	}()
	c := &cluster{stop: func() error {
		cancel()
		err := <-done
		_ = log.Close()
		if os.Getenv("SKEP_TEST_KEEP") == "" {
			_ = os.RemoveAll(dir)
		}
		return err
	}}
	if err := c.connect(kubeconfig, done); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return c, nil
}

func (c *cluster) connect(kubeconfig string, done <-chan error) error {
	deadline := time.Now().Add(patience)
	for {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err == nil {
			config.QPS, config.Burst = -1, 0
			c.config = config
			if c.client, err = kubernetes.NewForConfig(config); err == nil {
				_, err = c.client.CoreV1().ServiceAccounts("default").Get(context.Background(), "default", metav1.GetOptions{})
			}
			if err == nil {
				return nil
			}
		}
		select {
		case ended := <-done:
			return fmt.Errorf("the control plane ended: %w", ended)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the control plane did not come up: %w", err)
		}
	}
}

func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

// eventually polls until check is content; its text says what is still wrong.
func eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		wrong := check()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, wrong)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// playNodes makes nodes and plays their agents: heartbeats, and pods that become ready at once and end at once, unless
// the image is "broken". It returns a function that silences one node.
func (c *cluster) playNodes(t *testing.T, names ...string) {
	t.Helper()
	ctx := t.Context()
	factory := informers.NewSharedInformerFactory(c.client, 0)
	mine := map[string]bool{}
	for i, name := range names {
		mine[name] = true
		c.makeNode(t, name, i)
	}
	work := make(chan *corev1.Pod, 10000)
	offer := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok && mine[pod.Spec.NodeName] {
			work <- pod
		}
	}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: offer, UpdateFunc: func(_, obj any) { offer(obj) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var agents sync.WaitGroup
	agents.Go(func() {
		next := 1
		for {
			select {
			case <-ctx.Done():
				return
			case pod := <-work:
				if err := c.playPod(ctx, pod, next); err != nil && ctx.Err() == nil {
					t.Errorf("play %s: %v", pod.Name, err)
				}
				next++
			}
		}
	})
	factory.Start(ctx.Done())
	t.Cleanup(func() {
		for _, name := range names {
			if err := c.client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
		cancel()
		agents.Wait()
		factory.Shutdown()
	})
}

func (c *cluster) makeNode(t *testing.T, name string, zone int) {
	t.Helper()
	ctx := t.Context()
	node, err := c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("z", zone),
	}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "make node "+name, func() string {
		node, err = c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		node.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("8"), "memory": resource.MustParse("16Gi"), "pods": resource.MustParse("110")}
		node.Status.Capacity = node.Status.Allocatable
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
		if _, err = c.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	now := metav1.NowMicro()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}
	if _, err := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// playPod does what a node agent does with one state of a pod.
func (c *cluster) playPod(ctx context.Context, pod *corev1.Pod, n int) error {
	pods := c.client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		at := int64(0)
		err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &at, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	}
	if pod.Status.Phase == corev1.PodRunning || pod.Spec.Containers[0].Image == "broken" {
		return nil
	}
	fresh := pod.DeepCopy()
	now := metav1.Now()
	fresh.Status.Phase = corev1.PodRunning
	fresh.Status.PodIP = fmt.Sprintf("10.250.%d.%d", n/250, n%250+1)
	fresh.Status.PodIPs = []corev1.PodIP{{IP: fresh.Status.PodIP}}
	fresh.Status.Conditions = append(fresh.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
	_, err := pods.UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
