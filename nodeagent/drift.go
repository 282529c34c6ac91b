// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/selfcheck"
)

// newChecker makes the part that finds out whether the node does what policy says. settled says that the caches are in the datapath.
func (a *agent) newChecker(all informers.SharedInformerFactory, dp datapath.Datapath, settled func() bool) *selfcheck.Checker {
	return selfcheck.New(selfcheck.Config{
		NodeName: a.cfg.NodeName, Datapath: dp, Settled: settled, Changed: a.look,
		Objects: func() (selfcheck.Objects, error) { return a.policyObjects(all) },
		Event: func(message string) {
			node := &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: a.cfg.NodeName, UID: types.UID(a.cfg.NodeName)}
			a.recorder.Event(node, v1.EventTypeWarning, string(selfcheck.ConditionType), message)
		},
		Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Now: time.Now, Logger: a.cfg.Logger,
	})
}

// policyObjects reads from the caches what policy depends on.
func (a *agent) policyObjects(all informers.SharedInformerFactory) (o selfcheck.Objects, err error) {
	core, everything := all.Core().V1(), labels.Everything()
	if o.Pods, err = core.Pods().Lister().List(everything); err != nil {
		return o, err
	}
	if o.Namespaces, err = core.Namespaces().Lister().List(everything); err != nil {
		return o, err
	}
	if o.Nodes, err = core.Nodes().Lister().List(everything); err != nil {
		return o, err
	}
	if o.Policies, err = all.Networking().V1().NetworkPolicies().Lister().List(everything); err != nil {
		return o, err
	}
	for _, obj := range a.clusterPolicies.GetStore().List() {
		o.ClusterPolicies = append(o.ClusterPolicies, obj.(*policyv1alpha2.ClusterNetworkPolicy))
	}
	o.Unenforced = map[types.NamespacedName]bool{}
	for _, p := range a.ledger.Faulty() {
		o.Unenforced[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = true
	}
	return o, nil
}
