// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/intent"
	"skep.dev/skep/nodeagent/ledger"
)

// datapathWait bounds how long a question to the datapath may take.
const datapathWait = 5 * time.Second

// policyAPI answers questions about the policies of the node.
type policyAPI struct {
	node   string
	ledger *ledger.Ledger
	rules  *intent.RuleTable
	dp     datapath.Datapath
}

func (p *policyAPI) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enforcement.StatusPath, p.status)
	mux.HandleFunc("GET "+enforcement.RulesPath, p.stats)
	return mux
}

// status answers with a Report, of the policies that the query names, by namespace, name or both. An empty namespace is the cluster's.
func (p *policyAPI) status(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	policies := slices.DeleteFunc(p.ledger.Policies(), func(p enforcement.Policy) bool {
		return q.Has("name") && p.Name != q.Get("name") || q.Has("namespace") && p.Namespace != q.Get("namespace")
	})
	answer(w, enforcement.Report{Node: p.node, Policies: policies})
}

// stats answers with what each rule has decided.
func (p *policyAPI) stats(w http.ResponseWriter, r *http.Request) {
	rules := p.rules.Current()
	ctx, cancel := context.WithTimeout(r.Context(), datapathWait)
	defer cancel()
	counters, err := p.dp.RuleCounters(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, intent.Stats(rules, counters))
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // a reader that went away is not our fault
}
