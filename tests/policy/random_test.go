// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"skep.dev/skep/datapath/progtest"
	"skep.dev/skep/nodeagent/policymodel"
)

// casesEnv sets the default of -cases, for runs through make.
const casesEnv = "SKEP_POLICY_CASES"

var (
	casesFlag = flag.Int("cases", defaultCases(), "packets that TestRandomWorlds judges")
	seedFlag  = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one and prints it")
)

// packetsPerWorld makes well over 2,000 worlds of the default run.
const packetsPerWorld = 50

func defaultCases() int {
	if n, err := strconv.Atoi(os.Getenv(casesEnv)); err == nil && n > 0 {
		return n
	}
	return 150_000
}

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with: -run '%s' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestRandomWorlds(t *testing.T) {
	h := progtest.New(t)
	rnd := seeded(t)
	kinds := map[string]int{}
	worlds, cases := 0, 0
	for cases < *casesFlag {
		b := newBench(t, h)
		g := newGenerator(rnd, b)
		g.fill()
		b.load()
		o := newOracle(b.world)
		for range packetsPerWorld {
			p, ok := g.packet()
			if !ok {
				break
			}
			want, difference := b.compare(p)
			if difference != "" {
				t.Fatalf("world %d, packet %d: %s\n%s", worlds, cases, difference, describe(b.world))
			}
			if difference := o.compare(p.conn()); difference != "" {
				t.Fatalf("world %d, packet %d: %s\n%s", worlds, cases, difference, describe(b.world))
			}
			kinds[kind(p, want)]++
			for _, dir := range b.differing(p, want) {
				if allowed := []bool{want.Ingress.Allowed, want.Egress.Allowed}[dir]; allowed {
					kinds["would be denied"]++
				} else {
					kinds["would be allowed"]++
				}
			}
			cases++
		}
		b.close()
		worlds++
	}
	t.Logf("%d cases in %d worlds: %v", cases, worlds, kinds)
	if cases >= 100_000 && worlds < 2000 {
		t.Errorf("%d worlds, want 2,000 at least", worlds)
	}
	for _, k := range []string{"open", "egress rule", "ingress rule", "both rules", "denied egress", "denied ingress", "denied by a cluster policy", "accepted by a cluster policy", "would be denied", "would be allowed"} {
		if cases >= 10_000 && kinds[k]*20 < cases {
			t.Errorf("%d of %d cases are %q, want 5 %% at least", kinds[k], cases, k)
		}
	}
}

// kind sorts verdicts by what made them.
func kind(p probe, v policymodel.Verdict) string {
	switch {
	case p.fromNode:
		return "from node"
	case decidedByCluster(v) && !v.Allowed:
		return "denied by a cluster policy"
	case decidedByCluster(v):
		return "accepted by a cluster policy"
	case !v.Egress.Allowed:
		return "denied egress"
	case !v.Ingress.Allowed:
		return "denied ingress"
	case len(v.Egress.Isolating) > 0 && len(v.Ingress.Isolating) > 0:
		return "both rules"
	case len(v.Egress.Isolating) > 0:
		return "egress rule"
	case len(v.Ingress.Isolating) > 0:
		return "ingress rule"
	}
	return "open"
}

// decidedByCluster says that a rule of a ClusterNetworkPolicy decided one side, and nothing else denied.
func decidedByCluster(v policymodel.Verdict) bool {
	deciding := v.Egress
	if v.Egress.Allowed && (v.Egress.Cluster == nil || !v.Ingress.Allowed) {
		deciding = v.Ingress
	}
	return deciding.Cluster != nil
}

func describe(w policymodel.World) string {
	text, err := yaml.Marshal(w)
	if err != nil {
		return fmt.Sprintf("%+v", w)
	}
	return string(text)
}
