// SPDX-License-Identifier: Apache-2.0

// Package selfcheck finds out, over and over, whether a node does what policy says, in two ways that share nothing.
//
// The maps are compared with what was written into them, entry by entry, and what differs is written again. And samples of connections
// are put to the loaded programs and to package policymodel, which reads the objects of the API by itself: that finds also what was
// written wrongly in the first place.
package selfcheck

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"skep.dev/skep/datapath"
)

// ConditionType is the node condition: True says that the node did not do what policy says, now or within the last minutes.
const ConditionType corev1.NodeConditionType = "NetworkPolicyDrift"

const (
	// beat is how often it is looked whether something is due: samples every beatsPerRound beats, or at each one while there is a
	// suspicion; the maps every verifyEvery, and when a suspicion is new.
	beat          = time.Second
	beatsPerRound = 5
	verifyEvery   = 15 * time.Second
	// samplesPerRound are asked in a round, as far as budget lasts: a few thousandths of a processor.
	samplesPerRound = 32
	budget          = 20 * time.Millisecond
	// shown is how long a repair stays in the condition.
	shown = 5 * time.Minute
	// maxNamed bounds how many differences a message names.
	maxNamed = 3
)

// Datapath is what a Checker needs of datapath.Datapath.
type Datapath interface {
	Endpoints(ctx context.Context) ([]datapath.Endpoint, error)
	Ask(ctx context.Context, questions []datapath.Question) ([]datapath.Answer, error)
	Verify(ctx context.Context) ([]datapath.Repair, error)
}

// Config is what a Checker needs; all of it.
type Config struct {
	NodeName string
	Datapath Datapath
	// Objects reads what the API holds from caches. Settled says that all of it, but for the last moment's, is in the datapath.
	Objects func() (Objects, error)
	Settled func() bool
	// Changed is told that NodeConditions may say something else. Event records a warning about the node.
	Changed func()
	Event   func(message string)
	Rand    *rand.Rand
	Now     func() time.Time
	Logger  *slog.Logger
}

// Checker checks one node. It is a part of the agent: it has a node condition, and metrics.
type Checker struct {
	cfg Config
	log *slog.Logger
	// suspects and verified belong to the goroutine of Run.
	suspects suspects
	verified time.Time

	mu       sync.Mutex // guards what follows
	samples  int
	drift    map[string]int // by kind
	repaired map[string]int // by map
	certain  []string
	repair   string // the last, and when
	at       time.Time
	failed   string // why the last look at the maps came to nothing
}

// Kinds of drift.
const (
	entryKind   = "entry"
	verdictKind = "verdict"
)

// New starts nothing.
func New(cfg Config) *Checker {
	return &Checker{
		cfg: cfg, log: cfg.Logger.With("component", "selfcheck"), suspects: suspects{},
		drift: map[string]int{entryKind: 0, verdictKind: 0}, repaired: map[string]int{},
	}
}

// Run checks until ctx ends.
func (c *Checker) Run(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		suspicious := len(c.suspects)
		if suspicious > 0 || n%beatsPerRound == 0 {
			if err := c.round(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("policy was not sampled, will retry", "err", err)
			}
		}
		if len(c.suspects) > suspicious || c.cfg.Now().Sub(c.verified) >= verifyEvery {
			c.verify(ctx)
		}
	}
}

// verify compares and repairs the maps.
func (c *Checker) verify(ctx context.Context) {
	c.verified = c.cfg.Now()
	repairs, err := c.cfg.Datapath.Verify(ctx)
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	before := c.failed
	c.failed = ""
	if err != nil {
		c.failed = err.Error()
	}
	failed := c.failed
	c.mu.Unlock()
	if failed != before {
		c.cfg.Changed()
		if err != nil {
			c.log.Warn("the maps were not compared in whole, will retry", "err", err)
		}
	}
	if len(repairs) > 0 {
		c.repairedNow(repairs)
	}
}

func (c *Checker) repairedNow(repairs []datapath.Repair) {
	text := describeRepairs(repairs)
	c.mu.Lock()
	for _, r := range repairs {
		c.repaired[r.Map] += r.Entries()
		c.drift[entryKind] += r.Entries()
	}
	c.repair, c.at = text, c.cfg.Now()
	c.mu.Unlock()
	c.log.Error("entries were not as they were written, and are written again", "maps", text)
	c.cfg.Event("Entries of maps were not as they were written, and have been written again: " + text)
	c.cfg.Changed()
}

func describeRepairs(repairs []datapath.Repair) string {
	var out []string
	for _, r := range repairs {
		var parts []string
		for _, p := range []struct {
			n    int
			what string
		}{{r.Missing, "missing"}, {r.Changed, "changed"}, {r.Surplus, "too many"}} {
			if p.n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
			}
		}
		out = append(out, r.Map+" "+strings.Join(parts, ", "))
	}
	return strings.Join(out, "; ")
}

