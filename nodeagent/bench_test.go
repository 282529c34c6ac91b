// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/runtime/runtimetest"
)

// TestStartLatency prints how long a pod takes from its creation to Running in the API, beside creating and starting a
// bare container of the same image. It asserts nothing: figures belong to a quiet machine.
func TestStartLatency(t *testing.T) {
	n := newNode(t)
	n.up()
	const rounds = 10
	var pods, bare []time.Duration
	for i := range rounds {
		name := fmt.Sprintf("p%d", i)
		begin := time.Now()
		n.create(testPod(name, shell("main", "trap 'exit 0' TERM; while true; do sleep 0.1; done")))
		n.await(name, "running", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning })
		pods = append(pods, time.Since(begin))
		bare = append(bare, n.bareStart(t, i))
		n.remove(name)
	}
	slices.Sort(pods)
	slices.Sort(bare)
	t.Logf("pod created to Running: p50 %v max %v; bare create+start: p50 %v max %v; ratio %.2f",
		pods[rounds/2], pods[rounds-1], bare[rounds/2], bare[rounds-1], float64(pods[rounds/2])/float64(bare[rounds/2]))
}

func (n *node) bareStart(t *testing.T, i int) time.Duration {
	t.Helper()
	ctx := context.Background()
	img, err := n.ctr.Client.GetImage(ctx, runtimetest.Image)
	if err != nil {
		t.Fatal(err)
	}
	return runtimetest.BareStart(t, n.ctr, img, n.cfg.CgroupParent, fmt.Sprintf("bare%d", i))
}
