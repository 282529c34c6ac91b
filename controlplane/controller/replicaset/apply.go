// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

// nameTries bounds the search for a free pod name.
const nameTries = 5

// apply carries out the plan. reason is the one of the ReplicaFailure condition, empty when all went well.
func (c *Controller) apply(ctx context.Context, rs *appsv1.ReplicaSet, p plan) (reason string, err error) {
	if p.create > 0 {
		err = slowStart(p.create, func() error { return c.create(ctx, rs) })
		if ending(err) {
			return "", nil
		}
		if err != nil {
			return "FailedCreate", err
		}
	}
	if len(p.remove) > 0 {
		if err := c.remove(ctx, rs, p.remove); err != nil {
			return "FailedDelete", err
		}
	}
	return "", nil
}

// ending reports that nothing can be created because the namespace is going away; that is no failure.
func ending(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// slowStart calls do n times, in parallel batches of 1, 2, 4, 8... It stops after the first batch with an error: when a quota
// or a broken template refuses one pod it refuses them all, and there is no need to ask hundreds of times.
func slowStart(n int, do func() error) error {
	for batch := 1; n > 0; batch *= 2 {
		size := min(batch, n)
		errs := make([]error, size)
		var all sync.WaitGroup
		for i := range size {
			all.Go(func() { errs[i] = do() })
		}
		all.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		n -= size
	}
	return nil
}

func (c *Controller) create(ctx context.Context, rs *appsv1.ReplicaSet) error {
	owner := key(rs.Namespace, rs.Name)
	var err error
	for range nameTries {
		pod := newPod(rs, rand.String(5))
		c.pending.Create(owner, pod.Name)
		_, err = c.client.CoreV1().Pods(rs.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err == nil || unclear(err) && c.exists(ctx, rs, pod.Name) {
			c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
			return nil
		}
		c.pending.Created(owner, pod.Name)
		if !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	if !ending(err) {
		c.events.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
	}
	return err
}

// unclear reports that a request may have been carried out in spite of its error.
func unclear(err error) bool {
	return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsInternalError(err) ||
		apierrors.ReasonForError(err) == metav1.StatusReasonUnknown
}

// exists asks the server for a pod of ours. The name was chosen here, so the answer is about this very creation.
func (c *Controller) exists(ctx context.Context, rs *appsv1.ReplicaSet, name string) bool {
	pod, err := c.client.CoreV1().Pods(rs.Namespace).Get(ctx, name, metav1.GetOptions{})
	return err == nil && metav1.IsControlledBy(pod, rs)
}

func (c *Controller) remove(ctx context.Context, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	owner := key(rs.Namespace, rs.Name)
	for _, pod := range pods {
		c.pending.Delete(owner, pod.UID)
	}
	errs := make([]error, len(pods))
	var all sync.WaitGroup
	for i, pod := range pods {
		all.Go(func() { errs[i] = c.removeOne(ctx, rs, pod) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c *Controller) removeOne(ctx context.Context, rs *appsv1.ReplicaSet, pod *corev1.Pod) error {
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if err == nil {
		c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
		return nil
	}
	c.pending.Deleted(key(rs.Namespace, rs.Name), pod.UID)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or replaced by another pod of that name: what was wanted
	}
	c.events.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
}
