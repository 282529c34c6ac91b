// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/audit"
	"skep.dev/skep/nodeagent/intent"
)

// auditInterval is how often the agent looks whether policies in audit mode would have decided something otherwise.
const auditInterval = 10 * time.Second

// byAddress is the index of pods by their addresses.
const byAddress = "address"

// podAddresses are the keys of a pod in that index. Pods on the node's network share its addresses, and ended ones have none.
func podAddresses(obj any) ([]string, error) {
	pod, ok := obj.(*v1.Pod)
	if !ok || pod.Spec.HostNetwork || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return nil, nil
	}
	var out []string
	for _, ip := range pod.Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out, nil
}

// audits tells about the policies in audit mode.
type audits struct {
	node string
	log  *slog.Logger
	seen *audit.Log
	// pods are indexed by byAddress; policies and clusterPolicies are all there are.
	pods            cache.Indexer
	policies        cache.Store
	clusterPolicies cache.Store
	rules           interface{ Current() []intent.PolicyRule }
	event           func(ref *v1.ObjectReference, reason, message string)
}

// newAudits makes them of the agent's informers, which have not been started.
func (a *agent) newAudits(all informers.SharedInformerFactory, rules *intent.RuleTable) (*audits, error) {
	pods := all.Core().V1().Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{byAddress: podAddresses}); err != nil {
		return nil, fmt.Errorf("index pods by address: %w", err)
	}
	return &audits{
		node: a.cfg.NodeName, log: a.log, seen: audit.NewLog(), rules: rules,
		pods: pods.GetIndexer(), policies: all.Networking().V1().NetworkPolicies().Informer().GetStore(), clusterPolicies: a.clusterPolicies.GetStore(),
		event: func(ref *v1.ObjectReference, reason, message string) {
			a.recorder.Event(ref, v1.EventTypeNormal, reason, message)
		},
	}, nil
}

// run remembers what the datapath tells, and writes events about it, until ctx ends. What goes wrong costs what could be told: pods and
// policies go on.
func (a *audits) run(ctx context.Context, dp datapath.Datapath) {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() {
		if err := dp.FollowAudit(ctx, a.seen.Add); err != nil {
			a.log.Error("what policies in audit mode would change is counted, but not told by name", "err", err)
		}
	})
	reporter := audit.Reporter{Node: a.node, Describe: a.describe}
	ticker := time.NewTicker(auditInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if err := a.report(ctx, dp, &reporter, now); err != nil && ctx.Err() == nil {
				a.log.Warn("what policies in audit mode would change is not told, will retry", "err", err)
			}
		}
	}
}

func (a *audits) report(ctx context.Context, dp datapath.Datapath, reporter *audit.Reporter, now time.Time) error {
	rules := a.rules.Current()
	if !anyAudit(rules) {
		return nil // the counters need not be read
	}
	counters, err := dp.RuleCounters(ctx)
	if err != nil {
		return err
	}
	seen, _ := a.seen.Last()
	for _, r := range reporter.Reports(now, rules, counters, seen) {
		if ref := a.inAudit(r.Policy); ref != nil {
			a.event(ref, r.Reason, r.Message)
		}
	}
	return nil
}

func anyAudit(rules []intent.PolicyRule) bool {
	for _, r := range rules {
		if r.Audit {
			return true
		}
	}
	return false
}

// inAudit finds a policy that is in audit mode. Others are named too, where policies decide together.
func (a *audits) inAudit(name string) *v1.ObjectReference {
	store := a.clusterPolicies
	if strings.Contains(name, "/") {
		store = a.policies
	}
	obj, found, err := store.GetByKey(name)
	if err != nil || !found {
		return nil // it has gone meanwhile
	}
	policy, ok := obj.(metav1.Object)
	if !ok || enforcement.ModeOf(policy.GetAnnotations()) != enforcement.Audit {
		return nil
	}
	return policyReference(policy.GetNamespace(), policy.GetName(), policy.GetUID())
}

// describe writes a connection with the names of its pods.
func (a *audits) describe(s audit.Seen) string {
	to := a.nameOf(s.To)
	if s.Port != 0 {
		to = fmt.Sprintf("%s port %d/%s", to, s.Port, s.Protocol)
	}
	return fmt.Sprintf("%s to %s", a.nameOf(s.From), to)
}

// nameOf is "namespace/name" of the pod that has an address, or the address.
func (a *audits) nameOf(addr netip.Addr) string {
	pods, err := a.pods.ByIndex(byAddress, addr.String())
	if err != nil || len(pods) != 1 {
		return addr.String()
	}
	pod := pods[0].(*v1.Pod)
	return pod.Namespace + "/" + pod.Name
}
