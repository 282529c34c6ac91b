// SPDX-License-Identifier: Apache-2.0

// Package status writes pods' status to the API: only what changed, newest state only, one write at a time per pod.
package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// Owned are the conditions that the node writes; all others are left alone.
var Owned = []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady}

// Writer writes the status of many pods.
type Writer struct {
	client kubernetes.Interface
	log    *slog.Logger

	mu   sync.Mutex // guards pods and what they hold; never held across a call to the API
	pods map[types.UID]*entry
}

type entry struct {
	namespace, name string
	// base is what the API is known to have, want what it should have.
	base, want v1.PodStatus
	writing    bool
	// idle is closed when no write is under way or due; nil while idle.
	idle chan struct{}
}

// New returns a writer on client.
func New(client kubernetes.Interface, logger *slog.Logger) *Writer {
	return &Writer{client: client, log: logger, pods: map[types.UID]*entry{}}
}

// Set makes the API have want, soon. pod is the object as last seen; it is the base of the first write.
func (w *Writer) Set(ctx context.Context, pod *v1.Pod, want v1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[pod.UID]
	if e == nil {
		e = &entry{namespace: pod.Namespace, name: pod.Name, base: *pod.Status.DeepCopy()}
		w.pods[pod.UID] = e
	}
	e.want = want
	if e.writing || equality.Semantic.DeepEqual(e.base, want) {
		return
	}
	e.writing = true
	e.idle = make(chan struct{})
	go w.write(ctx, pod.UID, e)
}

// Flush waits until everything set for a pod is written.
func (w *Writer) Flush(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	var idle chan struct{}
	if e != nil && e.writing {
		idle = e.idle
	}
	w.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Forget drops a pod that is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

// write sends patches until the API has what is wanted.
func (w *Writer) write(ctx context.Context, uid types.UID, e *entry) {
	pause := 100 * time.Millisecond
	for {
		w.mu.Lock()
		base, want := e.base, e.want
		if ctx.Err() != nil || w.pods[uid] != e || equality.Semantic.DeepEqual(base, want) {
			e.writing = false
			close(e.idle)
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		err := w.patch(ctx, uid, e, base, want)
		switch {
		case err == nil:
			pause = 100 * time.Millisecond
			w.mu.Lock()
			e.base = want
			w.mu.Unlock()
			continue
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
			// The pod is gone, or another one has its name: nobody wants this status any more.
			w.Forget(uid)
			continue
		}
		w.log.Warn("pod status not written, will retry", "pod", e.namespace+"/"+e.name, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func (w *Writer) patch(ctx context.Context, uid types.UID, e *entry, base, want v1.PodStatus) error {
	patch, err := Patch(uid, base, want)
	if err != nil {
		return err
	}
	_, err = w.client.CoreV1().Pods(e.namespace).Patch(ctx, e.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// Patch is the strategic merge patch that turns base into want, for the pod with this UID only.
func Patch(uid types.UID, base, want v1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(v1.Pod{Status: base})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: want})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compute status patch: %w", err)
	}
	return patch, nil
}
