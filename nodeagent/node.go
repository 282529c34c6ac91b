// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"

	"skep.dev/skep/datapath"
)

const (
	leaseSeconds = 40
	leaseRenewal = 10 * time.Second
	// statusEvery is how often an unchanged node status is written again; checkEvery how often it is looked at.
	statusEvery = 5 * time.Minute
	checkEvery  = 10 * time.Second
	// ExecutableAnnotation is the path of the agent's program on its node. Pods of the cluster's own parts run it from there.
	ExecutableAnnotation = "skep.dev/executable"
)

// keepNode registers the node, keeps its status and lease, and follows its pod CIDRs.
func (a *agent) keepNode(ctx context.Context, dp datapath.Datapath) error {
	// A node that says Ready answers for its pods.
	if wait(ctx, a.podsKnown) != nil {
		return nil
	}
	err := retry(ctx, 100*time.Millisecond, 2*time.Second, func() error { return a.register(ctx, dp) }, func(err error) {
		a.log.Warn("node not registered, will retry", "err", err)
	})
	if err != nil {
		return nil // only the end of ctx ends the retries
	}
	leases := lease.NewController(clock.RealClock{}, a.client, a.cfg.NodeName, leaseSeconds, nil, leaseRenewal, a.cfg.NodeName, v1.NamespaceNodeLease, a.ownLease)
	done := make(chan struct{})
	go func() {
		defer close(done)
		leases.Run(ctx)
	}()
	informer := a.watchNode()
	go informer.Run(ctx.Done())

	last := time.Now()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			<-done
			return nil
		case <-tick.C:
		case <-a.lookAgain:
		}
		changed, err := a.updateNode(ctx, dp, time.Since(last) >= statusEvery)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("node status not written, will retry", "err", err)
		}
		if changed {
			last = time.Now()
		}
	}
}

func (a *agent) watchNode() cache.SharedIndexInformer {
	informer := coreinformers.NewFilteredNodeInformer(a.client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", a.cfg.NodeName).String()
	})
	// A fresh informer takes handlers.
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { a.nodeChanged(obj.(*v1.Node)) },
		UpdateFunc: func(_, obj any) { a.nodeChanged(obj.(*v1.Node)) },
	})
	return informer
}

// register makes the Node object, or brings the one that is there up to date.
func (a *agent) register(ctx context.Context, dp datapath.Datapath) error {
	want := a.node(ctx, dp, nil)
	nodes := a.client.CoreV1().Nodes()
	created, err := nodes.Create(ctx, want, metav1.CreateOptions{})
	if err == nil {
		a.nodeChanged(created)
		a.log.Info("node registered")
		// A new object has no status, and waiting for the next look would keep pods away for that long.
		_, err = a.writeNode(ctx, dp, created, true)
		return err
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node %s: %w", a.cfg.NodeName, err)
	}
	have, err := nodes.Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node %s: %w", a.cfg.NodeName, err)
	}
	if err := a.labelNode(ctx, have, want); err != nil {
		return err
	}
	a.nodeChanged(have)
	_, err = a.writeNode(ctx, dp, have, true)
	return err
}

// labelNode sets labels and annotations that are missing or differ; those of others stay.
func (a *agent) labelNode(ctx context.Context, have, want *v1.Node) error {
	changed := false
	for _, m := range []struct{ have, want map[string]string }{{have.Labels, want.Labels}, {have.Annotations, want.Annotations}} {
		for k, v := range m.want {
			changed = changed || m.have[k] != v
		}
	}
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": want.Labels, "annotations": want.Annotations}})
	if err != nil {
		return err
	}
	if _, err := a.client.CoreV1().Nodes().Patch(ctx, have.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node %s: %w", have.Name, err)
	}
	return nil
}

// node is the Node object as this agent sees it. have is the current one, for the times of its conditions.
func (a *agent) node(ctx context.Context, dp datapath.Datapath, have *v1.Node) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: a.cfg.NodeName,
		Labels: map[string]string{
			v1.LabelHostname: a.cfg.NodeName, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
			"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
		},
		Annotations: map[string]string{ExecutableAnnotation: a.cfg.Executable},
	}}
	for k, v := range a.cfg.Labels {
		n.Labels[k] = v
	}
	if have != nil {
		n.Status = *have.Status.DeepCopy()
	}
	s := &n.Status
	s.Capacity, s.Allocatable = a.machine.allocatable.DeepCopy(), a.machine.allocatable.DeepCopy()
	s.NodeInfo = a.machine.info
	s.Addresses = []v1.NodeAddress{}
	for _, ip := range a.cfg.NodeAddrs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: a.cfg.NodeName})
	s.DaemonEndpoints.KubeletEndpoint.Port = int32(a.cfg.KubeletPort)
	s.Images = a.nodeImages(ctx)
	a.nodeConditions(ctx, dp, s)
	return n
}

