// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"sync/atomic"
	"testing"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/check"
	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

const (
	// changesWatched is how many changes of a world are watched, questionsAsked how many questions are asked meanwhile, again and again.
	changesWatched = 40
	questionsAsked = 48
)

// TestVerdictsDuringAChangeAreTheOldOrTheNew has programs judge while the maps change, and compares with what they say before and after.
func TestVerdictsDuringAChangeAreTheOldOrTheNew(t *testing.T) {
	rnd := seeded(t)
	h := progtest.New(t, quick)
	changes, asked, changed := 0, 0, 0
	for changes < max(*casesFlag/400, 1) {
		b := newBench(t, h)
		g := newGenerator(rnd, b)
		g.fill()
		b.load()
		for range changesWatched {
			var log []string
			for range 1 + g.IntN(4) {
				log = append(log, g.change())
			}
			questions := g.questions()
			if len(questions) == 0 {
				continue
			}
			changes++
			w := answers(t, h, questions, func() {
				if err := h.Load(b.cluster.Policy()); err != nil {
					t.Fatal(err)
				}
			})
			asked += w.asked
			for i, q := range questions {
				if w.before[i] != w.after[i] {
					changed++
				}
				for answer := range w.during[i] {
					if mixed(w.before[i].Egress, answer.Egress, w.after[i].Egress) || mixed(w.before[i].Ingress, answer.Ingress, w.after[i].Ingress) {
						t.Fatalf("%q\n%+v\nbefore %+v\nduring %+v\nafter  %+v\n%s", log, q, w.before[i], answer, w.after[i], describe(b.world))
					}
				}
			}
		}
		b.close()
		if err := h.Load(&datapath.PolicyState{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d changes, %d answers meanwhile, %d questions with another answer in the end", changes, asked, changed)
}

// mixed says that a verdict is neither of two. A pod without a policy does not run yet: it may get sets before their addresses move.
func mixed(before, during, after datapath.Verdict) bool {
	return during != before && during != after && !before.Failed
}

// questions are about packets to and from this node's pods.
func (g *generator) questions() []datapath.Question {
	var out []datapath.Question
	for range questionsAsked {
		if p, ok := g.packet(); ok && !p.fromNode {
			out = append(out, datapath.Question{Src: p.Src, Dst: p.Dst, Protocol: datapath.Protocol(p.Protocol), Port: p.DstPort})
		}
	}
	return out
}

// said is what was said of each question: before, during and after a change.
type said struct {
	before, after []datapath.Answer
	during        []map[datapath.Answer]bool
	asked         int
}

func answers(t *testing.T, h *progtest.Harness, questions []datapath.Question, change func()) said {
	t.Helper()
	ask := func() []datapath.Answer {
		all, err := check.Ask(h.Programs[loader.ProgramCheck], questions)
		if err != nil {
			t.Error(err)
		}
		for i := range all {
			all[i].Generation = 0
		}
		return all
	}
	out := said{before: ask(), during: make([]map[datapath.Answer]bool, len(questions))}
	for i := range out.during {
		out.during[i] = map[datapath.Answer]bool{}
	}
	var over atomic.Bool
	asking, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for round := 0; !over.Load(); round++ {
			for i, answer := range ask() {
				out.during[i][answer] = true
				out.asked++
			}
			if round == 0 {
				close(asking)
			}
		}
	}()
	<-asking
	change()
	over.Store(true)
	<-done
	out.after = ask()
	return out
}
