// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	typednetworkingv1 "k8s.io/client-go/kubernetes/typed/networking/v1"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/ledger"
)

// minInterval is the least time between two hand-overs. The first change after a pause goes out at once.
const minInterval = 10 * time.Millisecond

// peerWait bounds how long a pod whose own policy is enforced waits to be known as a peer.
const peerWait = 2 * time.Second

// Retries of a failed hand-over double their distance between these.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Config is what a Translator needs. All fields but ClusterPolicies with its lister, Rules, LastGood
// and Logger are required.
type Config struct {
	NodeName string
	// Informers must watch all namespaces without a field or label filter: peers live anywhere.
	Informers informers.SharedInformerFactory
	// ClusterPolicies are the ClusterNetworkPolicies; nil when there are none. The caller runs it.
	ClusterPolicies cache.SharedIndexInformer
	// Policies and ListClusterPolicies read what WaitCurrent compares the informers with.
	Policies            typednetworkingv1.NetworkPoliciesGetter
	ListClusterPolicies func(context.Context, metav1.ListOptions) (*policyv1alpha2.ClusterNetworkPolicyList, error)
	Datapath            datapath.Datapath
	// PodsKnown is told the highest resourceVersion of pods that the datapath knows, whenever it has risen.
	PodsKnown func(version string)
	// Rules hands out the numbers of rules. Default: a table without a journal, whose numbers start again with every run, so that
	// conntrack entries from before a restart are attributed wrongly.
	Rules *RuleTable
	// LastGood keeps the last good versions of policies that are refused. Default: nothing is kept, and pods that such a policy selects
	// are cut off by a restart.
	LastGood *LastGood
	// Ledger is told what becomes of each policy. Default: one that nobody reads.
	Ledger *ledger.Ledger
	Logger *slog.Logger
}

// Translator keeps the datapath in agreement with the API.
type Translator struct {
	cfg   Config
	log   *slog.Logger
	rules *RuleTable
	// cluster to unpublished belong to the goroutine of Run.
	cluster *Cluster
	// inForce is what the datapath took last.
	inForce *datapath.PolicyState
	pending stale
	backoff time.Duration
	// taken are the versions of policies that cluster has; unpublished names the namespaces where inForceVersions may differ.
	taken       versions
	unpublished map[string]bool
	trials      *trials
	lastGood    *LastGood
	// podsTaken is the highest version of pods that cluster has, podsTold what PodsKnown was told last.
	podsTaken, podsTold string

	synced  []cache.DoneChecker
	refused error
	wake    chan struct{}

	mu    sync.Mutex // guards what follows
	queue []change
	// idle says that nothing was left to hand over when the queue was last empty.
	idle bool
	// enforced are the pods that the policy in force covers, true for those whose addresses it knows; renewed is closed
	// and replaced whenever it changes.
	enforced map[datapath.EndpointID]bool
	renewed  chan struct{}
	// inForceVersions are those of the policies in force; current says which version of the API they are known to be no older
	// than, by namespace.
	inForceVersions versions
	current         map[string]string
}

// change is one event of an informer, and when it came. After is nil for a deletion.
type change struct {
	before, after any
	at            time.Time
}

// stale says what has to be handed over.
type stale struct{ nodes, policy, services bool }

func (s stale) any() bool { return s.nodes || s.policy || s.services }

// New registers with the informers and starts nothing.
func New(cfg Config) *Translator {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Translator{
		cfg:      cfg,
		log:      cfg.Logger.With("component", "intent"),
		wake:     make(chan struct{}, 1),
		enforced: map[datapath.EndpointID]bool{},
		renewed:  make(chan struct{}),
		taken:    versions{},
		current:  map[string]string{},

		unpublished: map[string]bool{}, inForceVersions: versions{},
	}
	if t.cfg.Ledger == nil {
		t.cfg.Ledger = ledger.New()
	}
	t.trials = newTrials()
	if t.lastGood = cfg.LastGood; t.lastGood == nil {
		t.lastGood = forgetful()
	}
	if t.rules = cfg.Rules; t.rules == nil {
		t.rules, _ = NewRuleTable("") // cannot fail without a path
	}
	t.cluster = NewCluster(cfg.NodeName, t.rules)
	// What every hand-over starts from: even an empty cluster has a policy, and pods wait for it.
	t.pending = stale{nodes: true, policy: true, services: true}
	t.register()
	return t
}

// Rules is the table of rule numbers, for status output and event decoding.
func (t *Translator) Rules() *RuleTable { return t.rules }

