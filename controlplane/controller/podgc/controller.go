// SPDX-License-Identifier: Apache-2.0

package podgc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"skep.dev/skep/controlplane/controller/loop"
)

const (
	period = 20 * time.Second
	all    = "all" // the one key: a round looks at every pod
)

// Controller makes its rounds.
type Controller struct {
	*loop.Loop
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	pods    corelisters.PodLister
	now     func() time.Time
	missing map[string]time.Time // nodes by when they were first missed; used by the one worker only
}

// New makes the controller.
func New(env loop.Env) *Controller {
	core := env.Informers.Core().V1()
	c := &Controller{client: env.Client, nodes: core.Nodes().Lister(), pods: core.Pods().Lister(), now: env.Now, missing: map[string]time.Time{}}
	core.Nodes().Informer()
	c.Loop = loop.New("podgc", 1, env.Logger, c.round)
	loop.Watch(core.Pods().Informer(), loop.Handler(func(_, pod *corev1.Pod) {
		if pod != nil && pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil {
			c.Add(all) // nobody else will end it
		}
	}))
	c.Add(all)
	return c
}

func (c *Controller) round(ctx context.Context, _ string) (time.Duration, error) {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	now := c.now()
	c.look(pods, now)
	missing := func(node string) (time.Time, bool) { since, gone := c.missing[node]; return since, gone }
	var errs []error
	for _, v := range decide(pods, keepFinished, missing, c.outOfService, now) {
		if err := c.remove(ctx, v, now); err != nil {
			errs = append(errs, err)
		}
	}
	return period, errors.Join(errs...)
}

// look notes which nodes that pods name are missing, and since when.
func (c *Controller) look(pods []*corev1.Pod, now time.Time) {
	still := map[string]time.Time{}
	for _, pod := range pods {
		name := pod.Spec.NodeName
		if _, done := still[name]; name == "" || done {
			continue
		}
		if _, err := c.nodes.Get(name); !apierrors.IsNotFound(err) {
			continue
		}
		since, known := c.missing[name]
		if !known {
			since = now
		}
		still[name] = since
	}
	c.missing = still
}

func (c *Controller) outOfService(name string) bool {
	node, err := c.nodes.Get(name)
	if err != nil {
		return false
	}
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeOutOfService {
			return true
		}
	}
	return false
}

func (c *Controller) remove(ctx context.Context, v verdict, now time.Time) error {
	pod := v.pod
	if v.fail {
		// The cache may be behind: before a pod is failed for want of its node, the server confirms that.
		if _, err := c.client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{}); err == nil && !c.outOfService(pod.Spec.NodeName) {
			return nil
		} else if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("look for node %s: %w", pod.Spec.NodeName, err)
		}
		if err := c.fail(ctx, pod, v.message, now); err != nil {
			return err
		}
	}
	at := int64(0)
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &at,
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func (c *Controller) fail(ctx context.Context, pod *corev1.Pod, message string, now time.Time) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{
			"phase": corev1.PodFailed,
			"conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now),
				Reason: "DeletionByPodGC", Message: message,
			}},
		},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("fail pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
