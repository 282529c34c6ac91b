// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/nodeagent/podlog"
)

// removeOrphans cleans up after pods that the API does not have: deleted while no agent ran. It is called once the pods of this
// node have been listed, never before: a list that is missing is not an empty one.
func (a *agent) removeOrphans(ctx context.Context, pods []*v1.Pod) {
	known := map[types.UID]bool{}
	logs := map[string]bool{}
	for _, p := range pods {
		known[p.UID] = true
		logs[podlog.PodDir(p.Namespace, p.Name, string(p.UID))] = true
	}
	for uid := range a.traces() {
		if known[types.UID(uid)] {
			continue
		}
		a.log.Info("removing what is left of a pod that no longer exists", "pod", uid)
		err := retry(ctx, 200*time.Millisecond, 5*time.Second, func() error { return a.remove(ctx, uid, true) }, func(err error) {
			a.log.Warn("orphan not removed, will retry", "pod", uid, "err", err)
		})
		if err != nil {
			return
		}
		if err := a.saved.Delete(uid); err != nil {
			a.log.Warn("orphaned checkpoint not removed", "pod", uid, "err", err)
		}
	}
	entries, err := os.ReadDir(a.cfg.LogRoot)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !logs[e.Name()] && strings.Count(e.Name(), "_") == 2 {
			if err := os.RemoveAll(filepath.Join(a.cfg.LogRoot, e.Name())); err != nil {
				a.log.Warn("orphaned logs not removed", "dir", e.Name(), "err", err)
			}
		}
	}
}

// traces are the UIDs of all pods that have anything on this node.
func (a *agent) traces() map[string]bool {
	out := map[string]bool{}
	a.mu.Lock()
	for uid := range a.adopted {
		out[uid] = true
	}
	a.mu.Unlock()
	for _, p := range a.net.Pods() {
		out[p.UID] = true
	}
	add := func(names []string, err error) {
		if err != nil {
			a.log.Warn("orphans not looked for everywhere", "err", err)
		}
		for _, n := range names {
			out[n] = true
		}
	}
	add(a.volumes.Pods())
	add(a.saved.Keys())
	if entries, err := os.ReadDir(filepath.Join(a.cfg.RunDir, "pods")); err == nil {
		for _, e := range entries {
			out[e.Name()] = true
		}
	}
	for _, name := range a.cgroups.Children(a.cfg.CgroupParent) {
		if uid, ok := strings.CutPrefix(name, "pod"); ok {
			out[uid] = true
		}
	}
	return out
}
