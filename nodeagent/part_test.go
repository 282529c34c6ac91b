// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestMetricsOfPartsAreServed(t *testing.T) {
	a := &agent{}
	a.parts = []part{podCounts{a}}
	a.podsKnown = make(chan struct{})
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(a.metrics(), promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if want := `skep_agent_pods{phase="Running"} 0`; !strings.Contains(answer.Body.String(), want) {
		t.Errorf("no %q in:\n%s", want, answer.Body)
	}
}
