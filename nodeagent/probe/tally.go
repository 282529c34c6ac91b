// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Tally turns single outcomes into a verdict by the probe's thresholds.
type Tally struct {
	success, failure int
	successes        int
	failures         int
}

// NewTally takes the thresholds of p; unset ones are the API's defaults.
func NewTally(p *v1.Probe) *Tally {
	t := &Tally{success: int(p.SuccessThreshold), failure: int(p.FailureThreshold)}
	if t.success < 1 {
		t.success = 1
	}
	if t.failure < 1 {
		t.failure = 3
	}
	return t
}

// Add counts an outcome. decided says that it reaches a threshold, ok which one.
func (t *Tally) Add(good bool) (ok, decided bool) {
	if good {
		t.successes, t.failures = t.successes+1, 0
		return true, t.successes >= t.success
	}
	t.successes, t.failures = 0, t.failures+1
	return false, t.failures >= t.failure
}

// Run probes until ctx ends or report returns false. report gets each outcome and what the thresholds make of it.
// since is when the container started; a probe of an adopted container begins at a random moment of its period instead.
func Run(ctx context.Context, p *v1.Probe, t Target, since time.Time, adopted bool, report func(o Outcome, ok, decided bool) bool) {
	period := time.Duration(p.PeriodSeconds) * time.Second
	if period <= 0 {
		period = 10 * time.Second
	}
	first := time.Until(since.Add(time.Duration(p.InitialDelaySeconds) * time.Second))
	if adopted {
		first = max(first, rand.N(period))
	}
	timer := time.NewTimer(max(first, 0))
	defer timer.Stop()
	tally := NewTally(p)
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		begin := time.Now()
		o := Try(ctx, p, t)
		if ctx.Err() != nil {
			return
		}
		// An error of the probe itself says nothing about the container, except that it cannot be called healthy.
		ok, decided := false, false
		if !o.Errored {
			ok, decided = tally.Add(o.OK)
		}
		if !report(o, ok, decided) {
			return
		}
		timer.Reset(max(period-time.Since(begin), 0))
	}
}
