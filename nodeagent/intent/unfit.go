// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"skep.dev/skep/datapath"
	"skep.dev/skep/nodeagent/ledger"
)

// unfit says that a profile has more rules in one direction than a set can have. Its pods keep the sets that they have; pods that
// have none get none, and nothing passes.
type unfit struct {
	profile   string
	direction datapath.Direction
	places    int
	policies  []ledger.ID
}

func (u *unfit) Error() string {
	return fmt.Sprintf("%s have %d rules in direction %s, with the room between tiers, and %d fit (%s)",
		u.profile, u.places, u.direction, datapath.MaxRules, shortList(u.policies))
}

// shownNames is how many policies a message names.
const shownNames = 5

func shortList(policies []ledger.ID) string {
	var names []string
	for _, p := range policies[:min(len(policies), shownNames)] {
		names = append(names, p.String())
	}
	text := strings.Join(names, ", ")
	if more := len(policies) - shownNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// none says that no packet can be judged by these sets.
func (s *profileSets) none() bool { return s == nil || s.sets[datapath.Ingress].ID == "" }

// renew gives a profile its new sets if they fit. Otherwise it keeps the old ones, which hold on to what they held on to.
func (c *Cluster) renew(pr *profile) {
	old, built := pr.sets, c.buildSets(pr)
	if built.unfit == nil {
		pr.sets = built
		delete(c.unfit, pr)
		c.releaseSets(old)
		return
	}
	c.releaseSets(built)
	if old == nil {
		old = &profileSets{named: map[namedPort]bool{}}
		pr.sets = old
	}
	old.stale = false
	maps.Copy(old.named, built.named) // what made the new ones too large may go
	c.unfit[pr] = built.unfit
}

// measure finds out whether the sets are too large.
func (b *setBuilder) measure() {
	for _, set := range b.out.sets {
		if n := set.Places(); n > datapath.MaxRules {
			b.out.unfit = &unfit{profile: b.pr.String(), direction: set.Direction, places: n, policies: b.names()}
			return
		}
	}
}

func (b *setBuilder) names() []ledger.ID {
	var out []ledger.ID
	for _, p := range b.selecting {
		out = append(out, ledger.ID{Namespace: p.namespace, Name: strings.TrimPrefix(p.name, p.namespace+"/")})
	}
	for _, p := range slices.Concat(b.admin, b.baseline) {
		out = append(out, ledger.ID{Name: p.name})
	}
	return out
}

// String describes the pods of a profile.
func (pr *profile) String() string {
	if len(pr.labels) == 0 {
		return fmt.Sprintf("pods without labels in namespace %s", pr.namespace)
	}
	return fmt.Sprintf("pods with labels %s in namespace %s", pr.labels, pr.namespace)
}

// misfits lists what does not fit, after building what is stale.
func (c *Cluster) misfits() []*unfit {
	c.buildStale()
	return slices.SortedFunc(maps.Values(c.unfit), func(a, b *unfit) int { return strings.Compare(a.profile, b.profile) })
}

// withhold says that a policy cannot be in force and never was, as far as this agent knows. Pods that it selects do not start. At the
// start of the agent it may have been in force all the same, under the agent before: then nothing passes from and to those that run.
func (c *Cluster) withhold(key string, selects func(*profile) bool, sever bool) {
	c.withheld[key] = withheld{selects, sever}
	c.endpointsStale = true
}

// admit ends that.
func (c *Cluster) admit(key string) {
	if _, ok := c.withheld[key]; ok {
		delete(c.withheld, key)
		c.endpointsStale = true
	}
}

// withheld is a policy that is not in force.
type withheld struct {
	selects func(*profile) bool
	sever   bool
}

// lacks says that a profile's pods are not judged as they should be: those that run go on under what they have, new ones wait.
func (c *Cluster) lacks(pr *profile) bool {
	if c.unfit[pr] != nil {
		return true
	}
	for _, w := range c.withheld {
		if w.selects(pr) {
			return true
		}
	}
	return false
}

// severed says that nothing may pass from and to a profile's pods.
func (c *Cluster) severed(pr *profile) bool {
	if pr.sets.none() {
		return true
	}
	for _, w := range c.withheld {
		if w.sever && w.selects(pr) {
			return true
		}
	}
	return false
}