// Run hands over until ctx ends, and then returns nil. An error means that the informers cannot be used.
func (t *Translator) Run(ctx context.Context) error {
	if t.refused != nil {
		return fmt.Errorf("intent: listen to informers: %w", t.refused)
	}
	t.cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "", t.synced...) {
		return nil // ctx has ended
	}
	t.log.Info("caches are synced")
	var last time.Time
	t.trials.began = time.Now()
	for {
		t.drain()
		t.tryAgain(time.Now())
		if t.pending.any() {
			if wait := time.Until(last.Add(minInterval)); wait > 0 {
				if !sleep(ctx, wait) {
					return nil
				}
				t.drain()
			}
			t.handOver(ctx)
			last = time.Now()
		}
		if !t.pending.policy {
			t.publish()
			t.tellPods()
		}
		t.rest()
		if !t.await(ctx) {
			return nil
		}
	}
}

// WaitEnforced blocks until the policy that judges the pod is in force on this node. It then waits for the sets that name
// the pod as a peer too, but no longer than peerWait: that needs the pod's addresses in the API, so write status.podIPs
// first. Without them the pod's first packets to isolated pods of this node could be refused.
func (t *Translator) WaitEnforced(ctx context.Context, uid string) error {
	var peers <-chan time.Time
	for {
		t.mu.Lock()
		addressed, own := t.enforced[datapath.EndpointID(uid)]
		renewed := t.renewed
		t.mu.Unlock()
		if addressed {
			return nil
		}
		if own && peers == nil {
			timer := time.NewTimer(peerWait)
			defer timer.Stop()
			peers = timer.C
		}
		select {
		case <-renewed:
		case <-peers:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the policy of pod %s: %w", uid, ctx.Err())
		}
	}
}

// await blocks until there is something to do, and reports false when ctx has ended.
func (t *Translator) await(ctx context.Context) bool {
	var retry <-chan time.Time
	wait, again := t.trials.next(time.Now())
	if t.pending.any() {
		wait, again = t.backoff, true
	}
	if again {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		retry = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-t.wake:
		return true
	case <-retry:
		return true
	}
}

// drain applies all events that wait.
func (t *Translator) drain() {
	t.mu.Lock()
	queue := t.queue
	t.queue, t.idle = nil, t.idle && len(queue) == 0
	t.mu.Unlock()
	for _, ch := range queue {
		t.apply(ch)
	}
}

// handOver gives the datapath what is stale. What fails stays stale and is retried; the rest goes on.
func (t *Translator) handOver(ctx context.Context) {
	began := time.Now()
	var errs []error
	if t.pending.nodes {
		err := t.cfg.Datapath.SetNodes(ctx, t.cluster.Nodes())
		t.pending.nodes = err != nil
		errs = append(errs, err)
	}
	if t.pending.policy {
		err := t.settlePolicy(ctx)
		t.pending.policy = err != nil
		errs = append(errs, err)
	}
	if t.pending.services {
		err := t.cfg.Datapath.SetServices(ctx, t.cluster.Services())
		t.pending.services = err != nil
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		t.backoff = min(max(2*t.backoff, firstRetry), lastRetry)
		if ctx.Err() == nil {
			t.log.Warn("the datapath keeps its last good state in part", "err", err, "retry", t.backoff)
		}
		return
	}
	t.backoff = 0
	t.log.Debug("handed over", "took", time.Since(began))
}

func (t *Translator) handOverPolicy(ctx context.Context) error {
	t.dropGood()
	state := t.cluster.Policy()
	if err := t.rules.Flush(); err != nil {
		// A disk that is full must not stop policy from being enforced; what suffers is attribution after a restart.
		t.log.Error("rule numbers are not saved", "err", err)
	}
	// A new policy has the datapath judge every known flow again, so one that changes nothing is not handed over: most
	// events about pods concern nobody here.
	if !samePolicy(t.inForce, state) {
		if err := t.cfg.Datapath.SetPolicy(ctx, state); err != nil {
			// Part of it may be in force already: what comes next is handed over even if it is what was there before.
			t.inForce = nil
			return fmt.Errorf("set policy: %w", err)
		}
		t.inForce = state
	}
	t.mu.Lock()
	t.enforced = t.cluster.EnforcedWith()
	close(t.renewed)
	t.renewed = make(chan struct{})
	t.mu.Unlock()
	return nil
}

// sleep waits for d and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