// round asks the suspects again, and new samples.
func (c *Checker) round(ctx context.Context) error {
	if !c.cfg.Settled() && len(c.suspects) == 0 {
		return nil // nothing can be learnt from a node on the move
	}
	atRest := c.cfg.Settled()
	v, err := c.look(ctx)
	if err != nil {
		return err
	}
	questions := slices.Collect(maps.Keys(c.suspects))
	for range samplesPerRound {
		// None may be asked twice, or be counted as wrong twice.
		if q, ok := v.sample(c.cfg.Rand); ok && !slices.Contains(questions, q) {
			questions = append(questions, q)
		}
	}
	answers, err := c.cfg.Datapath.Ask(ctx, questions)
	if err != nil || len(answers) == 0 {
		return err
	}
	differences := map[datapath.Question]string{}
	began := c.cfg.Now()
	compared := 0
	for ; compared < len(answers) && (compared <= len(c.suspects) || c.cfg.Now().Sub(began) < budget); compared++ {
		if text := v.difference(questions[compared], answers[compared]); text != "" {
			differences[questions[compared]] = text
		}
	}
	again, err := c.cfg.Datapath.Ask(ctx, questions[:1])
	if err != nil {
		return err
	}
	atRest = atRest && c.cfg.Settled() && again[0].Generation == answers[0].Generation
	c.weigh(questions[:compared], differences, atRest)
	return nil
}

// look reads the caches, and which pods the datapath has.
func (c *Checker) look(ctx context.Context) (*view, error) {
	endpoints, err := c.cfg.Datapath.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	attached := map[string]bool{}
	for _, ep := range endpoints {
		attached[string(ep.ID)] = true
	}
	objects, err := c.cfg.Objects()
	if err != nil {
		return nil, err
	}
	return newView(c.cfg.NodeName, objects, attached), nil
}

func (c *Checker) weigh(asked []datapath.Question, differences map[datapath.Question]string, atRest bool) {
	fresh := c.suspects.weigh(asked, differences, atRest)
	certain := c.suspects.certain()
	c.mu.Lock()
	c.samples += len(asked)
	c.drift[verdictKind] += len(fresh)
	changed := !slices.Equal(c.certain, certain)
	c.certain = certain
	c.mu.Unlock()
	for _, text := range fresh {
		c.log.Error("the node does not do what policy says", "connection", text)
	}
	if len(fresh) > 0 {
		c.cfg.Event("The node does not do what policy says: " + shorten(fresh))
	}
	if changed {
		c.cfg.Changed()
	}
}

func shorten(texts []string) string {
	out := strings.Join(texts[:min(len(texts), maxNamed)], ". ")
	if more := len(texts) - maxNamed; more > 0 {
		out += fmt.Sprintf(". And %d more", more)
	}
	return out
}

// NodeConditions says whether the node does what policy says.
func (c *Checker) NodeConditions() []corev1.NodeCondition {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := corev1.NodeCondition{
		Type: ConditionType, Status: corev1.ConditionFalse, Reason: "InAgreement", Message: "what is loaded agrees with the policies",
	}
	switch {
	case len(c.certain) > 0:
		out.Status, out.Reason = corev1.ConditionTrue, "VerdictDiffers"
		out.Message = "the node does not do what policy says: " + shorten(c.certain)
	case c.repair != "" && c.cfg.Now().Sub(c.at) < shown:
		out.Status, out.Reason = corev1.ConditionTrue, "Repaired"
		out.Message = fmt.Sprintf("entries were not as they were written, and were written again at %s: %s", c.at.UTC().Format(time.RFC3339), c.repair)
	case c.failed != "":
		out.Status, out.Reason, out.Message = corev1.ConditionUnknown, "NotCompared", c.failed
	}
	return []corev1.NodeCondition{out}
}

var (
	samplesDesc = prometheus.NewDesc("skep_policy_selfcheck_samples_total",
		"Connections about which the loaded programs were asked, to compare their answer with what the policies say.", nil, nil)
	driftDesc = prometheus.NewDesc("skep_policy_selfcheck_drift_total",
		"Differences between what policy says and what is loaded: entries of maps that were not as they were written, and verdicts.", []string{"kind"}, nil)
	repairedDesc = prometheus.NewDesc("skep_datapath_repaired_entries_total",
		"Entries that were not as they were written, and were written again.", []string{"map"}, nil)
)

// Describe implements prometheus.Collector.
func (c *Checker) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{samplesDesc, driftDesc, repairedDesc} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Checker) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out <- prometheus.MustNewConstMetric(samplesDesc, prometheus.CounterValue, float64(c.samples))
	for kind, n := range c.drift {
		out <- prometheus.MustNewConstMetric(driftDesc, prometheus.CounterValue, float64(n), kind)
	}
	for name, n := range c.repaired {
		out <- prometheus.MustNewConstMetric(repairedDesc, prometheus.CounterValue, float64(n), name)
	}
}