// maxImages is how many images a node reports.
const maxImages = 50

func (a *agent) nodeImages(ctx context.Context) []v1.ContainerImage {
	list, err := a.images.List(ctx)
	if err != nil {
		return nil
	}
	var out []v1.ContainerImage
	for _, img := range list {
		if !strings.HasPrefix(img.Name, "sha256:") && len(out) < maxImages {
			out = append(out, v1.ContainerImage{Names: []string{img.Name}, SizeBytes: img.Target.Size})
		}
	}
	return out
}

// nodeConditions says whether pods can run here: containerd and the datapath must answer, and the ranges of pod addresses be known.
func (a *agent) nodeConditions(ctx context.Context, dp datapath.Datapath, s *v1.NodeStatus) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var faults []string
	if _, err := a.runtime.Version(ctx); err != nil {
		faults = append(faults, "container runtime is down: "+err.Error())
	}
	if _, err := dp.RuleCounters(ctx); err != nil { // the cheapest question that maps answer
		faults = append(faults, "datapath does not answer: "+err.Error())
	}
	if len(faults) > 0 {
		setNodeCondition(s, v1.NodeReady, v1.ConditionFalse, "KubeletNotReady", strings.Join(faults, "; "))
	} else {
		setNodeCondition(s, v1.NodeReady, v1.ConditionTrue, "KubeletReady", "skep agent is posting ready status")
	}
	for _, c := range []struct {
		kind            v1.NodeConditionType
		bad             bool
		reason, message string
		badReason       string
	}{
		{v1.NodeMemoryPressure, a.machine.memoryPressure(), "KubeletHasSufficientMemory", "kubelet has sufficient memory available", "KubeletHasInsufficientMemory"},
		{v1.NodeDiskPressure, a.machine.diskPressure(a.cfg.DataDir), "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "KubeletHasDiskPressure"},
		{v1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available", ""},
	} {
		if c.bad {
			setNodeCondition(s, c.kind, v1.ConditionTrue, c.badReason, strings.Replace(strings.Replace(c.message, "sufficient", "insufficient", 1), "has no", "has", 1))
			continue
		}
		setNodeCondition(s, c.kind, v1.ConditionFalse, c.reason, c.message)
	}
	for _, p := range a.parts {
		for _, c := range p.NodeConditions() {
			setNodeCondition(s, c.Type, c.Status, c.Reason, c.Message)
		}
	}
}

func setNodeCondition(s *v1.NodeStatus, kind v1.NodeConditionType, status v1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if c.Type != kind {
			continue
		}
		if c.Status != status {
			c.LastTransitionTime = now
		}
		c.Status, c.Reason, c.Message, c.LastHeartbeatTime = status, reason, message, now
		return
	}
	s.Conditions = append(s.Conditions, v1.NodeCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
	})
}

// updateNode writes the status if it has changed in more than heartbeat times, or always with force.
func (a *agent) updateNode(ctx context.Context, dp datapath.Datapath, force bool) (bool, error) {
	have, err := a.client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return true, a.register(ctx, dp)
	}
	if err != nil {
		return false, fmt.Errorf("read node: %w", err)
	}
	return a.writeNode(ctx, dp, have, force)
}

func (a *agent) writeNode(ctx context.Context, dp datapath.Datapath, have *v1.Node, force bool) (bool, error) {
	want := a.node(ctx, dp, have)
	if !force && equality.Semantic.DeepEqual(withoutHeartbeats(have.Status), withoutHeartbeats(want.Status)) {
		return false, nil
	}
	before, err := json.Marshal(v1.Node{Status: have.Status})
	if err != nil {
		return false, err
	}
	after, err := json.Marshal(v1.Node{Status: want.Status})
	if err != nil {
		return false, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil {
		return false, fmt.Errorf("compute node status patch: %w", err)
	}
	_, err = a.client.CoreV1().Nodes().Patch(ctx, a.cfg.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return false, fmt.Errorf("write node status: %w", err)
	}
	return true, nil
}

func withoutHeartbeats(s v1.NodeStatus) v1.NodeStatus {
	out := *s.DeepCopy()
	for i := range out.Conditions {
		out.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return out
}

// ownLease makes the lease go away with its node. The owner's UID is needed, so the node is read once.
func (a *agent) ownLease(l *coordinationv1.Lease) error {
	if len(l.OwnerReferences) > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node for its lease: %w", err)
	}
	l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	return nil
}
